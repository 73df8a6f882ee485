"""The base model's weights for the algorithms whose ΔW depends on them, read one at a time; or a stand-in for a proof."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import adapterhub.architectures as architectures
import adapterhub.layouts as layouts
from adapterhub import files
from adapterhub.adapter import Kind, Module, Role, Roles
from adapterhub.algorithms import Extent, extent
from adapterhub.errors import NeedsBase, NotAnAdapter, UsageError
from adapterhub.files import Package
from adapterhub.layouts.checkpoint.weights import weights as weights_of
from adapterhub.operations.lora.shapes import ia3_on_input, unfit
from adapterhub.tensors import LazyTensor, Shape

if TYPE_CHECKING:
    from torch import Tensor

R = Role
_ANY_LENGTH = 16


@dataclass(frozen=True)
class Base:
    """`weights` by `component.module.weight`; empty where no base was given."""

    architecture: str
    weights: Mapping[str, LazyTensor]

    def weight(self, module: Module) -> LazyTensor | None:
        """The weight of a module, if the base was given and has it."""
        return self.weights.get(f"{module.component}.{module.module}.weight")

    def bias(self, module: Module) -> LazyTensor | None:
        """The bias of a module, likewise."""
        return self.weights.get(f"{module.component}.{module.module}.bias")

    def is_biased(self, module: Module) -> bool:
        """Whether the architecture gives a module a bias."""
        return module.module in architectures.get(self.architecture).biased.get(module.component, ())

    def shape(self, module: Module, tensors: Roles) -> Shape | None:
        """The shape of the weight that `tensors` change: in the base or, without one, in the architecture.

        A smaller model of the same names has other widths: then what the tensors tell, without a kernel.
        """
        given = self.weight(module)
        if given is not None:
            return given.shape
        known = architectures.get(self.architecture).weights.get(module.component, {}).get(module.module)
        if known is not None and not unfit(tensors, known):
            return known
        rows, columns = _measured(tensors)
        return None if rows is None or columns is None else (rows, columns)

    def value(self, module: Module, *, bias: bool = False) -> Tensor | None:
        """The weight (or bias) in float64, if the base was given and has it."""
        from adapterhub.operations.lora import deltas

        stored = self.bias(module) if bias else self.weight(module)
        return None if stored is None else deltas.tensor(stored)

    def stand_in(self, module: Module, tensors: Roles) -> Tensor:
        """A weight to compare on where none is at hand: normal numbers of a fixed seed, float64.

        Two adapters that change a weight in general position alike do the same. Where `tensors` tell the length of one side
        alone, as a rotation does, the other may have any. NeedsBase where they tell none.
        """
        import torch

        shape = self.shape(module, tensors)
        if shape is None:
            told = _measured(tensors)
            if told == (None, None):
                raise NeedsBase(
                    f"{'.'.join(module)}: nothing tells the shape of the weight", mend="Give it with --base."
                )
            shape = tuple(size or _ANY_LENGTH for size in told)
        seed = int.from_bytes(hashlib.sha256("\0".join(module).encode()).digest()[:6], "little")
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(shape, generator=generator, dtype=torch.float64)


def _measured(tensors: Roles) -> Extent:
    """What the tensors tell of the weight: for IA3, whose shape does not say along which side it runs, as it is applied."""
    if R.IA3_WEIGHT in tensors and R.ON_INPUT in tensors:
        size = tensors[R.IA3_WEIGHT].size
        return (None, size) if ia3_on_input(tensors) else (size, None)
    if R.IA3_L in tensors and len(tensors[R.IA3_L].shape) > 2:
        return (tensors[R.IA3_L].size, None)
    return extent(tensors)


@contextmanager
def base_of(
    path: Path | None,
    architecture: str,
    also: Collection[str] = (),
    *,
    variant: str | None = None,
    whatever: bool = False,
) -> Iterator[Base]:
    """The base at `path`, in the `variant` if it has that, for an adapter of `architecture`; an empty one without a path.
    NotAnAdapter for a model of another, unless the adapter fits that `also`, or `whatever` it is will do.
    """
    if path is None:
        yield Base(architecture, {})
        return
    if not architecture:
        raise UsageError("nothing in the file says which model it is for", mend="Say it: --architecture NAME.")
    with files.read(path, variant=variant, strict=False) as package:
        if not whatever:
            _require_same_model(package, (architecture, *also))
        yield Base(architecture, weights_of(package, architecture))


def _require_same_model(package: Package, fitting: Sequence[str]) -> None:
    found = layouts.identify(package)
    if found.kind is Kind.CHECKPOINT and found.architecture and {found.architecture, *found.also}.isdisjoint(fitting):
        raise other_model(found.architecture, fitting[0])


def other_model(base: str, mine: str) -> NotAnAdapter:
    """What is said of a base of another architecture than `mine`."""
    title, other = (architectures.get(name).title for name in (base, mine))
    return NotAnAdapter(f"the base is a model of {title}, and this is for {other}",
                        mend="Give a base of the same architecture.")  # fmt: skip
