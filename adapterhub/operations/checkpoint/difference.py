"""How far two whole models differ, tensor by tensor and block by block: bytes first, float64 where they differ, no torch."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import adapterhub.architectures as architectures
from adapterhub.adapter import Adapter, Key, Module
from adapterhub.documents import BlockDifference, ComponentDifference
from adapterhub.layouts.checkpoint.aside import weights_of
from adapterhub.layouts.checkpoint.places import spelled
from adapterhub.operations.compare import SAME, Gap
from adapterhub.operations.merge.rounding import nearest
from adapterhub.tensors import FLOATS, Buffer, LazyTensor, from_bytes, length, values

if TYPE_CHECKING:
    import numpy as np

_NUMBERS = 1 << 17
"""Numbers of one step: a MiB of float64, which stays in the processor's cache."""
_WORKERS = 2
_CASTS = frozenset({"F8_E4M3", "F8_E5M2", "F16", "BF16", "F32"})
"""Dtypes that models are cast to."""
FAR = 0.5
"""A relative change that no training makes: weights that have nothing to do with each other are √2 apart."""
_NEARLY, _MANY = 0.9995, 9.995
"""Shares that three digits call 100 %, or write with an exponent."""
_BLOCK = re.compile(r"text_model\.encoder\.layers\.\d+|((text_model|encoder|decoder)\.)?((down|up)_blocks\.\d+|\w+)")
_TITLES = {"unet": "The UNet", "text_encoder": "The text encoder", "text_encoder_2": "The second text encoder",
           "vae": "The VAE"}  # fmt: skip
_DONE = {"vae": "was replaced"}
"""What was done to a component that changed, other than training."""
_PLACES = {
    name: re.compile(pattern)
    for name, pattern in {
        "its decoder": r"decoder\..*|post_quant_conv",
        "the keys and values of its cross-attention": r".*\.attn2\.to_[kv]",
        "its cross-attention": r".*\.attn2\..*",
        "its attention": r".*\.(attn[12]|self_attn)\..*",
        "its transformer blocks": r"(?!encoder|decoder).*\.(attentions|layers)\..*",
        "its token embeddings": r".*\.token_embedding",
    }.items()
}
"""Where all changes may lie; the first that fits is told."""


class Change(NamedTuple):
    """What lies between two tensors: the sum of squares and the largest magnitude of the first, and of the difference.

    `identical` are equal numbers, whatever their dtypes; `recast` numbers are equal once one side is rounded to the dtype
    of the other; `reshaped` ones cannot be compared.
    """

    verdict: Literal["identical", "recast", "changed", "reshaped"]
    square: float = 0.0
    largest: float = 0.0
    moved: float = 0.0
    furthest: float = 0.0


Changes = Mapping[Key, Change]
"""What became of each weight that two models have."""


def changes(a: Adapter, b: Adapter) -> dict[Key, Change]:
    """What became of every weight that both have; each tensor is read once, in pieces, two tensors at a time."""
    shared = [key for key in weights_of(a.tensors) if key in b.tensors]
    with ThreadPoolExecutor(_WORKERS) as pool:  # numpy lets go of the interpreter's lock
        found = pool.map(lambda key: change(a.tensors[key], b.tensors[key]), shared)
        return dict(zip(shared, found, strict=True))


def change(a: LazyTensor, b: LazyTensor) -> Change:
    """What lies between two tensors; infinitely much where their shapes differ, or numbers that cannot be computed with."""
    if _axes(a) != _axes(b):
        return Change("reshaped", moved=math.inf, furthest=math.inf)
    if not {a.dtype, b.dtype} <= FLOATS:
        return Change("identical") if same_bytes(a, b) else Change("changed", moved=math.inf, furthest=math.inf)
    return _measured(a, b)


def same_bytes(a: LazyTensor, b: LazyTensor) -> bool:
    """Whether two tensors of as many numbers are of one dtype and bit for bit the same."""
    return a.dtype == b.dtype and all(x == y for x, y in _steps(a, b))


def _axes(tensor: LazyTensor) -> tuple[int, ...]:
    """The shape, in which a 1×1 convolution is a linear layer."""
    return tuple(axis for axis in tensor.shape if axis != 1)


def _measured(a: LazyTensor, b: LazyTensor) -> Change:
    import numpy as np

    square = largest = moved = furthest = 0.0
    casts = [(of, to) for of, to in ((a.dtype, b.dtype), (b.dtype, a.dtype)) if of != to and to in _CASTS]
    with np.errstate(over="ignore", invalid="ignore"):
        for x, y in _steps(a, b):
            first = _wide(x, a.dtype)
            square, largest = square + _square(first), max(largest, _largest(first))
            if a.dtype == b.dtype and x == y:
                continue
            gap = _wide(y, b.dtype)
            gap -= first
            if not gap.any():
                continue
            moved, furthest = moved + _square(gap), max(furthest, _largest(gap))
            pieces = {a.dtype: x, b.dtype: y}
            casts = [(of, to) for of, to in casts if _rounded(pieces[of], of, to) == pieces[to]]
    if not math.isfinite(moved):
        return Change("changed", square, largest, math.inf, math.inf)
    return Change("identical" if not furthest else "recast" if casts else "changed", square, largest, moved, furthest)


def _steps(a: LazyTensor, b: LazyTensor) -> Iterator[tuple[bytes, bytes]]:
    """The bytes of both side by side, as many numbers of each."""
    return zip(_in_steps(a), _in_steps(b), strict=True)


def _in_steps(tensor: LazyTensor) -> Iterator[bytes]:
    size = length(tensor.dtype, (_NUMBERS,))
    left = b""
    for chunk in tensor.chunks():
        piece = left + chunk if left else bytes(chunk)
        whole = len(piece) - len(piece) % size
        yield from (piece[start : start + size] for start in range(0, whole, size))
        left = piece[whole:]
    if left:
        yield left


def _wide(data: Buffer, dtype: str) -> np.ndarray:
    return values(_row(data, dtype)).astype("<f8")


def _rounded(data: Buffer, dtype: str, to: str) -> bytes:
    return nearest(_wide(data, dtype), to).tobytes()


def _row(data: Buffer, dtype: str) -> LazyTensor:
    return from_bytes(dtype, (len(data) // length(dtype, (1,)),), data)


def _square(numbers: np.ndarray) -> float:
    return float(numbers.dot(numbers))


def _largest(numbers: np.ndarray) -> float:
    return max(float(numbers.max()), -float(numbers.min()))


def gaps(found: Changes) -> dict[Module, Gap]:
    """The gap of every module: the largest of its weight's and its bias's."""
    modules: dict[Module, Gap] = {}
    for key, of in found.items():
        module = Module(*key[:2])
        worst = Gap(of.furthest, ratio(of.furthest, of.largest))
        modules[module] = modules.get(module, SAME).max(worst)
    return modules


def ratio(moved: float, size: float) -> float:
    """`moved` over `size`; infinite where that says nothing."""
    return 0.0 if not moved else moved / size if 0 < size < math.inf else math.inf


def relative(found: Iterable[Change]) -> float:
    """‖B - A‖ / ‖A‖ of all tensors that can be compared; infinite where none can."""
    found = list(found)
    compared = [change for change in found if change.verdict != "reshaped"]
    if found and not compared:
        return math.inf
    moved, square = (math.fsum(getattr(change, name) for change in compared) for name in ("moved", "square"))
    return ratio(math.sqrt(moved), math.sqrt(square))


def components(a: Adapter, b: Adapter, found: Changes) -> list[ComponentDifference]:
    """What became of each component, and of each of its blocks that both have."""
    mine, theirs = weights_of(a.tensors), weights_of(b.tensors)
    only_a = Counter(key.component for key in mine if key not in b.tensors)
    only_b = Counter(key.component for key in theirs if key not in a.tensors)
    return [
        ComponentDifference(
            **_figures({key: change for key, change in found.items() if key.component == name}),
            name=name, only_in_a=only_a[name], only_in_b=only_b[name], blocks=_blocks(name, found),
        )
        for name in dict.fromkeys(key.component for key in (*mine, *theirs))
    ]  # fmt: skip


def _blocks(component: str, found: Changes) -> list[BlockDifference]:
    blocks: dict[str, dict[Key, Change]] = {}
    for key, change in found.items():
        if key.component == component and (block := _BLOCK.match(key.module)):
            blocks.setdefault(block[0], {})[key] = change
    return [BlockDifference(name=name, **_figures(of)) for name, of in blocks.items()]


def _figures(found: Changes) -> dict[str, Any]:
    counted = Counter(change.verdict for change in found.values())
    moved = {key: relative([change]) for key, change in found.items() if change.verdict == "changed"}
    worst = max(moved, key=moved.__getitem__, default=None)
    return {
        "tensors": len(found),
        **{verdict: counted[verdict] for verdict in ("identical", "recast", "changed", "reshaped")},
        "relative": relative(found.values()),
        "largest": moved[worst] if worst else 0.0,
        "worst": spelled(worst) if worst else None,
    }


def sentences(
    a: Adapter, b: Adapter, found: Changes, parts: Iterable[ComponentDifference], names: tuple[str, str]
) -> Iterator[str]:
    """What the differences mean, of models that are called `names`."""
    if not related(a, b):
        titles = [architectures.get(adapter.architecture).title for adapter in (a, b)]
        yield f"These are models of two kinds: {titles[0]} and {titles[1]}."
    for part in parts:
        what = _TITLES.get(part.name, f"The {part.name}")
        yield f"{what} {_fate(part, found, names)}."


def related(a: Adapter, b: Adapter) -> bool:
    """Whether both are of one architecture, or one is a component that both architectures share."""
    if a.architecture == b.architecture:
        return True
    fewer, more = sorted((a, b), key=lambda adapter: len(weights_of(adapter.tensors)))
    return all(key in more.tensors and more.tensors[key].shape == fewer.tensors[key].shape
               for key in weights_of(fewer.tensors))  # fmt: skip


def _fate(part: ComponentDifference, found: Changes, names: tuple[str, str]) -> str:
    if not part.tensors:
        return f"is only in {names[0] if part.only_in_a else names[1]}"
    told = []
    if part.changed:
        told.append(
            f"{part.changed} of {part.tensors} tensors changed{_where(part, found)}, by {percent(part.relative)}"
        )
    if part.reshaped:
        told.append(f"{part.reshaped} of another shape")
    if alone := part.only_in_a + part.only_in_b:
        told.append(f"{alone} only in one of both")
    if not told:
        return "is the same, in another dtype" if part.recast else "is the same"
    far = part.relative is None or part.relative > FAR
    did = "is another one" if far else _DONE.get(part.name, "was trained") if part.changed else "differs"
    return f"{did}: {', '.join(told)}"


def _where(part: ComponentDifference, found: Changes) -> str:
    changed = [
        key.module for key, change in found.items() if key.component == part.name and change.verdict == "changed"
    ]
    return next((f", all in {place}" for place, pattern in _PLACES.items() if all(map(pattern.fullmatch, changed))), "")


def percent(share: float | None) -> str:
    """A share for people; what is not all is never called 100 %."""
    if share is None or not math.isfinite(share):
        return "more than can be told"
    if _NEARLY <= share < 1:
        return "more than 99.9 %"
    return f"{100 * share:,.0f} %" if share >= _MANY else f"{100 * share:.3g} %"
