"""The tools that write a hypernetwork made of others, each result measured against what it is made of."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

import adapterhub.layouts as layouts
from adapterhub import files
from adapterhub.adapter import Adapter, Kind
from adapterhub.documents import Command, Conversion, LedgerEntry, Target
from adapterhub.documents import Source as SourceDocument
from adapterhub.errors import UnknownName, UsageError
from adapterhub.layouts.base import Encoded
from adapterhub.layouts.hypernetwork.layout import HypernetworkLayout
from adapterhub.layouts.hypernetwork.structure import Net, net_of, nets, structure_of
from adapterhub.metadata import HASHED
from adapterhub.operations.delivery import size_of
from adapterhub.operations.hypernetwork.combine import Part, chain, summed
from adapterhub.operations.hypernetwork.make import noted
from adapterhub.operations.hypernetwork.network import Network
from adapterhub.operations.hypernetwork.scale import last_keys, scaled
from adapterhub.operations.ledger import Ledger, summary
from adapterhub.operations.recipe import recorded, written_into
from adapterhub.operations.source import Source, open_adapter, warnings_of
from adapterhub.operations.wish import Wish

ROWS, SEED = 64, 0
"""Random contexts that both sides are evaluated on."""


def _sum(parts: Sequence[Part], net: Net, x: Tensor) -> Tensor:
    """Σ weight · f(x)."""
    return torch.stack(_changes(parts, net, x)).sum(0)


def _changes(parts: Sequence[Part], net: Net, x: Tensor) -> list[Tensor]:
    return [Network(part.adapter, net, x.dtype).change(x) * part.weight for part in parts if _has(part, net)]


def _chain(parts: Sequence[Part], net: Net, x: Tensor) -> Tensor:
    """What A1111's chain of them adds to x."""
    y = x
    for part in parts:
        y = Network(part.adapter, net, x.dtype)(y, part.weight) if _has(part, net) else y
    return y - x


def _has(part: Part, net: Net) -> bool:
    return net.width in part.structure.widths


class Method(NamedTuple):
    """How a hypernetwork is made of `parts`, and what it must then add to a context."""

    make: Callable[[Sequence[Part]], Adapter]
    change: Callable[[Sequence[Part], Net, Tensor], Tensor]


METHODS: Mapping[str, Method] = {"sum": Method(summed, _sum), "chain": Method(chain, _chain)}


@recorded("hypernetwork scale", "source")
def scale(
    source: Path | str, target: Path | str, factor: float, *, to: str | None = None, force: bool = False
) -> Conversion:
    """Writes the hypernetwork at `source` with `factor` times its change to `target`: `factor` at strength 1.

    `to` names the layout, which otherwise follows from the suffix. RefusedInput where that is not exact: see `scaled`.
    """
    method = Method(lambda parts: scaled(*parts[0]), _sum)
    return _written("hypernetwork scale", [Path(source)], [factor], method, _wish(source, target, to, force))


@recorded("hypernetwork merge", "hypernetworks")
def merge(
    hypernetworks: Sequence[Path | str | tuple[Path | str, float]],
    target: Path | str,
    *,
    method: str = "sum",
    to: str | None = None,
    force: bool = False,
) -> Conversion:
    """Writes one hypernetwork made of several, each a path or (path, weight), to `target`.

    `method` "sum" adds up what they change; "chain" is what A1111 does with several, for linear ones. RefusedInput where no
    net does that exactly.
    """
    if method not in METHODS:
        raise UnknownName("method", method, tuple(METHODS))
    pairs = [given if isinstance(given, tuple) else (given, 1.0) for given in hypernetworks]
    if len(pairs) < 2:
        raise UsageError("merging takes two hypernetworks or more", mend="adapterhub hypernetwork scale changes one.")
    paths, weights = [Path(path) for path, _ in pairs], [float(weight) for _, weight in pairs]
    return _written("hypernetwork merge", paths, weights, METHODS[method], _wish(paths[0], target, to, force))


def _wish(source: Path | str, target: Path | str, to: str | None, force: bool) -> Wish:
    suffix = Path(target).suffix.lower()
    named = to or next((one.name for one in layouts.every(Kind.HYPERNETWORK) if suffix in one.containers), None)
    if named is None:
        raise UsageError(
            f"{target}: no layout of hypernetworks is written as {suffix or 'this'}", mend="Say which: --to LAYOUT."
        )
    layouts.get(named, Kind.HYPERNETWORK)
    return Wish(source=Path(source), target=str(target), to=named, force=force)


def _written(
    command: Command, paths: Sequence[Path], weights: Sequence[float], method: Method, wish: Wish
) -> Conversion:
    """One straight line: open, make, write, open again and compare."""
    started = time.perf_counter()
    if not all(map(math.isfinite, weights)):
        raise UsageError("a weight is a finite number", mend=f"Given: {', '.join(map(str, weights))}.")
    wish.check()
    _, request = wish.met(Kind.HYPERNETWORK, layouts.get(str(wish.to), Kind.HYPERNETWORK))
    layout: HypernetworkLayout = request.layout  # type: ignore[assignment] # the kind says so
    with ExitStack() as stack:
        sources = [stack.enter_context(open_adapter(path, kinds=(Kind.HYPERNETWORK,))) for path in paths]
        parts = [Part(source.adapter, weight) for source, weight in zip(sources, weights, strict=True)]
        adapter = noted(method.make(parts), request.form.stem, request.form)
        encoded = layout.encode(adapter, request.form)
        place = wish.place(encoded.package)
        proof = _Proof(parts, method)
        with written_into(encoded.package) as told:
            digests = files.write(told, place, force=wish.force, hashed=HASHED, prove=proof,
                                  sources=[path for source in sources for path in source.package.paths.values()])  # fmt: skip
        entries = list(_entries(sources, weights, adapter, encoded))
        read = [SourceDocument(path=str(path), sha256=files.sha256(path)) for path in paths]
        return Conversion(
            command=command,
            source=read[0],
            inputs=read if len(read) > 1 else [],
            target=Target(path=str(place), sha256=next(iter(digests.values())), layout=layout.name),
            exactness="exact",
            max_error=proof.error,
            modules=len(nets(structure_of(adapter))),
            entries=entries,
            summary=summary(entries),
            problems=[problem for source in sources for problem in (*warnings_of(source.package), *source.problems)],
            size=size_of(encoded.package),
            seconds=round(time.perf_counter() - started, 3),
        )


def _entries(
    sources: Sequence[Source], weights: Sequence[float], adapter: Adapter, encoded: Encoded
) -> Iterator[LedgerEntry]:
    if len(sources) == 1:
        ledger = Ledger(sources[0].reading.places)
        for key in last_keys(sources[0].adapter, weights[0]) & adapter.tensors.keys():
            ledger.replace([key], [key], "compute", f"× {weights[0]:g}")
        yield from ledger.entries(encoded)
        return
    for source, weight in zip(sources, weights, strict=True):
        for net in nets(structure_of(source.adapter)):
            held = [
                f"{source.package.path}:{place}" for key, place in source.reading.places.items() if net_of(key) == net
            ]
            made = [str(encoded.places[key]) for key in adapter.tensors if net_of(key) == net]
            yield LedgerEntry(source=held, target=made, action="compute", reason=f"merged × {weight:g}")


@dataclass
class _Proof:
    """Called with what was written: evaluates it, and what it is made of, on the same random contexts in float64."""

    parts: Sequence[Part]
    method: Method
    error: float = 0.0

    def __call__(self, path: Path) -> None:
        with open_adapter(path, kinds=(Kind.HYPERNETWORK,)) as again:
            for net in nets(structure_of(again.adapter)):
                generator = torch.Generator().manual_seed(SEED)
                x = torch.randn(ROWS, net.width, generator=generator, dtype=torch.float64)
                off = Network(again.adapter, net, x.dtype).change(x) - self.method.change(self.parts, net, x)
                largest = max(float(change.abs().max()) for change in _changes(self.parts, net, x))
                self.error = max(self.error, float(off.abs().max()) / largest if off.any() else 0.0)
