"""What a training is told.

Every setting says its unit, where it comes from and what it is if nobody says otherwise; the flags of `adapterhub train`, the
TOML file of `--config` and the schemas are these models.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from adapterhub.documents.base import Document, PathText

Technique = Literal["textual-inversion", "dreambooth", "lora", "hypernetwork"]
Schedule = Literal["constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"]


def setting(default: Any, description: str, unit: str = "", source: str = "", **limits: Any) -> Any:
    """A field with its unit and source; `default` is ... where somebody has to say it."""
    told: Any = {name: text for name, text in (("unit", unit), ("source", source)) if text}
    return Field(default, description=description, json_schema_extra=told, **limits)


Many = Annotated[int, Field(ge=1)]
Factor = Annotated[float, Field(gt=0)]


class TrainingSettings(Document):
    """What all four trainers are told."""

    model_config = ConfigDict(allow_inf_nan=False)
    technique: ClassVar[Technique]

    base: PathText = setting(..., "the model to train on: a diffusers folder, a single file, or a Hub id")
    images: PathText = setting(..., "a folder of pictures; captions stand in NAME.txt beside them or in metadata.jsonl")
    output: PathText = setting(..., "the folder for the result, its samples and its log")

    resolution: int | None = setting(
        None, "the side of the square that pictures are brought to; the model's own if not given", "pixels", ge=8
    )
    crop: Literal["center", "random"] = setting("center", "what is kept of a picture that is no square")
    flip: bool = setting(False, "mirror half of the pictures, by chance")
    captions: bool = setting(True, "read the captions beside the pictures, where there are any")
    caption_dropout: float = setting(
        0.0,
        "the share of captions that are left empty, for classifier-free guidance",
        "share",
        "Ho and Salimans 2022 (0.1–0.2)",
        ge=0,
        le=1,
    )

    steps: int = setting(..., "optimizer steps", "steps", ge=1)
    batch: int = setting(
        1, "pictures a step, over all processes and micro-batches: nothing is scaled by it", "pictures", ge=1
    )
    micro_batch: int | None = setting(
        None, "pictures that a process computes at once; the rest of its share is accumulated", "pictures", ge=1
    )
    learning_rate: float = setting(..., "of the optimizer, not scaled by anything", "per step", gt=0)
    schedule: Schedule = setting(
        "constant", "how the learning rate goes on, by its name in diffusers", source="diffusers.optimization"
    )
    warmup: int = setting(0, "steps in which the learning rate rises from 0", "steps", ge=0)
    optimizer: str = setting("torch.optim:AdamW", "MODULE:CLASS of any optimizer of torch's kind, as bitsandbytes.optim:AdamW8bit",
                             source="Loshchilov and Hutter 2019", pattern=r"^[\w.]+:\w+$")  # fmt: skip
    optimizer_options: dict[str, Any] = setting({}, "what else the optimizer is made with, as {weight_decay = 0.01}")
    max_grad_norm: float = setting(
        1.0, "gradients are scaled down to this norm; 0: never", "‖g‖₂", "diffusers examples", ge=0
    )

    prediction: Literal["epsilon", "v_prediction"] | None = setting(None, "what the model predicts; what its scheduler says if not given",
                                                                    source="Salimans and Ho 2022, appendix D (v)")  # fmt: skip
    zero_terminal_snr: bool = setting(False, "rescale the noise schedule so that its last step is noise alone; for v-prediction",
                                      source="Lin et al. 2023, algorithm 1")  # fmt: skip
    snr_gamma: float | None = setting(
        None, "γ of the min-SNR weights; none if not given", "SNR", "Hang et al. 2023 (γ = 5)", gt=0
    )
    noise_offset: float = setting(
        0.0, "the strength of noise that is the same all over a channel", "σ", "Guttenberg 2023 (0.1)", ge=0
    )

    seed: int = setting(0, "all randomness is a function of it, of the purpose and of the step", ge=0)
    precision: Literal["no", "bf16", "fp16"] = setting(
        "no", "autocast, and the dtype of what is frozen; what is trained is float32", source="accelerate"
    )
    gradient_checkpointing: bool = setting(
        False, "compute activations again in the backward pass: less memory, more time", source="Chen et al. 2016"
    )

    save_every: int = setting(
        0, "steps between states that a killed run goes on from; 0: only when told to stop", "steps", ge=0
    )
    sample_every: int = setting(0, "steps between sample grids; 0: only at the end", "steps", ge=0)
    sample_prompts: tuple[str, ...] = setting((), "what is sampled; chosen by the technique if not given")
    sample_count: int = setting(4, "pictures of each prompt, with the seeds 0, 1, …; 0: no samples", "pictures", ge=0)
    sample_steps: int = setting(25, "denoising steps of a sample", "steps", "Song et al. 2021 (DDIM)", ge=1)
    guidance: float = setting(7.5, "guidance scale of samples", "w", "Ho and Salimans 2022", ge=0)
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = setting(
        (), "who else is told of losses", source="accelerate"
    )

    @field_validator("layouts", check_fields=False)
    @classmethod
    def _one_each(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if names is not None and (not names or len({*names}) < len(names)):
            raise ValueError("name one layout at least, and none twice")
        return names

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.micro_batch is not None and self.micro_batch > self.batch:
            raise ValueError(f"micro_batch is {self.micro_batch}, and a whole batch has {self.batch} pictures")
        if self.warmup > self.steps:
            raise ValueError(f"warmup is {self.warmup}, and there are {self.steps} steps")
        return self


class PriorSettings(TrainingSettings):
    """Prior preservation, which DreamBooth defines and LoRAs can have too."""

    prompt: str | None = setting(
        None, "what pictures without a caption show: a [identifier] [class noun]", source="Ruiz et al. 2023, 3.2"
    )
    class_prompt: str | None = setting(
        None,
        "what the class is called: a [class noun]; with it, the prior is preserved",
        source="Ruiz et al. 2023, 3.3",
    )
    class_images: PathText | None = setting(
        None, "a folder of pictures of the class; generated by the base if not given"
    )
    class_count: int = setting(200, "pictures of the class", "pictures", "Ruiz et al. 2023 (1000; fewer do)", ge=1)
    prior_weight: float = setting(1.0, "λ of the prior-preservation loss", "λ", "Ruiz et al. 2023, equation 2", ge=0)


class TextualInversionSettings(TrainingSettings):
    """Textual Inversion: new words for a frozen model."""

    technique = "textual-inversion"

    token: str = setting(..., "the new word, which must not be in the vocabulary", pattern=r"^<[a-z0-9-]+>$")
    initial_words: str = setting(
        ...,
        "a word, or several that the vectors are shared out to, whose vectors are where training begins",
        source="Gal et al. 2022, 4 (a coarse descriptor)",
    )
    vectors: int = setting(1, "rows of the embedding", "vectors", "Gal et al. 2022 (1); A1111 (1–16)", ge=1, le=64)
    templates: str = setting(
        "object",
        "sentences around the word: object, style, or a file of lines with {}",
        source="Gal et al. 2022 (of CLIP's ImageNet list)",
    )
    keep_norm: bool = setting(
        False, "bring each vector to the median norm of the vocabulary after every step", source="OneTrainer"
    )
    layouts: tuple[str, ...] | None = setting(
        None,
        "the layouts that the result is written in; if not given, diffusers, a1111 and kohya, as far as they hold it",
    )
    steps: int = setting(3000, "optimizer steps", "steps", "Gal et al. 2022 (5000 at batch 4 on 2 GPUs)", ge=1)
    batch: int = setting(
        4, "pictures a step, over all processes and micro-batches: nothing is scaled by it", "pictures", ge=1
    )
    learning_rate: float = setting(
        5e-3,
        "of the optimizer, not scaled by anything",
        "per step",
        "A1111; Gal et al. 2022: 0.005 × batch × GPUs",
        gt=0,
    )


class LoraSettings(PriorSettings):
    """LoRA: h = W₀x + (α/r)·BAx."""

    technique = "lora"

    rank: int = setting(16, "r, the rows of A", "r", "Hu et al. 2021, 4.1", ge=1)
    alpha: float | None = setting(
        None, "α; the rank if not given, so that its factor is 1", "α", "Hu et al. 2021, 4.1", gt=0
    )
    targets: tuple[str, ...] = setting(
        ("attention",),
        "sets (attention, cross-attention, feed-forward, convolutions, all) or patterns of module paths, as *.attn2.to_v",
    )
    text_targets: tuple[str, ...] = setting(
        (), "the same for the text encoders: attention, feed-forward, all, or patterns; not trained if not given"
    )
    ranks: dict[str, Many] = setting({}, "other ranks by pattern of module paths; the last that matches counts", "r")
    alphas: dict[str, Factor] = setting({}, "other α by pattern of module paths; the last that matches counts", "α")
    initialization: Literal["gaussian", "kaiming"] = setting(
        "gaussian", "of A: N(0, 1/r²), or uniform as Kohya's and Microsoft's", source="diffusers, peft; loralib"
    )
    dora: bool = setting(False, "train magnitudes apart from directions", source="Liu et al. 2024")
    rank_stabilized: bool = setting(False, "α/√r in place of α/r", source="Kalajdzievski 2023")
    layouts: tuple[str, ...] = setting(("kohya", "diffusers"), "the layouts that the result is written in")
    steps: int = setting(1000, "optimizer steps", "steps", ge=1)
    learning_rate: float = setting(
        1e-4, "of the optimizer, not scaled by anything", "per step", "diffusers examples; cloneofsimo", gt=0
    )


class DreamBoothSettings(PriorSettings):
    """DreamBooth: a whole model learns [identifier] [class noun]."""

    technique = "dreambooth"

    prompt: str = setting(
        ..., "what pictures without a caption show: a [identifier] [class noun]", source="Ruiz et al. 2023, 3.2"
    )
    text_encoder: bool = setting(
        False, "train the text encoders too", source="Ruiz et al. 2023, 3.2 (Imagen's stayed frozen)"
    )
    layouts: tuple[Literal["diffusers", "single-file"], ...] = setting(
        ("diffusers",), "the layouts that the result is written in"
    )
    dtype: Literal["fp32", "fp16", "bf16"] | None = setting(
        None, "of the trained weights in the result; that which the base has them in if not given"
    )
    extract_rank: int | None = setting(None, "also write what was learned as a LoRA of this rank", "r", ge=1)
    steps: int = setting(800, "optimizer steps", "steps", "Ruiz et al. 2023 (about 1000)", ge=1)
    learning_rate: float = setting(
        5e-6, "of the optimizer, not scaled by anything", "per step", "Ruiz et al. 2023, for Stable Diffusion", gt=0
    )


class HypernetworkSettings(TrainingSettings):
    """A1111's hypernetwork: small nets that change what attention makes its keys and values of."""

    technique = "hypernetwork"

    prompt: str | None = setting(None, "what pictures without a caption show")
    widths: Literal["all", "text"] | tuple[int, ...] = setting(
        "all",
        "the context widths that get nets: all, text (of the prompt alone), or numbers",
        source="A1111 (768, 320, 640, 1280)",
    )
    layer_structure: tuple[float, ...] = setting(
        (1, 2, 1), "the widths of the layers, in multiples of the context's", source="A1111"
    )
    activation: str = setting(
        "linear", "A1111's name of an activation", source="A1111 modules/hypernetworks/hypernetwork.py"
    )
    activate_output: bool = setting(False, "activate the last layer too", source="A1111")
    layer_norm: bool = setting(False, "a LayerNorm behind each layer; ComfyUI reads such nets wrongly", source="A1111")
    dropout: tuple[float, ...] = setting(
        (), "the dropout of each layer, 0 for the first and the last", "share", "A1111 (0.3)"
    )
    initialization: Literal["Normal", "XavierUniform", "XavierNormal", "KaimingUniform", "KaimingNormal"] = setting(
        "Normal", "of the weights", source="A1111 (Normal: N(0, 0.01²))"
    )
    layouts: tuple[str, ...] = setting(("a1111", "safetensors"), "the layouts that the result is written in")
    steps: int = setting(10000, "optimizer steps", "steps", "A1111's practice", ge=1)
    learning_rate: float = setting(1e-5, "of the optimizer, not scaled by anything", "per step", "A1111", gt=0)
