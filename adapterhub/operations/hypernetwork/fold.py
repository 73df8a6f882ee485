"""Folding: linear nets as changes of the weights of a base.

With y = x + H·x + b in front of the projections W of keys and values, ΔW_k = W_k·H_k and ΔW_v = W_v·H_v. The bias of keys adds
one number to all logits of a query and cancels in the softmax. Every row of the attention sums to one, so that the bias of
values adds the constant W_v·b_v in front of the output projection: Δb_out = W_out·W_v·b_v.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from adapterhub.adapter import Adapter, Key, Kind, Module, Role
from adapterhub.errors import NeedsBase
from adapterhub.layouts.hypernetwork.structure import Net, nets, structure_of
from adapterhub.layouts.hypernetwork.widths import attentions
from adapterhub.operations.base import Base
from adapterhub.operations.hypernetwork.affine import Affine, affine, chained, computed, require_linear
from adapterhub.operations.lora import deltas
from adapterhub.tensors import LazyTensor

FIT = "--fit fits it by least squares and says how far that is off; attach it in diffusers to run it as it is."
_GIVE = "Give the model that it is to work on: --base CHECKPOINT."


@dataclass(frozen=True)
class Attention:
    """An attention of the base whose contexts are `width` wide."""

    path: Module
    width: int

    def projection(self, name: str) -> Module:
        """One of its linear layers."""
        return Module(self.path.component, f"{self.path.module}.{name}")


Affines = Callable[[Attention, Net], Affine]
"""What a net adds to the contexts of an attention."""
Folded = Mapping[Net, Mapping[Key, LazyTensor]]
"""The changes of weights that each net becomes."""


def attentions_of(base: Base) -> list[Attention]:
    """Every attention of the UNet. NeedsBase where the base was not given, or lacks one."""
    found = []
    for path, _ in attentions(base.architecture):
        keys = base.weight(Attention(path, 0).projection("to_k"))
        if keys is None:
            lack = f"the base has no weight of {path.module}" if base.weights else "ΔW = W·H needs the base's weights"
            raise NeedsBase(f"a hypernetwork is folded into the weights of a model: {lack}", mend=_GIVE)
        found.append(Attention(path, keys.shape[1]))
    return found


def fold(adapter: Adapter, base: Base, *, dtype: str = "F32", strength: float = 1.0) -> Folded:
    """A linear hypernetwork as changes of the weights of `base`, stored as `dtype`. RefusedInput where it is not linear."""
    return fold_chain([(adapter, strength)], base, dtype=dtype)


def fold_chain(chain: list[tuple[Adapter, float]], base: Base, *, dtype: str = "F32") -> Folded:
    """Several linear hypernetworks, each at its strength, applied in order."""
    for adapter, _ in chain:
        require_linear(adapter, FIT)
    known: dict[Net, Affine] = {}

    def affines(attention: Attention, net: Net) -> Affine:
        if net not in known:
            known[net] = chained(affine(adapter, net, m) for adapter, m in chain if net in nets(structure_of(adapter)))
        return known[net]

    every = dict.fromkeys(net for adapter, _ in chain for net in nets(structure_of(adapter)))
    return fold_affines(list(every), affines, base, dtype)


def fold_affines(every: list[Net], affines: Affines, base: Base, dtype: str) -> Folded:
    """The changes that `affines` make, each computed when it is written."""
    found = attentions_of(base)
    return {
        net: dict(change for attention in found if attention.width == net.width
                  for change in _changes(attention, net, affines, base, dtype))
        for net in every
    }  # fmt: skip


def _changes(
    attention: Attention, net: Net, affines: Affines, base: Base, dtype: str
) -> Iterator[tuple[Key, LazyTensor]]:
    module = attention.projection(f"to_{net.half}")
    weight = base.weight(module)
    assert weight is not None
    product = partial(_product, attention, net, affines, base)
    yield Key(*module, Role.DIFF), computed(dtype, weight.shape, product)
    if net.half == "v" and affines(attention, net).bias.any():
        out = attention.projection("to_out.0")
        rows = _known(base, out).shape[0]
        yield Key(*out, Role.DIFF_B), computed(dtype, (rows,), partial(_bias, attention, net, affines, base))


def _product(attention: Attention, net: Net, affines: Affines, base: Base) -> Tensor:
    return _value(base, attention.projection(f"to_{net.half}")) @ affines(attention, net).matrix


def _bias(attention: Attention, net: Net, affines: Affines, base: Base) -> Tensor:
    through = _value(base, attention.projection("to_v")) @ affines(attention, net).bias
    return _value(base, attention.projection("to_out.0")) @ through


def _value(base: Base, module: Module) -> Tensor:
    return deltas.tensor(_known(base, module))


def _known(base: Base, module: Module) -> LazyTensor:
    weight = base.weight(module)
    if weight is None:
        raise NeedsBase(f"the base has no weight of {module.module}", mend=_GIVE)
    return weight


def lora_of(folded: Folded, base: Base, metadata: Mapping[str, str]) -> Adapter:
    """The changes as an adapter of full differences."""
    tensors = {key: tensor for changes in folded.values() for key, tensor in changes.items()}
    return Adapter(Kind.LORA, base.architecture, tensors, metadata)
