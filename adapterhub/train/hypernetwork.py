"""Hypernetworks (A1111): small nets that change what attention makes its keys and values of, k = W_k(x + f_k(x)), v = W_v(x + f_v(x)).

adapterhub train hypernetwork --base model.safetensors --images fox/ --prompt "a photo of sks fox" -o fox/

There is a pair of nets for each width of contexts, shared by all attentions that have it; those of self-attention are contexts, too.
Source: A1111 `modules/hypernetworks/hypernetwork.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adapterhub.adapter import Adapter, Key, Kind
from adapterhub.documents import HypernetworkSettings, HypernetworkStructure, Training
from adapterhub.errors import UnknownName, UsageError
from adapterhub.layouts.hypernetwork.structure import ACTIVATIONS, LINEAR, ROLES, Net, nets, stages, with_structure
from adapterhub.operations.hypernetwork.attaching import attentions
from adapterhub.operations.hypernetwork.network import CLASSES
from adapterhub.operations.recipe import named
from adapterhub.tensors import LazyTensor
from adapterhub.train.base import Base, opened
from adapterhub.train.beginning import begun, subject
from adapterhub.train.loop import Loop, Watch
from adapterhub.train.randomness import generator
from adapterhub.train.results import Made, finish, of_a1111, stored

ARCHITECTURES = ("sd1", "sd2")
_STD = 0.01
"""σ of A1111's Normal initialization, and of the weights of its layer norms under every initialization."""


class HypernetworkModule(nn.Module):
    """One net, y = x + f(x), for contexts (…, width): linear layers from multiple to multiple of the width, behind each the
    activation (behind the last only with `activate_output`), a layer norm and dropout, as far as there are any.
    """

    def __init__(self, width: int, structure: HypernetworkStructure) -> None:
        super().__init__()
        self.linear = nn.Sequential(*_layers(width, structure))

    def initialize(self, how: str, activation: str, chance: torch.Generator) -> None:
        """Weights as A1111 draws them, biases zero."""
        for layer in self.linear:
            if isinstance(layer, nn.Linear | nn.LayerNorm):
                nn.init.zeros_(layer.bias)
                fill = _INITIALIZATIONS[how] if isinstance(layer, nn.Linear) else _normal
                fill(layer.weight, activation, chance)

    def forward(self, x: Tensor) -> Tensor:
        changed: Tensor = self.linear(x)
        return x + changed


def _layers(width: int, structure: HypernetworkStructure) -> Iterator[nn.Module]:
    sizes = [int(width * multiple) for multiple in structure.layer_structure]
    last = len(sizes) - 2
    for index, (before, after) in enumerate(pairwise(sizes)):
        yield nn.Linear(before, after)
        if structure.activation != LINEAR and (index < last or structure.activate_output):
            yield CLASSES[structure.activation]()
        if structure.layer_norm:
            yield nn.LayerNorm(after)
        if structure.dropout and structure.dropout[index + 1]:
            yield nn.Dropout(structure.dropout[index + 1])


def _normal(weight: Tensor, activation: str, chance: torch.Generator) -> None:
    nn.init.normal_(weight, std=_STD, generator=chance)


def _kaiming(fill: Any) -> Any:
    def filled(weight: Tensor, activation: str, chance: torch.Generator) -> None:
        fill(weight, nonlinearity="leaky_relu" if activation == "leakyrelu" else "relu", generator=chance)

    return filled


def _xavier(fill: Any) -> Any:
    return lambda weight, activation, chance: fill(weight, generator=chance)


_INITIALIZATIONS: Mapping[str, Any] = {
    "Normal": _normal,
    "XavierUniform": _xavier(nn.init.xavier_uniform_),
    "XavierNormal": _xavier(nn.init.xavier_normal_),
    "KaimingUniform": _kaiming(nn.init.kaiming_uniform_),
    "KaimingNormal": _kaiming(nn.init.kaiming_normal_),
}


def train(
    settings: HypernetworkSettings, *, resume: bool = False, force: bool = False, watch: Watch | None = None
) -> Training:
    """Trains a hypernetwork as `settings` say and writes it; what goes wrong does so before the first step, wherever it can."""
    with begun(settings, resume=resume, force=force) as accelerator, opened(settings.base, ARCHITECTURES) as base:
        structure = structured(settings, base)
        concept = subject(settings, base, [settings.prompt] if settings.prompt else [])
        made = attach(base, structure, settings.seed)
        beside = nn.ModuleDict({f"{width}{half}": module for (width, half), module in made.items()})
        loop = Loop(settings, base, [concept], accelerator, beside=beside, watch=watch)
        loop.run()
        told = of_a1111(loop, named(Path(settings.output)))
        return finish(Made("hypernetwork", loop, adapter(base, made, structure), settings.layouts, told))


def structured(settings: HypernetworkSettings, base: Base) -> HypernetworkStructure:
    """What nets are made of. UsageError for widths that no attention has, and for what A1111 would not build or reads otherwise."""
    layers, dropout = list(settings.layer_structure), list(settings.dropout)
    if len(layers) < 2 or (layers[0], layers[-1]) != (1, 1):
        raise UsageError(f"the layer structure {_listed(layers)} does not begin and end with 1",
                         mend="What a net gives is as wide as what it is given: 1, 2, 1 for example.")  # fmt: skip
    if settings.activation not in ACTIVATIONS:
        raise UnknownName("activation", settings.activation, tuple(sorted(ACTIVATIONS)))
    if dropout and (len(dropout) != len(layers) or dropout[0] or dropout[-1]):
        raise UsageError(f"the dropout {_listed(dropout)} does not fit the layers {_listed(layers)}",
                         mend="Give a share for each of them, 0 for the first and the last: 0, 0.3, 0 for example.")  # fmt: skip
    try:
        made = HypernetworkStructure.of({
            "widths": _widths(settings, base), "layer_structure": layers, "activation": settings.activation,
            "activate_output": settings.activate_output, "layer_norm": settings.layer_norm,
            "dropout": dropout if any(dropout) else None, "weight_initialization": settings.initialization,
        })  # fmt: skip
    except ValueError as error:
        raise UsageError(
            f"no net has such a structure: {error}", mend="Give multiples above 0, and shares below 1."
        ) from None
    if narrow := [width for width in made.widths for multiple in layers if int(width * multiple) < 1]:
        raise UsageError(f"a layer of {_listed(layers)} times the width {narrow[0]} has no room for a number",
                         mend="Give larger multiples.")  # fmt: skip
    return made


def _widths(settings: HypernetworkSettings, base: Base) -> list[int]:
    """The widths of contexts that get nets, of those that the UNet's attentions have."""
    there = sorted({place.to_k.in_features for place in attentions(base.unet)})
    if settings.widths == "all":
        return there
    wanted = [base.unet.config.cross_attention_dim] if settings.widths == "text" else sorted(set(settings.widths))
    if not wanted:
        raise UsageError("no widths were given", mend=f"Give all, text, or some of {_listed(there)}.")
    if strange := sorted(set(wanted) - set(there)):
        raise UsageError(f"no attention of the base has contexts of the width {_listed(strange)}",
                         mend=f"Give all, text, or some of {_listed(there)}.")  # fmt: skip
    return wanted


def attach(base: Base, structure: HypernetworkStructure, seed: int) -> dict[Net, HypernetworkModule]:
    """New nets before the projections of all attentions that have contexts of their widths."""
    made = {net: HypernetworkModule(net.width, structure) for net in nets(structure)}
    for net, module in made.items():
        how = str(structure.weight_initialization)
        module.initialize(how, structure.activation, generator(seed, f"net {net.width}.{net.half}"))
    for place in attentions(base.unet):
        width = place.to_k.in_features
        if width in structure.widths:
            place.to_k.register_forward_pre_hook(partial(_changed, made[Net(width, "k")]))
            place.to_v.register_forward_pre_hook(partial(_changed, made[Net(width, "v")]))
    return made


def _changed(net: nn.Module, projection: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What a projection is given instead of its context."""
    context, *others = arguments
    return (net(context), *others)


def adapter(base: Base, made: Mapping[Net, HypernetworkModule], structure: HypernetworkStructure) -> Adapter:
    """What the nets have learned."""
    tensors: dict[Key, LazyTensor] = {}
    for net, module in made.items():
        for (part, number, _), layer in zip(stages(structure), module.linear, strict=True):
            for name, value in layer.named_parameters():
                tensors[net.key(part, number, ROLES[name])] = stored(value)
    return Adapter(Kind.HYPERNETWORK, base.architecture, tensors, with_structure({}, structure))


def _listed(numbers: Any) -> str:
    return ", ".join(f"{number:g}" for number in numbers)
