"""Shapes as the architecture has them: factors of a linear module are 2-D, of a convolution 4-D; the same bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping

import adapterhub.architectures as architectures
from adapterhub.adapter import Adapter, Key, Module, Role, Roles
from adapterhub.errors import BrokenAdapter
from adapterhub.operations.ledger import Ledger
from adapterhub.operations.lora.naming import naming
from adapterhub.tensors import LazyTensor, Shape


def conform(adapter: Adapter, ledger: Ledger) -> Adapter:
    """The adapter with every pair and magnitude in the number of dimensions of its weight."""
    weights = architectures.get(adapter.architecture).weights
    tensors = dict(adapter.tensors)
    for (component, module), roles in adapter.modules().items():
        weight = weights.get(component, {}).get(module)
        with naming(Module(component, module)):
            conformed = _conformed(roles, weight) if weight else {}
        for role, tensor in conformed.items():
            key = Key(component, module, role)
            tensors[key] = tensor
            ledger.replace([key], [key], "reshape", f"{list(roles[role].shape)} as {list(tensor.shape)}")
    return adapter.with_tensors(tensors)


def _conformed(roles: Roles, weight: Shape) -> Mapping[Role, LazyTensor]:
    """The tensors of one module that have to change their shape. BrokenAdapter for a kernel where none can be."""
    shaped = {}
    for role, tensor in roles.items():
        shape = _shape(role, tensor, roles, weight)
        if shape is not None and shape != tensor.shape and len(shape) != len(tensor.shape):
            if math.prod(shape) != tensor.size:
                raise BrokenAdapter(f"{role} is {tensor.dtype} {list(tensor.shape)}, which no {role} is",
                                    mend="The file is damaged.")  # fmt: skip
            shaped[role] = tensor.reshape(*shape)
    return shaped


def _shape(role: Role, tensor: LazyTensor, roles: Roles, weight: Shape) -> Shape | None:
    ones = (1,) * (len(weight) - 2)
    if role is Role.UP and len(tensor.shape) >= 2:
        return (*tensor.shape[:2], *ones)
    if role is Role.DOWN and len(tensor.shape) >= 2:
        if Role.MID in roles or len(weight) == 2 or all(side == 1 for side in weight[2:]):
            return (*tensor.shape[:2], *ones) if tensor.size == tensor.shape[0] * tensor.shape[1] else None
        rank, columns = tensor.shape[0], tensor.size // max(tensor.shape[0], 1)
        kernel = weight[2] * weight[3]
        return (rank, columns // kernel, *weight[2:]) if columns % kernel == 0 else None
    if role is Role.DORA_SCALE and tensor.size > 1:
        on_input = len(tensor.shape) > 1 and tensor.shape[0] == 1
        return (1, tensor.size, *ones) if on_input else (tensor.size, 1, *ones)
    return None
