"""Folders with our documents, opened by diffusers and transformers without a network.

Tokenizers and configurations at full size; whole pipelines with tiny weights, which diffusers and transformers save.
"""

import json
import logging
import math
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy
import pytest
import torch
import transformers
from PIL import Image

from adapterhub import architectures
from adapterhub.architectures.pipeline import documents
from adapterhub.files.tokenizer import tokenizer_from

Documents = dict[str, Any]
COMPONENTS = [(name, component) for name in architectures.NAMES for component in architectures.get(name).weights]
START, END = 49406, 49407
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "projection_dim": 32,
}
VAE = {"block_out_channels": [8, 8, 8, 8], "norm_num_groups": 4}
UNET = {"norm_num_groups": 4, "attention_head_dim": 2, "addition_time_embed_dim": 8, "transformer_layers_per_block": 1}
# Widths of all text encoders together, and of the last one with that of the numbers (six, in the refiner five).
WIDTHS = {"sd1": (32, None), "sd2": (32, None), "sdxl": (64, 32 + 6 * 8), "sdxl-refiner": (32, 32 + 5 * 8)}
SIZE = {"height": 64, "width": 64}
RED, ALL = Image.new("RGB", (64, 64), "red"), Image.new("L", (64, 64), 255)
PIPELINES = [
    ("sd1", [], "StableDiffusionPipeline", SIZE),
    ("sd1", ["inpainting"], "StableDiffusionInpaintPipeline", {**SIZE, "image": RED, "mask_image": ALL}),
    ("sd1", ["instruct-pix2pix"], "StableDiffusionInstructPix2PixPipeline", {"image": RED}),
    ("sd2", [], "StableDiffusionPipeline", SIZE),
    ("sd2", ["v-prediction"], "StableDiffusionPipeline", SIZE),
    ("sdxl", [], "StableDiffusionXLPipeline", SIZE),
    ("sdxl", ["v-prediction", "zero-snr"], "StableDiffusionXLPipeline", SIZE),
    ("sdxl", ["inpainting"], "StableDiffusionXLInpaintPipeline", {**SIZE, "image": RED, "mask_image": ALL}),
    ("sdxl", ["instruct-pix2pix"], "StableDiffusionXLInstructPix2PixPipeline", {**SIZE, "image": RED}),
    ("sdxl-refiner", [], "StableDiffusionXLImg2ImgPipeline", {"image": RED, "strength": 1.0}),
    ("sdxl-refiner", ["inpainting"], "StableDiffusionXLInpaintPipeline", {**SIZE, "image": RED, "mask_image": ALL}),
]  # fmt: skip


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*address: object) -> None:
        raise AssertionError(f"a connection to {address[1:]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


class Said(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "requires torchvision" not in record.getMessage():  # of what diffusers imports
            self.messages.append(record.getMessage())


@pytest.fixture
def said() -> Iterator[list[str]]:
    """Every warning of the libraries about what they read."""
    handler, loggers = Said(), [logging.getLogger(name) for name in ("diffusers", "transformers")]
    for logger in loggers:
        logger.addHandler(handler)
    yield handler.messages
    for logger in loggers:
        logger.removeHandler(handler)


def whole(name: str, *variants: str) -> Documents:
    return documents(name, list(architectures.get(name).weights), variants)


def written(folder: Path, files: Documents) -> Path:
    for name, file in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file if name.endswith(".txt") else json.dumps(file, ensure_ascii=False), "utf-8")
    return folder


def live(config: Documents) -> torch.nn.Module:
    """The model of a configuration, as its library makes it."""
    if "_class_name" in config:
        model: torch.nn.Module = getattr(diffusers, config["_class_name"]).from_config(config)
        return model
    model_class = getattr(transformers, config["architectures"][0])
    made: torch.nn.Module = model_class(model_class.config_class(**config))
    return made


def small(name: str, files: Documents) -> Documents:
    """The documents with tiny widths; the vocabulary stays, since the tokenizers do."""
    cross, numbers = WIDTHS[name]
    unet = files["unet/config.json"]
    wanted = {"block_out_channels": [8] * len(unet["block_out_channels"]), "cross_attention_dim": cross, **UNET}
    wanted |= {"projection_class_embeddings_input_dim": numbers}
    tiny = {"unet": {key: value for key, value in wanted.items() if key in unet}, "vae": VAE}
    found = dict(files)
    for file in files:
        component, _, last = file.partition("/")
        if last == "config.json":
            found[file] = {**files[file], **tiny.get(component, TEXT)}
    return found


def folder_of(path: Path, name: str, variants: list[str], dtype: torch.dtype = torch.float32) -> Path:
    """A folder with tiny weights, saved by their libraries, and our documents laid over theirs."""
    torch.manual_seed(0)
    files = small(name, whole(name, *variants))
    for component in architectures.get(name).weights:
        model: Any = live(files[f"{component}/config.json"])
        model.to(dtype).save_pretrained(path / component)
    return written(path, files)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("sdxl"), documents("sdxl", ["text_encoder", "text_encoder_2"]))


# By the tokenizer of openai/CLIP itself, `SimpleTokenizer().encode`.
IDS = [
    ("a photo of a cat", [320, 1125, 539, 320, 2368]),
    ("*", [265]),
    ("A  Photo\nof", [320, 1125, 539]),
    ("hello world", [3306, 1002]),
    ("2,000 dogs", [273, 267, 271, 271, 271, 3255]),
    ("a café, isn't it?", [320, 15304, 267, 2923, 713, 585, 286]),
    ("猫", [163, 234, 360]),
    ("", []),
]


@pytest.mark.parametrize(
    "reader", [transformers.CLIPTokenizer, transformers.CLIPTokenizerFast, transformers.AutoTokenizer]
)
@pytest.mark.parametrize(("folder", "pad"), [("tokenizer", END), ("tokenizer_2", 0)])
def test_transformers_reads_our_tokenizer(
    reader: Any, folder: str, pad: int, tokenizers: Path, said: list[str]
) -> None:
    read = reader.from_pretrained(tokenizers / folder)
    assert isinstance(read, transformers.CLIPTokenizer)
    assert (len(read), read.vocab_size, read.model_max_length) == (49408, 49408, 77)
    assert (read.bos_token_id, read.eos_token_id, read.unk_token_id, read.pad_token_id) == (START, END, END, pad)
    for text, ids in IDS:
        assert read(text).input_ids == [START, *ids, END]
    assert read("*", padding="max_length").input_ids == [START, 265, END, *[pad] * 74]
    assert said == []


def added(token: str) -> Documents:
    return {"content": token, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}


@pytest.mark.parametrize(("folder", "pad"), [("tokenizer", "<|endoftext|>"), ("tokenizer_2", "!")])
def test_it_reads_the_same_from_the_form_that_the_published_folders_have(
    folder: str, pad: str, tokenizers: Path, tmp_path: Path
) -> None:
    names = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    special = {name: added(token) for name, token in names.items()}
    published = {name: {"__type": "AddedToken", **token} for name, token in special.items()}
    files = tokenizer_from(tokenizers / folder) | {
        "special_tokens_map.json": {**special, "pad_token": pad},
        "tokenizer_config.json": {
            **published, "add_prefix_space": False, "do_lower_case": True, "errors": "replace", "model_max_length": 77,
            "pad_token": "<|endoftext|>", "tokenizer_class": "CLIPTokenizer",
        },
    }  # fmt: skip
    theirs = transformers.CLIPTokenizer.from_pretrained(written(tmp_path, files))
    ours = transformers.CLIPTokenizer.from_pretrained(tokenizers / folder)
    for text in ("Hello!! world !", "naïve 猫 🐱", "<|startoftext|> a <|endoftext|>", "<|STARTOFTEXT|> A", "it's"):
        assert ours(text, padding="max_length").input_ids == theirs(text, padding="max_length").input_ids


def test_a_tokenizer_that_transformers_saved_is_read_and_reads_the_same(tokenizers: Path, tmp_path: Path) -> None:
    ours = transformers.CLIPTokenizer.from_pretrained(tokenizers / "tokenizer_2")
    ours.save_pretrained(tmp_path / "saved")
    again = written(tmp_path / "again", tokenizer_from(tmp_path / "saved"))
    theirs = transformers.CLIPTokenizer.from_pretrained(again)
    assert theirs("a cat!", padding="max_length").input_ids == ours("a cat!", padding="max_length").input_ids


@pytest.mark.parametrize(("name", "component"), COMPONENTS)
def test_a_configuration_builds_every_parameter_of_the_inventory(
    name: str, component: str, tmp_path: Path, said: list[str]
) -> None:
    config = documents(name, [component])[f"{component}/config.json"]
    folder = written(tmp_path, {"config.json": config})
    with torch.device("meta"):
        if "_class_name" in config:
            reader = getattr(diffusers, config["_class_name"])
            model = reader.from_config(reader.load_config(folder))
        else:
            reader = getattr(transformers, config["architectures"][0])
            model = reader(transformers.AutoConfig.from_pretrained(folder))
    found = {key.removeprefix("text_model."): tuple(value.shape) for key, value in model.named_parameters()}
    assert found == {
        f"{path}.{kind}".removeprefix("text_model."): shape
        for path, kind, shape in architectures.get(name).tensors(component)
    }
    assert said == []


@pytest.mark.parametrize(("name", "variants", "pipeline", "inputs"), PIPELINES)
def test_a_folder_opens_and_samples_and_is_saved_as_we_wrote_it(
    name: str, variants: list[str], pipeline: str, inputs: Documents, tmp_path: Path, said: list[str]
) -> None:
    folder = folder_of(tmp_path / "ours", name, variants)
    said.clear()
    opened = diffusers.DiffusionPipeline.from_pretrained(folder)
    assert (type(opened).__name__, said) == (pipeline, [])
    opened.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    latents = opened("a cat!", num_inference_steps=2, output_type="latent", generator=generator, **inputs).images
    assert latents.shape == (1, 4, 8, 8)
    assert bool(torch.isfinite(latents).all())

    opened.save_pretrained(tmp_path / "theirs")
    for path in sorted(folder.rglob("*.json")):
        if not path.parent.name.startswith("tokenizer"):
            theirs = json.loads((tmp_path / "theirs" / path.relative_to(folder)).read_text("utf-8"))
            ours = json.loads(path.read_text("utf-8"))
            assert settings(ours).items() <= settings(theirs).items()
    index = json.loads((tmp_path / "theirs" / "model_index.json").read_text("utf-8"))
    assert settings(index) == settings(json.loads((folder / "model_index.json").read_text("utf-8")))


def test_a_refiner_that_edits_opens_as_such(tmp_path: Path) -> None:
    """This pipeline of diffusers counts six numbers, and a refiner takes five: it does not sample."""
    opened = diffusers.DiffusionPipeline.from_pretrained(folder_of(tmp_path, "sdxl-refiner", ["instruct-pix2pix"]))
    assert (type(opened).__name__, opened.unet.config.in_channels) == ("StableDiffusionXLInstructPix2PixPipeline", 8)


def settings(document: Documents) -> dict[str, str]:
    """What a document says, whoever wrote it: comparable values, and the older name of the dtype."""
    renamed = {"dtype" if name == "torch_dtype" else name: value for name, value in document.items()}
    return {name: json.dumps(renamed[name]) for name in renamed.keys() - {"_diffusers_version", "_name_or_path"}}


@pytest.mark.parametrize(("name", "dtype"), [("sd1", torch.bfloat16), ("sdxl", torch.float16)])
def test_half_weights_run_as_the_reader_asks_and_in_float32_where_it_does_not(
    name: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    folder = folder_of(tmp_path, name, [], dtype)
    for asked in (None, dtype):
        opened = diffusers.DiffusionPipeline.from_pretrained(folder, dtype=asked)
        opened.set_progress_bar_config(disable=True)
        latents = opened("a cat", num_inference_steps=1, output_type="latent", **SIZE).images
        assert latents.dtype == (asked or torch.float32)


@pytest.mark.parametrize(("name", "variants", "last"), [
    ("sd1", [], 0.00466), ("sd2", ["v-prediction"], 0.00466), ("sdxl", [], 0.00466), ("sdxl", ["zero-snr"], 0.0),
])  # fmt: skip
def test_the_scheduler_has_the_noise_that_stable_diffusion_is_trained_with(
    name: str, variants: list[str], last: float, tmp_path: Path
) -> None:
    files = whole(name, *variants)
    folder = written(tmp_path, {file: files[file] for file in files if file.startswith("scheduler/")})
    reader = getattr(diffusers, files["model_index.json"]["scheduler"][1])
    kept = reader.from_pretrained(folder, subfolder="scheduler").alphas_cumprod
    # the square roots of beta run in a line (Rombach et al. 2022, `make_beta_schedule` of latent-diffusion)
    beta = numpy.linspace(math.sqrt(0.00085), math.sqrt(0.012), 1000) ** 2
    assert float(kept[0]) == pytest.approx(1 - beta[0], rel=1e-6)
    assert float(kept[-1]) == pytest.approx(numpy.prod(1 - beta) if last else 0.0, rel=1e-4, abs=1e-6)
    assert float(kept[-1]) == pytest.approx(last, abs=1e-5)
