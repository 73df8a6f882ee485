"""Every golden file goes into every layout that can hold it, is proved there, and meets the golden file of that layout."""

import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import adapterhub
from adapterhub.errors import LossyConversion, RefusedInput

FIXTURES = Path(__file__).parents[2] / "fixtures"
MANIFEST = json.loads((FIXTURES / "manifest.json").read_text("utf-8"))

LYCORIS = ("comfyui", "kohya", "kohya-diffusers-names", "omi")
PAIRS = (*LYCORIS, "diffusers", "diffusers-lora-linear", "peft")
HOLDS = {
    "demo": PAIRS, "lora": PAIRS, "locon": PAIRS,
    "attention": (*PAIRS, "diffusers-attn-procs"), "adalora": (*PAIRS, "diffusers-attn-procs"),
    "dora": (*LYCORIS, "diffusers", "peft"),
    "loha": (*LYCORIS, "peft"), "loha-tucker": (*LYCORIS, "peft"),
    "lokr-both": (*LYCORIS, "peft"), "lokr-right": (*LYCORIS, "peft"),
    "ia3-multiplier": (*LYCORIS, "peft"), "oft-input": (*LYCORIS, "peft"),
    "boft-input": ("peft",),
    **dict.fromkeys("tucker dora-columns residual lokr lokr-tucker ia3 oft oft-scaled boft glora glora-old full norm".split(), LYCORIS),
    "token": ("kohya", "kohya-diffusers-names", "omi"),
    "text": ("cloneofsimo", "kohya", "kohya-diffusers-names", "omi"),
}  # fmt: skip
"""Which layouts have a place for all of a recipe (contract.md, formats/lora.md §1.0.4 and §2)."""
LAYOUTS = (*LYCORIS, "cloneofsimo", "diffusers", "diffusers-attn-procs", "diffusers-lora-linear", "peft")
NO_ALPHA = ("cloneofsimo", "diffusers-attn-procs", "diffusers-lora-linear")


class Stored(NamedTuple):
    dtype: str
    shape: list[int]
    data: bytes


def recipe(name: str) -> str:
    return re.search(r"(?:(?:sd1|sd2|sdxl-refiner|sdxl)-)?([\w-]+)(?:\.safetensors)?$", name)[1]


def weights(path: Path) -> Iterator[tuple[str, Path]]:
    """Every safetensors file at a path, by its relative name."""
    files = sorted(path.rglob("*.safetensors")) if path.is_dir() else [path]
    return ((file.relative_to(path).as_posix(), file) for file in files)


def tensors(path: Path) -> dict[str, Stored]:
    """All tensors at a path under the names of the ledger, read with nothing of ours."""
    files = list(weights(path))
    found = {}
    for file, place in files:
        data = place.read_bytes()
        start = 8 + struct.unpack("<Q", data[:8])[0]
        for name, told in json.loads(data[8:start]).items():
            if name != "__metadata__":
                first, last = told["data_offsets"]
                place_name = f"{file}:{name}" if len(files) > 1 else name
                found[place_name] = Stored(told["dtype"], told["shape"], data[start + first : start + last])
    return found


def rounding(name: str, layout: str) -> float:
    """How far a conversion may be off: it folds α / r = 3/4 into bfloat16 factors, or nothing but powers of two."""
    loses_alpha = layout in NO_ALPHA and name.partition("/")[0] not in NO_ALPHA
    return 2**-8 if recipe(name) == "locon" and loses_alpha else 0.0


def target(folder: Path, layout: str) -> Path:
    return folder / ("out" if layout == "peft" else "out.safetensors")


def twin(name: str, layout: str) -> Path | None:
    """The golden file that holds the same adapter in another layout, byte for byte.

    There is none where only one of them keeps alpha. PEFT's AdaLoRA becomes LoRA on every way, and the scale of a LoKr
    whose factors are whole goes into one of them.
    """
    source, _, rest = name.removesuffix(".safetensors").partition("/")
    if recipe(name) in ("adalora", "lokr-right"):
        return None
    other = FIXTURES / layout / (rest if layout == "peft" else f"{rest}.safetensors")
    return other if rest and other.exists() and not {source, layout} & set(NO_ALPHA) else None


def actions(name: str, layout: str) -> set[str]:
    """What may become of a tensor: names change, alpha goes where the layout keeps it, and few algorithms are said anew."""
    alpha = {"metadata"} if layout in ("diffusers", "peft") else {"fold", "metadata"} if layout in NO_ALPHA else set()
    said_anew = {"adalora": {"fold"}, "lokr-right": {"fold"}, "ia3-multiplier": {"compute"}}.get(recipe(name), set())
    return {"copy", "rename"} | alpha | said_anew


HELD = [(name, layout) for name in MANIFEST for layout in HOLDS[recipe(name)]]


@pytest.mark.parametrize(("name", "layout"), HELD)
def test_a_golden_file_is_converted_and_is_the_golden_file_of_its_target(name, layout, tmp_path):
    source, out = FIXTURES / name, target(tmp_path, layout)
    allowed = rounding(name, layout)
    done = adapterhub.convert(source, out, to=layout)
    assert done.max_error <= allowed
    assert done.exactness == ("exact" if allowed else "bit-exact")
    assert sorted(place for entry in done.entries for place in entry.source) == sorted(tensors(source))
    assert {entry.action for entry in done.entries} <= actions(name, layout)
    if layout in ("diffusers", "peft") and "lokr" not in name:
        stored = {place for place in tensors(source) if place.endswith(".alpha")}
        assert {place for entry in done.entries if entry.action == "metadata" for place in entry.source} == stored
    compared = adapterhub.diff(source, out, tolerance=allowed)
    assert (compared.equal, compared.modules) == (True, done.modules)
    if golden := twin(name, layout):
        assert tensors(out) == tensors(golden)


@pytest.mark.parametrize("name", MANIFEST)
def test_a_layout_without_a_place_refuses_and_writes_nothing(name, tmp_path):
    for layout in sorted({*LAYOUTS} - {*HOLDS[recipe(name)]}):
        with pytest.raises((LossyConversion, RefusedInput)):
            adapterhub.convert(FIXTURES / name, target(tmp_path, layout), to=layout)
        assert list(tmp_path.iterdir()) == []


def test_every_layout_is_meant_in_these_tables():
    assert {layout.name for layout in adapterhub.layouts() if layout.kind == "lora"} == {*LAYOUTS}
    assert sum(1 for name, layout in HELD if twin(name, layout)) > 700
