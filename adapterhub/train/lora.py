"""LoRA (Hu et al. 2021): h = W₀x + (α/r)·BAx, A drawn at random, B zero, W₀ frozen.

adapterhub train lora --base model.safetensors --images fox/ --prompt "a photo of sks fox" -o fox/
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear

from adapterhub.adapter import Adapter, Key, Kind, Module, Role
from adapterhub.documents import LoraSettings, Training
from adapterhub.errors import UsageError
from adapterhub.tensors import LazyTensor, scalar
from adapterhub.train.base import Base, canonical, opened
from adapterhub.train.beginning import begun, subject
from adapterhub.train.identifiers import warned
from adapterhub.train.loop import Loop, Watch
from adapterhub.train.prior import prior
from adapterhub.train.randomness import generator
from adapterhub.train.results import Made, finish, stored

ARCHITECTURES = ("sd1", "sd2", "sdxl")
SETS: Mapping[str, Sequence[str]] = {
    "attention": ("*.attn1.to_q", "*.attn1.to_k", "*.attn1.to_v", "*.attn1.to_out.0",
                  "*.attn2.to_q", "*.attn2.to_k", "*.attn2.to_v", "*.attn2.to_out.0", "*.self_attn.*_proj"),
    "cross-attention": ("*.attn2.to_q", "*.attn2.to_k", "*.attn2.to_v", "*.attn2.to_out.0"),
    "feed-forward": ("*.ff.net.*", "*.mlp.fc*"),
    "convolutions": ("*.conv1", "*.conv2", "*.conv_shortcut", "*samplers.0.conv"),
    "all": ("*",),
}  # fmt: skip
"""What --targets calls sets of modules, as patterns of canonical paths."""


class LoraLayer(nn.Module):
    """A linear layer or a convolution with a low-rank change beside it (Hu et al. 2021, equation 3).

    A is (r, I[, k, k]), B (O, r[, 1, 1]): of a convolution, A convolves and B mixes channels (LoCon). With DoRA (Liu et al.
    2024, equation 5) the result is m · (W₀ + s·BA) / ‖W₀ + s·BA‖, each norm over all but the output axis.
    """

    def __init__(self, layer: nn.Linear | nn.Conv2d, rank: int, alpha: float, scale: float, *, dora: bool) -> None:
        super().__init__()
        self.layer, self.alpha, self.scale = layer, alpha, scale
        outputs, *inputs = layer.weight.shape
        self.down = nn.Parameter(torch.empty(rank, *inputs))
        self.up = nn.Parameter(torch.zeros(outputs, rank, *[1] * (layer.weight.ndim - 2)))
        self.magnitude = nn.Parameter(_norm(layer.weight.detach().float())) if dora else None

    def initialize(self, how: str, chance: torch.Generator) -> None:
        """A from N(0, 1/r²) ("gaussian": diffusers, peft) or U(±1/√fan_in) ("kaiming": loralib's kaiming_uniform_(a=√5))."""
        if how == "gaussian":
            nn.init.normal_(self.down, std=1 / len(self.down), generator=chance)
        else:
            nn.init.kaiming_uniform_(self.down, a=math.sqrt(5), generator=chance)

    def change(self) -> Tensor:
        """s·BA in the shape of W₀."""
        return self.scale * (self.up.flatten(1) @ self.down.flatten(1)).reshape(self.layer.weight.shape)

    def forward(self, x: Tensor) -> Tensor:
        if self.magnitude is not None:
            turned = self.layer.weight.float() + self.change()
            return _applied(self.layer, x, self.magnitude / _norm(turned).detach() * turned, self.layer.bias)
        low = _applied(self.layer, x, self.down)
        plain: Tensor = self.layer(x)
        return plain + self.scale * (conv2d(low, self.up) if self.up.ndim > 2 else linear(low, self.up))


def _applied(layer: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """What `layer` would do with another weight."""
    if isinstance(layer, nn.Conv2d):
        return conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation)
    return linear(x, weight, bias)


def _norm(weight: Tensor) -> Tensor:
    """‖W‖ over all but the output axis: (O, 1[, 1, 1])."""
    norms: Tensor = weight.flatten(1).norm(dim=1)
    return norms.reshape(-1, *[1] * (weight.ndim - 1))


def train(settings: LoraSettings, *, resume: bool = False, force: bool = False, watch: Watch | None = None) -> Training:
    """Trains a LoRA as `settings` say and writes it; what goes wrong does so before the first step, wherever it can."""
    with begun(settings, resume=resume, force=force) as accelerator, opened(settings.base, ARCHITECTURES) as base:
        concepts = [subject(settings, base, [settings.prompt] if settings.prompt else [])]
        concepts += prior(settings, base, accelerator)
        odd = warned(settings.prompt, base, settings.class_prompt)
        layers = attach(base, settings)
        loop = Loop(settings, base, concepts, accelerator, watch=watch)
        loop.run()
        return finish(Made("lora", loop, adapter(base, layers), settings.layouts, facts(settings), odd))


def attach(base: Base, settings: LoraSettings) -> dict[Module, LoraLayer]:
    """Puts a LoraLayer in the place of every target of the UNet and the text encoders. UsageError for a pattern that matches
    nothing, and for a rank above a layer's width.
    """
    wanted = {"unet": settings.targets, **dict.fromkeys(base.encoders, settings.text_targets)}
    layers: dict[Module, LoraLayer] = {}
    for component, patterns in wanted.items():
        for path, parent, name in _targets(base, component, patterns):
            module = Module(component, path)
            layers[module] = _layer(module, getattr(parent, name), settings)
            setattr(parent, name, layers[module])
    return layers


def _targets(base: Base, component: str, patterns: Sequence[str]) -> list[tuple[str, nn.Module, str]]:
    """(canonical path, parent, name in it) of the layers that any of `patterns` matches."""
    layers = {canonical(base, component, path): path for path, layer in base.modules()[component].named_modules()
              if isinstance(layer, nn.Linear | nn.Conv2d)}  # fmt: skip
    taken = dict.fromkeys(path for pattern in patterns for path in _matching(layers, pattern, component))
    found = []
    for path in taken:
        parent, _, name = layers[path].rpartition(".")
        found.append((path, base.modules()[component].get_submodule(parent), name))
    return found


def _matching(paths: Iterable[str], pattern: str, component: str) -> list[str]:
    found = [path for path in paths if any(fnmatchcase(path, one) for one in SETS.get(pattern, (pattern,)))]
    if not found:
        raise UsageError(f"no layer of the {component} matches {pattern}",
                         mend=f"Give one of {', '.join(SETS)}, or a pattern of paths such as *.attn2.to_v.")  # fmt: skip
    return found


def _layer(module: Module, layer: nn.Linear | nn.Conv2d, settings: LoraSettings) -> LoraLayer:
    rank = _last(settings.ranks, module.module, settings.rank)
    alpha = float(_last(settings.alphas, module.module, settings.alpha or rank))
    widest = min(layer.weight.flatten(1).shape)
    if rank > widest:
        raise UsageError(f"the rank {rank} is above the width {widest} of {'.'.join(module)}, whose change has no higher rank",
                         mend="Lower --rank, or give these modules another with --ranks.")  # fmt: skip
    scale = alpha / math.sqrt(rank) if settings.rank_stabilized else alpha / rank
    made = LoraLayer(layer, rank, alpha, scale, dora=settings.dora)
    made.initialize(settings.initialization, generator(settings.seed, f"A of {'.'.join(module)}"))
    return made


def _last(table: Mapping[str, Any], path: str, otherwise: Any) -> Any:
    """The value of the last pattern that matches a path."""
    return next((value for pattern, value in reversed(list(table.items())) if fnmatchcase(path, pattern)), otherwise)


def adapter(base: Base, layers: Mapping[Module, LoraLayer]) -> Adapter:
    """What the layers have learned. α is that of a plain LoRA: with α/√r in training, α·√r is stored, and every reader is right."""
    tensors: dict[Key, LazyTensor] = {}
    for module, layer in layers.items():
        tensors[Key(*module, Role.UP)] = stored(layer.up)
        tensors[Key(*module, Role.DOWN)] = stored(layer.down)
        tensors[Key(*module, Role.ALPHA)] = scalar(layer.scale * len(layer.down))
        if layer.magnitude is not None:
            tensors[Key(*module, Role.DORA_SCALE)] = stored(layer.magnitude)
    return Adapter(Kind.LORA, base.architecture, tensors)


def facts(settings: LoraSettings) -> dict[str, str]:
    """Kohya's fields of the network."""
    return {"ss_network_module": "networks.lora", "ss_network_dim": str(settings.rank),
            "ss_network_alpha": str(settings.alpha or settings.rank)}  # fmt: skip
