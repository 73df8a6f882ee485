"""`plot`: how strong an adapter, or the fine-tuning of a model, is in every block and kind of module, as a heat map."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from adapterhub import files
from adapterhub.adapter import Kind, Module, Role
from adapterhub.documents.inspection import HeatMap, Unmeasured
from adapterhub.errors import RefusedInput, UsageError
from adapterhub.files import publishing
from adapterhub.files.source import machine
from adapterhub.files.streaming import write_all
from adapterhub.files.targets import require_file_target
from adapterhub.operations.base import base_of, other_model
from adapterhub.operations.source import Source, open_adapter

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMN, _ROW = 0.34, 0.24
"""Inches."""
_DOTS = 144
"""Pixels per inch."""
_SUFFIXES = (".png", "")
_NAME = 60
"""Letters of the file's name that the title has room for."""
_ORDER = (
    "attn1.to_q attn1.to_k attn1.to_v attn1. attn2.to_q attn2.to_k attn2.to_v attn2. ff. proj_ conv time_emb "
    "self_attn.q self_attn.k self_attn.v self_attn. mlp."
).split()
"""How the kinds of modules begin, from left to right."""
_TITLES = {
    "relative": "‖ΔW‖ / ‖W‖ by block and module",
    "rms": "‖ΔW‖ / √elements by block and module (no base was given)",
}


class _Part(NamedTuple):
    """One module: ‖ΔW‖², and what that is divided by, ‖W‖² or the number of elements."""

    module: Module
    moved: float
    size: float


def plot(
    path: Path | str, target: Path | str, *, base: Path | str | None = None, architecture: str | None = None,
    variant: str | None = None, force: bool = False,
) -> HeatMap:  # fmt: skip
    """Draws ‖ΔW‖ / ‖W‖ of the LoRA at `path` on the weights of `base`, or ‖ΔW‖ / √elements without one, into the PNG
    `target`; of a whole model what it changed in `base`. Modules of one kind in one block count together. `variant`
    is that of each folder whose weights are there in several.

    Raises OutputExists unless `force`, UsageError for another suffix than .png and without matplotlib (the extra `plot`).
    """
    folder = str(target).endswith("/")
    source, target, other = Path(path), Path(target), None if base is None else Path(base)
    require_file_target(target, [source, *([other] if other else [])], force=force)
    if folder or target.suffix.lower() not in _SUFFIXES:
        raise UsageError(f"{target}{'/' * folder}: what is drawn is a PNG", mend="Give -o a name with .png.")
    unmeasured: list[Unmeasured] = []
    with open_adapter(
        source,
        kinds=(Kind.LORA, Kind.CHECKPOINT),
        architecture=architecture,
        variant=variant,
        strict=not files.has_variant(variant, base),
    ) as opened:
        parts = _PARTS[opened.adapter.kind](opened, other, unmeasured)
        rows, columns, values = _table(parts, opened.adapter.architecture)
    if not rows:
        why = unmeasured[0].reason if unmeasured else "it has no such modules"
        raise RefusedInput(
            f"{source}: there is nothing to draw: {why}", mend="adapterhub inspect --spectrum says more."
        )
    heat = HeatMap(path=str(path), target=str(target), measure="rms" if other is None else "relative",
                   rows=rows, columns=columns, values=values, unmeasured=unmeasured)  # fmt: skip
    _write(_drawn(heat), target, force=force)
    return heat


def _of_lora(opened: Source, base: Path | None, unmeasured: list[Unmeasured]) -> Iterator[_Part]:
    from adapterhub.operations.lora.spectrum import strengths

    with base_of(base, opened.adapter.architecture, opened.identity.also, variant=opened.package.variant) as weights:
        for found in strengths(opened.adapter, weights, unmeasured.append):
            moved = found.change.norm**2
            if base is None:
                yield _Part(found.module, moved, found.change.elements)
            elif found.weight:
                yield _Part(found.module, moved, found.weight**2)
            else:
                unmeasured.append(_unmeasured(found.module, "the base has no such weight, or nothing but zeros there"))


def _of_model(opened: Source, base: Path | None, unmeasured: list[Unmeasured]) -> Iterator[_Part]:
    from adapterhub.operations.checkpoint.difference import changes

    if base is None:
        raise UsageError("of a whole model its change is drawn, and that takes another", mend="Add --base.")
    with open_adapter(base, variant=opened.package.variant, strict=False, kinds=(Kind.CHECKPOINT,)) as other:
        if other.adapter.architecture != opened.adapter.architecture:
            raise other_model(other.adapter.architecture, opened.adapter.architecture)
        for key, change in changes(other.adapter, opened.adapter).items():
            module = Module(key.component, key.module)
            if key.role is not Role.LAYER_WEIGHT:
                continue
            if change.square and math.isfinite(change.moved) and math.isfinite(change.square):
                yield _Part(module, change.moved, change.square)
            else:
                unmeasured.append(
                    _unmeasured(module, "another shape, nothing but zeros, or numbers that are not finite")
                )


_PARTS = {Kind.LORA: _of_lora, Kind.CHECKPOINT: _of_model}


def _unmeasured(module: Module, reason: str) -> Unmeasured:
    return Unmeasured(component=module.component, module=module.module, reason=reason)


def _table(parts: Iterator[_Part], architecture: str) -> tuple[list[str], list[str], list[list[float | None]]]:
    """Blocks in the order of the model, kinds of modules, and √(Σ moved / Σ size) of those that both name."""
    from adapterhub.operations.lora.spectrum import block_of, kind_of

    cells: dict[tuple[str, str], list[_Part]] = defaultdict(list)
    for part in parts:
        cells[block_of(part.module, architecture), kind_of(part.module)].append(part)
    values = {
        place: math.sqrt(math.fsum(part.moved for part in held) / math.fsum(part.size for part in held))
        for place, held in cells.items()
    }
    rows = sorted({row for row, _ in values})
    columns = sorted({column for _, column in values}, key=_column_order)
    return rows, columns, [[values.get((row, column)) for column in columns] for row in rows]


def _column_order(kind: str) -> tuple[int, str]:
    return next((n for n, start in enumerate(_ORDER) if kind.startswith(start)), len(_ORDER)), kind


def _drawn(heat: HeatMap) -> bytes:
    """The picture as a PNG."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError("drawing takes matplotlib", mend="pip install 'adapterhub[plot]'") from None
    size = (4.5 + _COLUMN * len(heat.columns), 2.8 + _ROW * len(heat.rows))
    figure = Figure(figsize=size, layout="constrained")
    _draw(figure.add_subplot(), heat)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=_DOTS, metadata={"Software": None})
    return buffer.getvalue()


def _draw(axes: Axes, heat: HeatMap) -> None:
    """Colours on a logarithmic scale; a 0 is written where nothing changes, and white is what the adapter does not touch."""
    import numpy as np
    from matplotlib.colors import LogNorm

    values = np.array(heat.values, dtype=float)  # None becomes NaN
    positive = values[values > 0]
    low, high = (positive.min(), positive.max()) if positive.size else (1.0, 1.0)
    norm = LogNorm(low / 1.01, high * 1.01)  # wide enough for equal values
    picture = axes.imshow(np.ma.masked_where(~(values > 0), values), norm=norm, cmap="viridis", aspect="auto")
    for row, column in zip(*np.nonzero(values == 0), strict=True):
        axes.text(column, row, "0", ha="center", va="center", size=7)
    axes.set_xticks(range(len(heat.columns)), heat.columns, rotation=90, size=8)
    axes.set_yticks(range(len(heat.rows)), heat.rows, size=8)
    name = ascii(Path(heat.path).name)[1:-1][:_NAME].replace("$", r"\$")  # no formula, and nothing that the font lacks
    axes.set_title(f"{name}\n{_TITLES[heat.measure]}", size=9)
    axes.figure.colorbar(picture, ax=axes, label="logarithmic scale", aspect=40)


def _write(picture: bytes, target: Path, *, force: bool) -> None:
    with publishing.unpublished_file(target) as (temporary, descriptor):
        with machine("write", target):
            write_all(descriptor, picture)
            os.fsync(descriptor)
        publishing.publish_file(temporary, target, force=force)
