"""diffusers loads what we write, and a prompt means the same whatever layout the embedding came from.

The text encoders have one layer and a few words, and true widths: files are told by those.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import diffusers
import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

import adapterhub
from fixtures.embeddings import MODELS, TOKEN, vectors

FIXTURES = Path(__file__).parents[2] / "fixtures/embedding"
PROMPT = f"a cat {TOKEN} b"
SOURCES = {
    "ldm/sd1.pt": 2, "ldm/sd1-old.pt": 2, "a1111/sd1.pt": 2, "a1111-image/sd1.png": 1, "diffusers/sd1.safetensors": 2,
    "diffusers/sd1-flat.bin": 1, "diffusers/sd1-numbered.bin": 3, "kohya/sd1-easy.safetensors": 2, "raw/sd1.pt": 1,
}  # fmt: skip
READ = [("diffusers", ".safetensors"), ("diffusers", ".bin"), ("a1111", ".pt")]
"""The layouts and containers that `load_textual_inversion` reads."""
PAIRS = {"diffusers/sdxl": 2, "kohya/sdxl.safetensors": 2, "replicate/sdxl": 2, "raw/sdxl.pt": 1}


@pytest.fixture(scope="session")
def words(tmp_path_factory) -> Path:
    """The files of a CLIP tokenizer that knows single letters."""
    folder = tmp_path_factory.mktemp("tokenizer")
    signs = [*"abcdefghijklmnopqrstuvwxyz<>-_0123456789"]
    known = [*signs, *(f"{sign}</w>" for sign in signs), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(known)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return folder


def tokenizer(words: Path) -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(str(words), model_max_length=77, pad_token="<|endoftext|>")


@cache
def weights(width: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(width)
    return encoder_of(width).state_dict()


def encoder_of(width: int) -> torch.nn.Module:
    told = CLIPTextConfig(vocab_size=82, hidden_size=width, intermediate_size=32, num_hidden_layers=1, projection_dim=16,
                          num_attention_heads=8, bos_token_id=80, eos_token_id=81, pad_token_id=81)  # fmt: skip
    return (CLIPTextModelWithProjection if width == 1280 else CLIPTextModel)(told).eval()


def encoder(width: int) -> torch.nn.Module:
    found = encoder_of(width)
    found.load_state_dict(weights(width))
    return found


def unet(**told: object) -> torch.nn.Module:
    return diffusers.UNet2DConditionModel(sample_size=8, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4,
                                          down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
                                          mid_block_type=None, **told)  # fmt: skip


def vae() -> torch.nn.Module:
    return diffusers.AutoencoderKL(block_out_channels=(8,), norm_num_groups=4)


@pytest.fixture
def sd1(words) -> diffusers.StableDiffusionPipeline:
    return diffusers.StableDiffusionPipeline(
        vae(),
        encoder(768),
        tokenizer(words),
        unet(),
        diffusers.DDIMScheduler(steps_offset=1, clip_sample=False),
        None,
        None,
        requires_safety_checker=False,
    )


@pytest.fixture
def sdxl(words) -> diffusers.StableDiffusionXLPipeline:
    return diffusers.StableDiffusionXLPipeline(
        vae(),
        encoder(768),
        encoder(1280),
        tokenizer(words),
        tokenizer(words),
        unet(),
        diffusers.DDIMScheduler(steps_offset=1, clip_sample=False),
    )


def meaning(pipeline: diffusers.DiffusionPipeline, prompt: str) -> torch.Tensor:
    """The hidden states that the UNet would be given."""
    with torch.no_grad():
        found, *_ = pipeline.encode_prompt(
            prompt, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
        )
    return found


def by_hand(pipeline: diffusers.DiffusionPipeline, model: str, rows: int) -> torch.Tensor:
    """The hidden states with the golden vectors put into the tables of tokens, one new token for each."""
    names = [f"new{number}" for number in range(rows)]
    encoders = [SimpleNamespace(model=pipeline.text_encoder, words=pipeline.tokenizer)]
    if model == "sdxl":
        encoders.append(SimpleNamespace(model=pipeline.text_encoder_2, words=pipeline.tokenizer_2))
    for part, key in zip(encoders, MODELS[model], strict=True):
        part.words.add_tokens(names)
        part.model.resize_token_embeddings(len(part.words))
        with torch.no_grad():
            part.model.get_input_embeddings().weight[-rows:] = vectors(model, key, rows)
    return meaning(pipeline, PROMPT.replace(TOKEN, " ".join(names)))


@pytest.mark.parametrize(("layout", "suffix"), READ)
@pytest.mark.parametrize(("name", "rows"), SOURCES.items())
def test_a_prompt_means_the_same_whatever_the_layout_was(name, rows, layout, suffix, sd1, words, tmp_path):
    out = tmp_path / f"crane{suffix}"
    adapterhub.convert(FIXTURES / name, out, to=layout)
    sd1.load_textual_inversion(str(out), token=TOKEN)
    found = meaning(sd1, PROMPT)
    bare = meaning(sd1, PROMPT.replace(TOKEN, "x"))
    sd1.tokenizer, sd1.text_encoder = tokenizer(words), encoder(768)
    assert torch.equal(found, by_hand(sd1, "sd1", rows))
    assert found.shape == (1, 77, 768)
    assert not torch.allclose(found, bare)


@pytest.mark.parametrize(("layout", "suffix", "token"), [
    ("diffusers", ".safetensors", TOKEN), ("diffusers", ".bin", TOKEN), ("a1111", ".pt", "paper-crane"),
])  # fmt: skip
def test_diffusers_takes_the_token_that_we_keep_in_the_file(layout, suffix, token, sd1, tmp_path):
    source = FIXTURES / ("a1111/sd1.pt" if layout == "a1111" else "diffusers/sd1.bin")
    adapterhub.convert(source, tmp_path / f"x{suffix}", to=layout)
    sd1.load_textual_inversion(str(tmp_path / f"x{suffix}"))
    assert sd1.tokenizer.get_added_vocab().keys() >= {token, f"{token}_1"}


@pytest.mark.parametrize(("name", "rows"), PAIRS.items())
def test_both_files_of_sdxl_are_loaded_into_both_text_encoders(name, rows, sdxl, words, tmp_path):
    adapterhub.convert(FIXTURES / name, tmp_path / "pair", to="diffusers", token=TOKEN)
    for end, part in (("", (sdxl.text_encoder, sdxl.tokenizer)), ("_2", (sdxl.text_encoder_2, sdxl.tokenizer_2))):
        sdxl.load_textual_inversion(
            str(tmp_path / "pair"),
            weight_name=f"learned_embeds{end}.safetensors",
            text_encoder=part[0],
            tokenizer=part[1],
        )
    found = meaning(sdxl, PROMPT)
    assert torch.equal(found, by_hand(renewed(sdxl, words), "sdxl", rows))
    assert found.shape == (1, 77, 768 + 1280)


@pytest.mark.parametrize(("name", "rows"), PAIRS.items())
def test_kohyas_two_tensors_are_loaded_one_by_one_as_diffusers_says(name, rows, sdxl, words, tmp_path):
    adapterhub.convert(FIXTURES / name, tmp_path / "crane.safetensors", to="kohya")
    held = load_file(tmp_path / "crane.safetensors")
    parts = {"clip_l": (sdxl.text_encoder, sdxl.tokenizer), "clip_g": (sdxl.text_encoder_2, sdxl.tokenizer_2)}
    for key, (model, known) in parts.items():
        sdxl.load_textual_inversion(held[key], token=TOKEN, text_encoder=model, tokenizer=known)
    assert torch.equal(meaning(sdxl, PROMPT), by_hand(renewed(sdxl, words), "sdxl", rows))


def renewed(pipeline: diffusers.StableDiffusionXLPipeline, words: Path) -> diffusers.StableDiffusionXLPipeline:
    """The pipeline without what it was given."""
    pipeline.text_encoder, pipeline.text_encoder_2 = encoder(768), encoder(1280)
    pipeline.tokenizer, pipeline.tokenizer_2 = tokenizer(words), tokenizer(words)
    return pipeline


@pytest.mark.parametrize(("layout", "suffix"), [("a1111", ".pt"), ("diffusers", ".bin"), ("kohya", ".pt")])
@pytest.mark.parametrize("name", ["ldm/sd1-old.pt", "a1111/sd2.pt", "kohya/sd1.safetensors", "raw/pixart.pt"])
def test_torch_reads_what_we_write_and_runs_nothing(name, layout, suffix, tmp_path):
    adapterhub.convert(FIXTURES / name, tmp_path / f"x{suffix}", to=layout)
    tree = torch.load(tmp_path / f"x{suffix}", weights_only=True)
    (found,) = (tree.get("string_to_param") or tree).values()
    model = {"ldm/sd1-old.pt": "sd1", "a1111/sd2.pt": "sd2", "kohya/sd1.safetensors": "sd1"}.get(name, "pixart")
    assert torch.equal(found.float(), vectors(model, rows=len(found)))
