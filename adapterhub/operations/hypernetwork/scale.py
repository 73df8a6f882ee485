"""`hypernetwork scale`: another strength as part of the file, exactly."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from adapterhub.adapter import Adapter, Key, Role
from adapterhub.documents import HypernetworkStructure
from adapterhub.errors import RefusedInput
from adapterhub.layouts.hypernetwork.structure import HOMOGENEOUS, nets, stages, structure_of
from adapterhub.operations.hypernetwork.affine import computed
from adapterhub.operations.lora import deltas
from adapterhub.tensors import LazyTensor

_MEND = "Give the strength where it is used: <hypernet:NAME:STRENGTH> in A1111, strength in attach()."


def scaled(adapter: Adapter, factor: float) -> Adapter:
    """The hypernetwork whose change is `factor` times that of `adapter`; only its last layer or norm is another.

    RefusedInput where no tensor does that: behind an activation other than ReLU's kind, or skip connections.
    """
    keys = last_keys(adapter, factor)
    return adapter.with_tensors(
        {key: _times(tensor, factor) if key in keys else tensor for key, tensor in adapter.tensors.items()}
    )


def last_keys(adapter: Adapter, factor: float) -> set[Key]:
    """The tensors that are multiplied."""
    structure = structure_of(adapter)
    part, number = _last(structure, factor)
    roles = (Role.LAYER_WEIGHT, Role.LAYER_BIAS)
    return {net.key(part, number, role) for net in nets(structure) for role in roles}


def _last(structure: HypernetworkStructure, factor: float) -> tuple[str, int]:
    """The last part that is linear in its tensors, all behind it letting a factor through."""
    if structure.skip_connection:
        raise RefusedInput("skip connections add the context itself: no tensor scales the change alone", mend=_MEND)
    own = [stage for stage in stages(structure) if stage.part != "dropout"]
    last = own[-1]
    if last.part == "activation":
        if structure.activation not in HOMOGENEOUS or factor < 0:
            what = f"{structure.activation} behind the last layer"
            raise RefusedInput(f"{what} lets no {'negative ' if factor < 0 else ''}factor through", mend=_MEND)
        last = own[-2]
    return last.part, last.number


def _times(tensor: LazyTensor, factor: float) -> LazyTensor:
    return computed(tensor.dtype, tensor.shape, partial(_product, tensor, factor))


def _product(tensor: LazyTensor, factor: float) -> Tensor:
    return deltas.tensor(tensor) * factor
