"""What a UNet predicts, noise or velocity: told by what the file says, else guessed from one tensor of SD 2.

Source: ComfyUI `comfy/supported_models.py` (`SD20.model_type`: the spread of one bias), ModelSpec's `prediction_type`, the
`parameterization` of CompVis' YAML beside a checkpoint.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from adapterhub.adapter import Adapter, Key, Role
from adapterhub.documents import Problem
from adapterhub.layouts.checkpoint.aside import aside
from adapterhub.layouts.checkpoint.scoring import variant
from adapterhub.metadata import PREDICTION
from adapterhub.operations.problems import warning
from adapterhub.operations.source import Source
from adapterhub.tensors import FLOATS, values

VELOCITY, ZERO_SNR = "v-prediction", "zero-snr"
_TELLING = Key("unet", "up_blocks.3.attentions.2.transformer_blocks.0.norm1", Role.LAYER_BIAS)
_SPREAD = 0.09
"""Standard deviation of that bias above which ComfyUI takes SD 2 for one that predicts velocity."""
_SAYS_V = re.compile(r"""^\s*parameterization\s*:\s*["']?v["']?\s*$""", re.MULTILINE)
_SMALL = 1 << 20


def variants(adapter: Adapter, source: Path) -> tuple[list[str], list[Problem]]:
    """The rows of the pipeline's table that this model needs, and a warning where one was guessed."""
    found = [name] if (name := variant(adapter.tensors)) else []
    told = velocity(adapter, source)
    if adapter.architecture == "sdxl" and aside("ztsnr") in adapter.tensors:  # nobody reads it in other models
        found.append(ZERO_SNR)
    if told is not None:
        return found + [VELOCITY] * told, []
    if adapter.architecture != "sd2" or found or _TELLING not in adapter.tensors:
        return found, []
    spread = _deviation(adapter)
    guess = VELOCITY if spread > _SPREAD else "noise"
    problem = warning("prediction-guessed", ".".join(_TELLING[:2]),
                      f"nothing says what SD 2 predicts here; {guess} by the spread of one bias ({spread:.3f}), as ComfyUI guesses",
                      "Where pictures come out as noise, edit prediction_type in scheduler/scheduler_config.json.")  # fmt: skip
    return found + [VELOCITY] * (guess == VELOCITY), [problem]


def stated(documents: Mapping[str, Any]) -> str | None:
    """What the scheduler of a folder says, as ModelSpec puts it."""
    config = documents.get("scheduler/scheduler_config.json")
    said = config.get("prediction_type") if isinstance(config, dict) else None
    return {"v_prediction": "v", "epsilon": "epsilon"}.get(said) if isinstance(said, str) else None


def velocity(adapter: Adapter, source: Path) -> bool | None:
    """Whether the model at `source` predicts velocity, by what it says or what lies beside it; None where nothing tells."""
    return next(_statements(adapter, source), None)


def told_of(adapter: Adapter, source: Path) -> dict[str, str]:
    """ModelSpec's field for the single file of a UNet, by what the model at `source` says; nothing where nothing tells."""
    said = velocity(adapter, source) if "unet" in adapter.components() else None
    return {} if said is None else {PREDICTION: "v" if said else "epsilon"}


def unlike(first: Source, second: Source) -> Iterator[str]:
    """A sentence where both say what they predict, and not the same."""
    said = [_said(source) for source in (first, second)]
    if None not in said and said[0] != said[1]:
        names = ["velocity" if is_velocity else "noise" for is_velocity in said]
        yield f"The first is said to predict {names[0]}, the second {names[1]}."


def _said(source: Source) -> bool | None:
    """Whether a UNet is said to predict velocity, by the folder's scheduler before all else; None where nothing tells."""
    if "unet" not in source.adapter.components() or source.package.path is None:
        return None
    predicts = stated(source.package.documents)
    return velocity(source.adapter, source.package.path) if predicts is None else predicts == "v"


def _statements(adapter: Adapter, source: Path) -> Iterator[bool]:
    if aside("v_pred") in adapter.tensors:
        yield True
    said = adapter.metadata.get(PREDICTION) or adapter.metadata.get("modelspec.predict_key")
    if said:
        yield said.startswith("v")
    if "-768-v" in adapter.metadata.get("modelspec.architecture", ""):
        yield True
    beside = source.with_suffix(".yaml")
    if source.is_file() and beside.is_file() and beside.stat().st_size < _SMALL:
        yield _SAYS_V.search(beside.read_text("utf-8", "replace")) is not None


def _deviation(adapter: Adapter) -> float:
    tensor = adapter.tensors[_TELLING]
    return float(values(tensor).astype("f8").std()) if tensor.dtype in FLOATS else 0.0
