"""Embeddings into every layout and container that can hold them: values to the bit, names, tokens, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import adapterhub
from adapterhub.errors import LossyConversion, UsageError
from fixtures.embeddings import MODELS, TOKEN, vectors
from tests.operations.embedding_files import CRANE, FIXTURES, MANIFEST, TARGETS, stored

EVERY = {layout for layout, _ in TARGETS}
ONE = ("sd1", 2, EVERY)
HOLDS = {
    "ldm/sd1.pt": ONE, "ldm/sd1-old.pt": ONE, "a1111/sd1.pt": ONE, "diffusers/sd1.bin": ONE, "diffusers/sd1.safetensors": ONE,
    "kohya/sd1.safetensors": ONE, "kohya/sd1.pt": ONE, "kohya/sd1-easy.safetensors": ONE, "kohya/sd1-onetrainer.safetensors": ONE,
    "a1111-image/sd1.png": ("sd1", 1, EVERY), "a1111-image/sd1-strips.png": ("sd1", 1, EVERY),
    "diffusers/sd1-flat.bin": ("sd1", 1, EVERY), "diffusers/sd1-concept": ("sd1", 1, EVERY), "raw/sd1.pt": ("sd1", 1, EVERY),
    "a1111/sd2.pt": ("sd2", 1, EVERY), "diffusers/sd2.bin": ("sd2", 1, EVERY), "kohya/sd2.safetensors": ("sd2", 1, EVERY),
    "diffusers/sd1-numbered.bin": ("sd1", 3, EVERY), "raw/pixart.pt": ("pixart", 1, EVERY),
    "kohya/sdxl-refiner.safetensors": ("sdxl-refiner", 1, {"kohya", "diffusers"}),
    "diffusers/sdxl": ("sdxl", 2, {"kohya", "diffusers"}), "kohya/sdxl.safetensors": ("sdxl", 2, {"kohya", "diffusers"}),
    "replicate/sdxl": ("sdxl", 2, {"kohya", "diffusers"}), "raw/sdxl.pt": ("sdxl", 1, {"kohya", "diffusers"}),
    "kohya/sd3.safetensors": ("sd3", 1, {"kohya"}), "kohya/flux1.safetensors": ("flux1", 1, {"kohya"}),
}  # fmt: skip
"""The model, the number of vectors, and the layouts that have a place for all of a golden file of one token."""
SEVERAL = ("ldm/sd1-several.pt", "diffusers/sd1.ti.pt", "raw/sdxl-snapshots.pt")
ALONE = ("kohya/sdxl-out.safetensors", "xti/sd1.safetensors")
"""What other tests look at: tests/layouts/test_embeddings.py."""
PAIRS = [
    (name, layout, suffix) for name, (model, _, held) in HOLDS.items() for layout, suffix in TARGETS if layout in held
    and (model, suffix) != ("sdxl", ".bin")
]  # fmt: skip
"""The folder that SDXL needs in diffusers' layout has no suffix that could ask for `.bin`."""


def spelled(layout: str, suffix: str, model: str, rows: int, token: str) -> dict[str, torch.Tensor]:
    """What a file of the layout holds for a model's golden vectors."""
    encoders = {key: vectors(model, key, rows) for key in MODELS[model]}
    if layout in ("a1111", "a1111-image"):
        return {"string_to_param.*": next(iter(encoders.values()))}
    if layout == "kohya":
        alone = encoders.keys() <= {"clip_l", "clip_h"}
        return {"emb_params" if alone else key: tensor for key, tensor in encoders.items()}
    if len(encoders) == 1:
        return {token: next(iter(encoders.values()))}
    ends = {"clip_l": "", "clip_g": "_2"}
    return {f"learned_embeds{ends[key]}{suffix}:{token}": tensor for key, tensor in encoders.items()}


def target(folder: Path, model: str, layout: str, suffix: str) -> Path:
    """A folder where SDXL becomes two files; its name says nothing of the container, so the suffix is diffusers' first."""
    return folder / ("out" if layout == "diffusers" and model == "sdxl" else f"out{suffix}")


@pytest.mark.parametrize(("name", "layout", "suffix"), PAIRS)
def test_a_golden_file_goes_into_every_layout_that_holds_it_bit_for_bit(name, layout, suffix, tmp_path):
    source, (model, rows, _) = FIXTURES / "embedding" / name, HOLDS[name]
    out = target(tmp_path, model, layout, suffix)
    done = adapterhub.convert(source, out, to=layout)
    token = MANIFEST[f"embedding/{name}"]["tokens"][0]["token"]
    expected, found = spelled(layout, suffix, model, rows, token), stored(out)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[place].double(), tensor.double()) for place, tensor in expected.items())
    held = adapterhub.inspect(source, tensors=True)
    places = sorted(row.name for row in held.listing)
    assert sorted(place for entry in done.entries for place in entry.source) == places
    assert (done.exactness, done.max_error, done.target.layout) == ("bit-exact", 0.0, layout)
    again = adapterhub.inspect(out, hash=True)
    assert (again.kind, again.layout, again.architecture) == ("embedding", layout, held.architecture)
    assert [problem.code for problem in again.problems] == []
    if "numbered" not in name:
        assert adapterhub.diff(source, out).equal
        assert again.fingerprint == adapterhub.inspect(source, hash=True).fingerprint
    kept = {str(tensor.dtype) for tensor in found.values()}
    assert kept == ({"torch.float32"} if layout == "a1111-image" else {dtype_of(name)})


def dtype_of(name: str) -> str:
    return "torch.bfloat16" if "pixart" in name else "torch.float16" if name in HALVES else "torch.float32"


HALVES = ("kohya/sdxl.safetensors", "kohya/sdxl-refiner.safetensors", "kohya/sd3.safetensors", "kohya/flux1.safetensors",
          "replicate/sdxl", "raw/sdxl.pt")  # fmt: skip


def test_every_golden_file_is_meant_in_these_tables():
    assert {f"embedding/{name}" for name in (*HOLDS, *SEVERAL, *ALONE)} == MANIFEST.keys()


@pytest.mark.parametrize(("name", "layout", "suffix"), [
    (name, layout, suffix) for name, (*_, held) in HOLDS.items() for layout, suffix in TARGETS if layout not in held
])  # fmt: skip
def test_a_layout_without_a_place_for_a_text_encoder_refuses_with_the_mending(name, layout, suffix, tmp_path):
    with pytest.raises(LossyConversion, match=r"no place for vectors of text_encoder[\s\S]*--to kohya holds every"):
        adapterhub.convert(FIXTURES / "embedding" / name, tmp_path / f"out{suffix}", to=layout)
    assert list(tmp_path.iterdir()) == []


def test_the_fingerprint_is_that_of_the_vectors_in_every_layout_and_container():
    found = {}
    for name, (model, rows, _) in HOLDS.items():
        if "numbered" not in name:
            prints = adapterhub.inspect(FIXTURES / "embedding" / name, hash=True).fingerprint
            found.setdefault((model, rows), set()).add(prints)
    assert all(len(prints) == 1 for prints in found.values())
    assert len({next(iter(prints)) for prints in found.values()}) == len(found)


def test_sdxl_for_a1111s_pt_is_refused_with_status_4(tmp_path, cli):
    done = cli("convert", FIXTURES / "embedding/kohya/sdxl.safetensors", "-o", tmp_path / "x.pt", "--to", "a1111")
    assert (done.status, done.out, list(tmp_path.iterdir())) == (4, "", [])
    assert "--to kohya" in done.err
    done = cli("convert", FIXTURES / "embedding/kohya/sdxl.safetensors", "-o", tmp_path / "x.pt", "--to", "a1111",
               "--allow-loss")  # fmt: skip
    assert (done.status, list(tmp_path.iterdir())) == (4, [])


def test_sdxl_becomes_two_files_of_diffusers_and_comes_back_the_same(tmp_path):
    source = FIXTURES / "embedding/kohya/sdxl.safetensors"
    adapterhub.convert(source, f"{tmp_path}/pair/", to="diffusers")
    assert sorted(path.name for path in (tmp_path / "pair").iterdir()) == [
        "learned_embeds.safetensors", "learned_embeds_2.safetensors",
    ]  # fmt: skip
    adapterhub.convert(tmp_path / "pair", tmp_path / "sdxl.safetensors", to="kohya")
    first, last = load_file(source), load_file(tmp_path / "sdxl.safetensors")
    assert first.keys() == last.keys() == {"clip_l", "clip_g"}
    assert all(torch.equal(first[name], last[name]) for name in first)
    with pytest.raises(UsageError, match="a folder of learned_embeds"):
        adapterhub.convert(source, tmp_path / "x.safetensors", to="diffusers")


def test_two_embeddings_in_different_layouts_are_the_same_for_diff_and_others_are_not(tmp_path, cli):
    other = vectors("sd1")
    other[1, 5] += 0.25
    torch.save({"<x>": other}, tmp_path / "other.bin")
    crane = FIXTURES / "embedding"
    assert cli("diff", crane / "ldm/sd1-old.pt", crane / "kohya/sd1-easy.safetensors").status == 0
    assert cli("diff", CRANE, tmp_path / "other.bin").status == 1
    found = adapterhub.diff(CRANE, tmp_path / "other.bin")
    assert (found.max_abs, found.max_error) == (0.25, 0.25 / float(vectors("sd1").abs().max()))
    prints = {adapterhub.inspect(path, hash=True).fingerprint for path in (CRANE, tmp_path / "other.bin")}
    assert len(prints) == 2


# Dtypes, pictures, suffixes, tools.


@pytest.mark.parametrize(("dtype", "torch_dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
@pytest.mark.parametrize(("layout", "suffix"), TARGETS)
def test_a_cast_rounds_once_and_is_measured(dtype, torch_dtype, layout, suffix, tmp_path):
    first = torch.randn(2, 768, generator=torch.Generator().manual_seed(0))
    torch.save({TOKEN: first}, tmp_path / "x.bin")
    done = adapterhub.convert(tmp_path / "x.bin", tmp_path / f"y{suffix}", to=layout, dtype=dtype)
    (found,) = stored(tmp_path / f"y{suffix}").values()
    rounded = first.to(torch_dtype)
    assert found.dtype == (torch.float32 if layout == "a1111-image" else torch_dtype)
    assert torch.equal(found.float(), rounded.float())
    error = (rounded.double() - first.double()).abs().max() / first.double().abs().max()
    assert (done.exactness, done.summary["cast"]) == ("approximate", 1)
    assert done.max_error == pytest.approx(float(error), rel=1e-9)


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_a_picture_is_put_onto_the_cover_that_is_given(suffix, tmp_path):
    Image.new("RGB", (200, 160), (200, 40, 90)).save(tmp_path / "cover.png")
    adapterhub.convert(CRANE, tmp_path / f"crane{suffix}", to="a1111-image", image=tmp_path / "cover.png")
    with Image.open(tmp_path / f"crane{suffix}") as image:
        assert image.height == 160
        assert image.convert("RGB").getpixel((image.width // 2, 80)) == (200, 40, 90)
    assert adapterhub.diff(CRANE, tmp_path / f"crane{suffix}").equal
    with pytest.raises(UsageError, match="overwritten"):
        adapterhub.convert(CRANE, tmp_path / "cover.png", to="a1111-image", image=tmp_path / "cover.png", force=True)


@pytest.mark.parametrize(("layout", "suffix"), [
    (layout, suffix) for layout in sorted(EVERY) for suffix in (".safetensors", ".pt", ".bin", ".ckpt", ".png", ".webp")
    if (layout, suffix) not in TARGETS
])  # fmt: skip
def test_a_name_that_the_layout_is_not_written_under_is_wrong_usage(layout, suffix, tmp_path, cli):
    done = cli("convert", CRANE, "-o", tmp_path / f"x{suffix}", "--to", layout)
    assert (done.status, done.out, list(tmp_path.iterdir())) == (2, "", [])
    assert f"{layout} is not written as {suffix}" in done.err


@pytest.mark.parametrize("layout", ["ldm", "raw", "replicate", "xti"])
def test_what_is_only_read_is_not_written(layout, tmp_path, cli):
    done = cli("convert", CRANE, "-o", tmp_path / "x.pt", "--to", layout)
    assert (done.status, f"{layout} is only read" in done.err) == (2, True)


@pytest.mark.parametrize(("tool", "name", "layout"), [
    ("a1111", "x.pt", "a1111"), ("a1111", "x.safetensors", "kohya"), ("a1111", "x", "a1111"), ("a1111", "x.bin", None),
    ("forge", "x.pt", "a1111"), ("forge", "x.safetensors", "kohya"),
    ("comfyui", "x.safetensors", "kohya"), ("comfyui", "x.pt", "kohya"), ("comfyui", "x.png", None),
    ("invokeai", "x.safetensors", "kohya"), ("kohya", "x.safetensors", "kohya"), ("kohya", "x.bin", None),
    ("diffusers", "x.safetensors", "diffusers"), ("diffusers", "x.bin", "diffusers"), ("diffusers", "x.pt", None),
])  # fmt: skip
def test_for_a_tool_the_suffix_chooses_among_what_it_reads(tool, name, layout, tmp_path):
    if layout is None:
        with pytest.raises(UsageError, match="is not written as"):
            adapterhub.convert(CRANE, tmp_path / name, for_tool=tool)
    else:
        assert adapterhub.convert(CRANE, tmp_path / name, for_tool=tool).target.layout == layout
        assert adapterhub.inspect(tmp_path / name).layout == layout


# Real files.

REAL = {
    "fastai__diffusion-nbs__learned_embeds.bin": 1, "liwilliam2021__cs231n__dgtlv2.pt": 12,
    "invoke-ai__InvokeAI__test_embedding.safetensors": 5,
    "Ljzd-PRO__stable-diffusion-embeddings-of-gasai-yuno__gasai_yuno-1000.pt": 8,
}  # fmt: skip
GASAI = "Ljzd-PRO__stable-diffusion-embeddings-of-gasai-yuno__gasai_yuno-1000"


def test_the_real_picture_becomes_the_vectors_of_the_pt_beside_it(real_files, tmp_path):
    adapterhub.convert(real_files / f"{GASAI}.png", tmp_path / "gasai.safetensors", to="diffusers")
    (found,) = load_file(tmp_path / "gasai.safetensors").values()
    beside = torch.load(real_files / f"{GASAI}.pt", map_location="cpu", weights_only=True)["string_to_param"]["*"]
    assert (found.dtype, found.shape) == (torch.float32, (8, 768))
    assert found.numpy().tobytes() == beside.detach().numpy().tobytes()
    assert adapterhub.diff(real_files / f"{GASAI}.png", real_files / f"{GASAI}.pt").equal


@pytest.mark.parametrize(("layout", "suffix"), TARGETS)
@pytest.mark.parametrize("name", REAL)
def test_a_real_file_goes_into_every_layout_and_comes_back_bit_for_bit(real_files, name, layout, suffix, tmp_path):
    out, back = tmp_path / f"out{suffix}", tmp_path / f"back{Path(name).suffix}"
    own = adapterhub.inspect(real_files / name).layout
    adapterhub.convert(real_files / name, out, to=layout)
    adapterhub.convert(out, back, to=own)
    first, last = stored(real_files / name), stored(back)
    assert len(first) == len(last) == 1
    if own != "diffusers" or suffix != ".pt" or layout != "kohya":  # kohya's .pt has no place for the token
        assert first.keys() == last.keys()
    one, other = next(iter(first.values())), next(iter(last.values()))
    assert torch.atleast_2d(one).shape == other.shape == (REAL[name], one.shape[-1])
    assert np.array_equal(torch.atleast_2d(one.detach()).numpy(), other.numpy())


def test_a_picture_for_what_is_no_picture_is_wrong_usage(tmp_path):
    with pytest.raises(UsageError, match="--image goes with --to a1111-image"):
        adapterhub.convert(CRANE, tmp_path / "crane.safetensors", to="kohya", image=tmp_path / "cover.png")
    assert not list(tmp_path.iterdir())
