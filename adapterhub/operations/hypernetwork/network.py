"""A net in torch: y = x + m·f(x) by A1111's formula, f the stages in their order, without dropout.

Sources: A1111 `modules/hypernetworks/hypernetwork.py` (`HypernetworkModule.forward`, `apply_single_hypernetwork`); of nets
with skip connections, y = x + m·(f(x) - x), aria1th/Hypernetwork-MonkeyPatch-Extension `patches/hypernetwork.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from adapterhub.adapter import Adapter, Key, Role
from adapterhub.layouts.hypernetwork.structure import ACTIVATIONS, LINEAR, Net, Stage, sizes, stages, structure_of
from adapterhub.operations.lora import deltas
from adapterhub.tensors import LazyTensor

CLASSES: Mapping[str, type[nn.Module]] = {
    **{name.lower(): getattr(nn, name) for name in nn.modules.activation.__all__ if name.lower() in ACTIVATIONS},
    "swish": nn.Hardswish, LINEAR: nn.Identity,
}  # fmt: skip
"""Activations by A1111's names."""


class Network(nn.Module):
    """One net of an adapter; computes in `dtype`, whatever it is given, and answers in the dtype that it was given."""

    def __init__(self, adapter: Adapter, net: Net, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        structure = structure_of(adapter)
        self.dtype, self.residual = dtype, structure.skip_connection
        held = _Held(adapter.tensors, net, structure.activation, dtype)
        blocks: list[nn.Module] = []
        if structure.skip_connection:
            for layer, size in enumerate(sizes(structure, net.width)[1:]):
                blocks.append(_Block([stage for stage in stages(structure) if stage.number == layer], size, held))
        else:
            blocks = [held.module(stage) for stage in stages(structure) if stage.part != "dropout"]
        self.linear = nn.Sequential(*blocks)
        self.eval().requires_grad_(False)

    def change(self, x: Tensor) -> Tensor:
        """y - x at strength 1, of x (…, width) in `dtype`."""
        made: Tensor = self.linear(x)
        return made - x if self.residual else made

    def forward(self, x: Tensor, strength: float = 1.0) -> Tensor:
        self.to(x.device)
        with torch.autocast(x.device.type, enabled=False):
            wide = x.to(self.dtype)
            return (wide + self.change(wide) * strength).to(x.dtype)


class _Block(nn.Module):
    """HN-ext's layer: its input, brought to `size`, is added to what it makes of it."""

    def __init__(self, block: Iterable[Stage], size: int, held: _Held) -> None:
        super().__init__()
        parts = {stage.part: held.module(stage) for stage in block if stage.part != "dropout"}
        self.size = size
        self.upsample = parts.pop("upsample", None)
        self.linear = nn.Sequential(*parts.values())

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.linear(x)
        if self.upsample is not None:
            widened: Tensor = self.upsample(x)
            return widened + made
        rows = x.reshape(1, -1, x.shape[-1])
        return interpolate(rows, size=self.size, mode="nearest-exact").reshape(made.shape) + made


class _Held:
    """The tensors of one net, as modules."""

    def __init__(self, tensors: Mapping[Key, LazyTensor], net: Net, activation: str, dtype: torch.dtype) -> None:
        self._tensors, self._net, self._activation, self._dtype = tensors, net, activation, dtype

    def module(self, stage: Stage) -> nn.Module:
        """The module of a stage, in evaluation."""
        weight, bias = (self._value(stage, role) for role in (Role.LAYER_WEIGHT, Role.LAYER_BIAS))
        return _filled(_MODULES[stage.part](self._activation, weight), weight, bias)

    def _value(self, stage: Stage, role: Role) -> Tensor | None:
        stored = self._tensors.get(self._net.key(stage.part, stage.number, role))
        return None if stored is None else deltas.tensor(stored, self._dtype)


def _linear(weight: Tensor | None, *, biased: bool) -> nn.Module:
    assert weight is not None
    return nn.Linear(weight.shape[1], weight.shape[0], bias=biased, device="meta")


def _norm(weight: Tensor | None) -> nn.Module:
    assert weight is not None
    return nn.LayerNorm(weight.shape, device="meta")


_MODULES: Mapping[str, Callable[[str, Tensor | None], nn.Module]] = {
    "linear": lambda _, weight: _linear(weight, biased=True),
    "upsample": lambda _, weight: _linear(weight, biased=False),
    "norm": lambda _, weight: _norm(weight),
    "activation": lambda activation, _: CLASSES[activation](),
}


def _filled(module: nn.Module, weight: Tensor | None, bias: Tensor | None) -> nn.Module:
    state = {name: value for name, value in (("weight", weight), ("bias", bias)) if value is not None}
    module.load_state_dict(state, assign=True)
    return module
