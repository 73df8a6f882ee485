"""Merging and converting may change places: whatever the algorithm, whichever of base and adapter is converted."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from adapterhub import architectures, convert, inspect, layouts, merge
from adapterhub.adapter import Kind
from adapterhub.errors import AdapterhubError
from tests.operations import checkpoint_files
from tests.operations.checkpoint_files import content, folder_content

FIXTURES = Path(__file__).parents[2] / "fixtures"
PATTERNS = ("sd1-*", "sd2-lora", "sdxl-lora", "sdxl-dora", "sdxl-oft", "sdxl-refiner-lora")
ADAPTERS = [path for pattern in PATTERNS for path in sorted((FIXTURES / "kohya").glob(f"{pattern}.safetensors"))
            if "token" not in path.stem]  # fmt: skip
STRENGTH = 0.6


@cache
def touched(adapter: Path) -> set[tuple[str, str]]:
    return {
        (one.component, one.module)
        for one in inspect(adapter, tensors=True).listing or ()
        if one.component and one.module
    }


def base(path: Path, adapter: Path) -> Path:
    """A model whose tensors are small but for the modules of `adapter`, which have their true shapes."""
    model = architectures.get(inspect(adapter).architecture)
    random, whole = np.random.default_rng(1), {f"{component}.{module}" for component, module in touched(adapter)}
    shapes = {
        f"{component}.{name}.{kind}": shape
        for component in model.weights
        for name, kind, shape in model.tensors(component)
    }
    tensors = checkpoint_files.weights(model.name, "f2")
    for row in model.single_file():
        if any(name.rpartition(".")[0] in whole for name in row.tensors):
            shape = [*shapes[row.tensors[0]], *[1] * (2 if row.crossing == "reshaped" else 0)]
            shape[0] *= len(row.tensors)
            if row.crossing == "transposed":
                shape.reverse()
            tensors[row.place] = (random.standard_normal(shape) * 0.1).astype("f2")
    save_file(tensors, path)
    return path


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda path: path.stem)
def test_it_makes_no_difference_what_is_converted_first(adapter: Path, tmp_path: Path) -> None:
    model, name = base(tmp_path / "base.safetensors", adapter), inspect(adapter).architecture
    out = tmp_path / "out.safetensors"
    done = merge(model, [(adapter, STRENGTH)], out, architecture=name)
    assert done.exactness == "exact"
    assert content(out) != content(model)
    convert(model, tmp_path / "folder", to="diffusers", architecture=name)
    merge(tmp_path / "folder", [(adapter, STRENGTH)], tmp_path / "merged", architecture=name)
    convert(out, tmp_path / "through", to="diffusers", architecture=name)
    assert folder_content(tmp_path / "merged") == folder_content(tmp_path / "through")
    merged_from = set()
    for layout in layouts.every(Kind.LORA):
        other = tmp_path / layout.name / "a"
        other.parent.mkdir()
        try:
            respelled = convert(adapter, f"{other}{next(iter(layout.containers))}", to=layout.name, architecture=name)
        except AdapterhubError:  # it has no place for that algorithm, or is only read
            continue
        if respelled.exactness == "bit-exact":
            again = tmp_path / layout.name / "out.safetensors"
            merge(model, [(respelled.target.path, STRENGTH)], again, architecture=name)
            assert content(again) == content(out), layout.name
            merged_from.add(layout.name)
    assert {"kohya", "diffusers", "peft", "comfyui", "omi"} <= merged_from or not adapter.stem.endswith("-lora")
