"""Models in scaled fp8, whose stored numbers are not their weights: each belongs together with a tensor that scales it.

Source: ComfyUI `comfy/ops.py` (`scaled_fp8_ops`), `comfy/model_detection.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from adapterhub.errors import RefusedInput
from adapterhub.layouts.checkpoint.aside import ASIDE

if TYPE_CHECKING:
    from adapterhub.operations.source import Source

_SCALE = re.compile(r"(.*\.)?(scale_weight|weight_scale|scaled_fp8)")


def scales(beside: Iterable[str]) -> list[str]:
    """Those of the tensors beside the weights that scale them."""
    return [name for name in beside if _SCALE.fullmatch(name)]


def told(name: str) -> str:
    """What is said of a model that holds the scale `name`."""
    return f"its fp8 numbers are scaled, each by a tensor such as {name}"


def require_plain(opened: Source, mend: str) -> None:
    """Raises RefusedInput for a model in scaled fp8."""
    if found := scales(key.module for key in opened.adapter.tensors if key.component == ASIDE):
        raise RefusedInput(f"{opened.package.path}: {told(found[0])}", mend=mend)
