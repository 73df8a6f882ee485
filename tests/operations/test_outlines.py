"""Files that have names, dtypes and shapes in common share what follows from these, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import adapterhub
from adapterhub.errors import AdapterhubError
from adapterhub.files import TORCH_ZIP, File, Package, read, write
from adapterhub.operations.inspect import inspect
from tests.operations.made_loras import LINEAR, POINT, SHAPES, TEXT, head

Tensors = dict[str, np.ndarray]
Changed = Callable[[Tensors], object]
_MODULES = {LINEAR: SHAPES[LINEAR], POINT: SHAPES[POINT], TEXT: (768, 768)}
_ALPHAS = [f"{head(module)}.alpha" for module in _MODULES]
_DOWN, _UP = (f"{head(LINEAR)}.lora_{side}.weight" for side in ("down", "up"))
_TOKEN = "bundle_emb.{}.string_to_param.*"

# Each in a child of a process that has its tables, and has seen no file but the first, which has nothing in common with others.
_ALONE = """
import os, sys
from adapterhub.operations.inspect import inspect
inspect(sys.argv[1])
for path in sys.argv[2:]:
    if not (child := os.fork()):
        print(inspect(path).model_dump_json(), flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""


def kohya(path: Path, change: Changed = dict, **metadata: str) -> Path:
    """Pairs of rank 4 with an alpha of 2."""
    tensors: Tensors = {}
    for module, (rows, columns, *kernel) in _MODULES.items():
        tensors[f"{head(module)}.lora_down.weight"] = np.ones((4, columns, *kernel), "f2")
        tensors[f"{head(module)}.lora_up.weight"] = np.ones((rows, 4, *kernel), "f2")
        tensors[f"{head(module)}.alpha"] = np.array(2, "f2")
    change(tensors)
    save_file(tensors, path, metadata)
    return path


def _alphas(*values: float, dtype: str = "f2") -> Changed:
    return lambda tensors: tensors.update(
        {name: np.array(value, dtype) for name, value in zip(_ALPHAS, values, strict=True)}
    )


def _with(name: str, *shape: int, dtype: str = "f2") -> Changed:
    return lambda tensors: tensors.update({name: np.ones(shape, dtype)})


def _self_attention(tensors: Tensors) -> None:
    """One module, which SD 1 and SD 2 have alike."""
    whole = {"lora_down.weight": (4, 320), "lora_up.weight": (320, 4), "alpha": ()}
    tensors.clear()
    tensors.update(
        {f"{head(LINEAR.replace('attn2', 'attn1'))}.{end}": np.ones(shape, "f2") for end, shape in whole.items()}
    )


def _renamed(old: str, new: str) -> Changed:
    def change(tensors: Tensors) -> None:
        renamed = {name.replace(old, new): tensor for name, tensor in tensors.items()}
        tensors.clear()
        tensors.update(renamed)

    return change


def torch_file(path: Path) -> Path:
    """The same as a file of torch."""
    with read(kohya(path.with_suffix(".safetensors"))) as package:
        tensors = dict(package.only.tensors)
        write(Package.new({path.name: File(tensors, tree=tensors, container=TORCH_ZIP)}), path)
    path.with_suffix(".safetensors").unlink()
    return path


def diffusers(path: Path, **fields: Any) -> Path:
    """A pair in the layout of diffusers with alpha in its metadata, or none."""
    tensors = {f"unet.{LINEAR}.lora_A.weight": np.ones((4, 768), "f2"),
               f"unet.{LINEAR}.lora_B.weight": np.ones((320, 4), "f2")}  # fmt: skip
    told = {f"unet.{name}": value for name, value in fields.items()}
    save_file(tensors, path, {"format": "pt", **({"lora_adapter_metadata": json.dumps(told)} if told else {})})
    return path


def peft(path: Path, **config: Any) -> Path:
    """A pair in a folder of PEFT, with a config beside it."""
    (path / "unet").mkdir(parents=True)
    begin = f"base_model.model.{LINEAR}"
    tensors = {f"{begin}.lora_A.weight": np.ones((4, 768), "f2"), f"{begin}.lora_B.weight": np.ones((320, 4), "f2")}
    save_file(tensors, path / "unet/adapter_model.safetensors")
    (path / "unet/adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, **config}))
    return path


def cloneofsimo(path: Path, **metadata: str) -> Path:
    """Numbers for names, and a flat vector that is a token where metadata says so."""
    source = Path(__file__).parents[2] / "fixtures/cloneofsimo/sd1-text.safetensors"
    save_file({**load_file(source), "cat": np.ones(768, "f4")}, path, metadata)
    return path


MADE: Mapping[str, Callable[[Path], Path]] = {
    "plain.safetensors": kohya,
    "fields.safetensors": partial(kohya, ss_output_name="a", ss_base_model_version="sd_v1"),
    "claims-sd2.safetensors": partial(kohya, ss_base_model_version="sd_v2", ss_v2="True"),
    "claims-sdxl.safetensors": partial(kohya, ss_base_model_version="sdxl_base_v1-0"),
    "file.pt": torch_file,
    "other-alphas.safetensors": partial(kohya, change=_alphas(4, 2, 8)),
    "zero.safetensors": partial(kohya, change=_alphas(0, 2, -0.0)),
    "not-finite.safetensors": partial(kohya, change=_alphas(np.nan, np.inf, -1)),
    "alphas-in-f4.safetensors": partial(kohya, change=_alphas(2, 2, 2, dtype="f4")),
    "alphas-in-i8.safetensors": partial(kohya, change=_alphas(2, 2, 2, dtype="i8")),
    "alphas-in-c8.safetensors": partial(kohya, change=_alphas(2, 2, 2, dtype="c8")),
    "two-alphas.safetensors": partial(kohya, change=_with(_ALPHAS[0], 2)),
    "no-alpha.safetensors": partial(kohya, change=lambda tensors: tensors.pop(_ALPHAS[1])),
    "ranks.safetensors": partial(kohya, change=_with(_DOWN, 2, 768)),
    "rank-zero.safetensors": partial(kohya, change=_with(_UP, 320, 0)),
    "wide.safetensors": partial(kohya, change=_with(_DOWN, 4, 1024)),
    "either.safetensors": partial(kohya, change=_self_attention),
    "either-claims-sd2.safetensors": partial(kohya, change=_self_attention, ss_base_model_version="sd_v2", ss_v2="True"),
    "half.safetensors": partial(kohya, change=lambda tensors: tensors.pop(_UP)),
    "stranger.safetensors": partial(kohya, change=_with("lora_unet_nothing.lora_up.weight", 4, 4)),
    "dora.safetensors": partial(kohya, change=_with(f"{head(LINEAR)}.dora_scale", 320, 1)),
    "compiled.safetensors": partial(kohya, change=_renamed("lora_unet_", "_orig_mod.lora_unet_")),
    "short.safetensors": partial(kohya, change=_renamed("lora_te_text_model_", "lora_te_")),
    "cat.safetensors": partial(kohya, change=_with(_TOKEN.format("cat"), 1, 768)),
    "dog.safetensors": partial(kohya, change=_with(_TOKEN.format("dog"), 1, 768)),
    "diffusers.safetensors": diffusers,
    "diffusers-4.safetensors": partial(diffusers, r=4, lora_alpha=4),
    "diffusers-8.safetensors": partial(diffusers, r=4, lora_alpha=8),
    "diffusers-own.safetensors": partial(diffusers, r=4, lora_alpha=8, alpha_pattern={LINEAR: 2}),
    "diffusers-broken.safetensors": partial(diffusers, r=4, lora_alpha="eight"),
    "peft": peft,
    "peft-4": partial(peft, lora_alpha=4),
    "peft-8": partial(peft, lora_alpha=8, use_rslora=True),
    "peft-pissa": partial(peft, lora_alpha=8, init_lora_weights="pissa"),
    "peft-broken": partial(peft, lora_alpha=[]),
    "numbers.safetensors": cloneofsimo,
    "numbers-token.safetensors": partial(cloneofsimo, cat="<embed>"),
    "numbers-other.safetensors": partial(cloneofsimo, dog="<embed>"),
}  # fmt: skip


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Any]:
    """Every file of MADE, and what a process says that has not seen the others."""
    folder = tmp_path_factory.mktemp("made")
    first = kohya(folder / "first.safetensors", _renamed("lora_", "model.lora_"))
    paths = [make(folder / name) for name, make in MADE.items()]
    told = subprocess.run([sys.executable, "-c", _ALONE, first, *paths], stdout=subprocess.PIPE, check=True).stdout
    return dict(zip(paths, map(json.loads, told.splitlines()), strict=True))


def said(path: Path) -> Any:
    return json.loads(inspect(path).model_dump_json())


@settings(deadline=None, max_examples=25)
@given(places=st.lists(st.integers(0, len(MADE) - 1), min_size=2, max_size=40))
def test_what_a_file_is_does_not_depend_on_the_files_before_it(alone, places):
    paths = [list(alone)[place] for place in places]
    assert [said(path) for path in paths] == [alone[path] for path in paths]


def test_conversions_leave_nothing_behind_in_what_files_share(alone, tmp_path):
    for number, path in enumerate(alone):
        for layout in ("kohya", "diffusers"):
            with suppress(AdapterhubError):
                adapterhub.convert(path, tmp_path / f"{number}-{layout}.safetensors", to=layout)
    assert len(list(tmp_path.iterdir())) > len(alone)
    assert {path: said(path) for path in reversed(alone)} == alone


def test_files_of_one_outline_differ_in_what_is_their_own(alone):
    found = {path.name: told for path, told in alone.items()}
    assert [found[name]["alphas"] for name in ("plain.safetensors", "other-alphas.safetensors", "file.pt")] == [
        {"2": 3}, {"4": 1, "2": 1, "8": 1}, {"2": 3}]  # fmt: skip
    assert [found[name]["alphas"] for name in ("diffusers-4.safetensors", "diffusers-own.safetensors", "peft-8")] == [
        {"4": 1}, {"2": 1}, {"16": 1}]  # fmt: skip
    assert [[problem["code"] for problem in found[name]["problems"]] for name in (
        "plain.safetensors", "claims-sdxl.safetensors", "zero.safetensors", "alphas-in-c8.safetensors")] == [
        [], ["metadata-contradicts"], ["alpha-zero", "alpha-zero"], ["alpha-shape"] * 3]  # fmt: skip
