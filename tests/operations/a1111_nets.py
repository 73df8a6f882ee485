"""Hypernetworks as A1111 builds and saves them, from the description of its format in torch's own modules."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

CLASSES = {
    "relu": nn.ReLU, "leakyrelu": nn.LeakyReLU, "elu": nn.ELU, "swish": nn.Hardswish, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU, "mish": nn.Mish, "gelu": nn.GELU, "softsign": nn.Softsign, "prelu": nn.PReLU, "rrelu": nn.RReLU,
}  # fmt: skip
FIELDS = {
    "step": 100,
    "name": "style",
    "sd_checkpoint": "deadbeef",
    "sd_checkpoint_name": "base",
    "optional_info": None,
}


class Module(nn.Module):
    """y = x + m·linear(x)."""

    def __init__(self, width: int, layers: list[float], activation: str | None = None, norm: bool = False,
                 activate_output: bool = False, dropout: list[float] | None = None) -> None:  # fmt: skip
        super().__init__()
        modules: list[nn.Module] = []
        for j in range(len(layers) - 1):
            out = int(width * layers[j + 1])
            modules.append(nn.Linear(int(width * layers[j]), out))
            if activation not in (None, "linear") and (j < len(layers) - 2 or activate_output):
                modules.append(CLASSES[activation]())
            if norm:
                modules.append(nn.LayerNorm(out))
            if dropout and dropout[j + 1] > 0:
                modules.append(nn.Dropout(dropout[j + 1]))
        self.linear = nn.Sequential(*modules)
        self.eval()

    def forward(self, x: Tensor, m: float = 1.0) -> Tensor:
        return x + self.linear(x) * m


class Block(nn.Module):
    """A layer of HN-ext's networks with skip connections."""

    def __init__(self, before: int, after: int, activation: str | None, norm: bool, up: bool) -> None:
        super().__init__()
        self.after = after
        self.upsample_layer = nn.Linear(before, after, bias=False) if up else None
        parts = [nn.Linear(before, after)]
        parts += [nn.LayerNorm(after)] * norm
        parts += [CLASSES[activation]()] if activation not in (None, "linear") else []
        self.linear = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        if self.upsample_layer is not None:
            return self.upsample_layer(x) + self.linear(x)
        return nn.functional.interpolate(x, size=self.after, mode="nearest-exact") + self.linear(x)


class Residual(nn.Module):
    """y = x + m·(linear(x) - x)."""

    def __init__(self, width: int, layers: list[float], activation: str | None, norm: bool, up: bool) -> None:
        super().__init__()
        wide = [int(width * layer) for layer in layers]
        self.linear = nn.Sequential(*(Block(a, b, activation, norm, up) for a, b in itertools.pairwise(wide)))
        self.eval()

    def forward(self, x: Tensor, m: float = 1.0) -> Tensor:
        return x + m * (self.linear(x) - x)


Pairs = dict[int, tuple[nn.Module, nn.Module]]


def pairs(widths: list[int], layers: list[float], *, seed: int = 0, spread: float = 0.05, **options: Any) -> Pairs:
    """A net for keys and one for values of each width, with numbers of some size everywhere."""
    torch.manual_seed(seed)
    kind = Residual if "up" in options else Module
    made = {width: (kind(width, layers, **options), kind(width, layers, **options)) for width in widths}
    with torch.no_grad():
        for pair in made.values():
            for parameter in (p for net in pair for p in net.parameters()):
                parameter.requires_grad_(False).copy_(torch.randn_like(parameter) * spread)
    return made


def saved(path: Path, made: Pairs, layers: list[float], *, without: tuple[str, ...] = (), **fields: Any) -> Path:
    """The file that A1111 saves."""
    tree: dict[Any, Any] = {
        width: tuple(OrderedDict(net.state_dict()) for net in pair) for width, pair in made.items()
    } | FIELDS | {
        "layer_structure": layers, "activation_func": "linear", "is_layer_norm": False, "weight_initialization": "Normal",
        "activate_output": False, "use_dropout": False, "dropout_structure": None, "last_layer_dropout": False,
    } | fields  # fmt: skip
    torch.save({key: value for key, value in tree.items() if key not in without}, path)
    return path


def hypernetwork(
    path: Path, widths: list[int], layers: list[float], activation: str = "linear", norm: bool = False,
    activate_output: bool = False, dropout: list[float] | None = None, seed: int = 0, spread: float = 0.05,
) -> Pairs:  # fmt: skip
    """Saves such a file to `path` and gives its nets."""
    made = pairs(widths, layers, activation=activation, norm=norm, activate_output=activate_output, dropout=dropout,
                 seed=seed, spread=spread)  # fmt: skip
    saved(path, made, layers, activation_func=activation, is_layer_norm=norm, activate_output=activate_output,
          use_dropout=dropout is not None, dropout_structure=dropout)  # fmt: skip
    return made


def loaded(path: Path) -> Pairs:
    """What A1111 makes of a file: every default of its `load`, and a strict `load_state_dict`."""
    tree = torch.load(path, weights_only=True)
    layers = tree.get("layer_structure", [1, 2, 1])
    dropout = tree.get("dropout_structure")
    if dropout is None and tree.get("use_dropout", False):
        dropout = [0] + [0.3] * (len(layers) - 3) + [0.3 if tree.get("last_layer_dropout", False) else 0] + [0]
    made: Pairs = {}
    for width, (k, v) in ((key, value) for key, value in tree.items() if type(key) is int):
        pair = []
        for state in (k, v):
            net = Module(width, layers, tree.get("activation_func"), tree.get("is_layer_norm", False),
                         tree.get("activate_output", True), dropout)  # fmt: skip
            net.load_state_dict(state)
            pair.append(net)
        made[width] = (pair[0], pair[1])
    return made
