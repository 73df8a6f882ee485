"""What the tests of hypernetworks in UNets share: the formula written out, and changed weights."""

from __future__ import annotations

import torch
from torch import nn

from adapterhub.operations.base import Base
from adapterhub.operations.lora import deltas

WIDTHS = [24, 32]
"""Contexts of the tiny UNets, of cross-attention and of self-attention."""
ARCHITECTURES = ["sd1", "sd2", "sdxl"]


def run(unet, name):
    """What the UNet makes of one latent and one prompt."""
    generator = torch.Generator().manual_seed(5)
    dtype = next(unet.parameters()).dtype
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)  # noqa: E731
    added = {"text_embeds": draw(2, 32), "time_ids": draw(2, 6)} if name == "sdxl" else None
    with torch.no_grad():
        return unet(draw(2, 4, 8, 8), 500, draw(2, 5, 24), added_cond_kwargs=added).sample


def by_hand(unet, *chain):
    """The formula in the forward of every projection: `chain` are pairs of nets with a strength."""
    for module in unet.modules():
        if hasattr(module, "to_k"):
            for half, projection in enumerate((module.to_k, module.to_v)):
                projection.forward = through(projection, half, chain)
    return unet


def through(projection, half, chain):
    def forward(context):
        for made, strength in chain:
            if context.shape[-1] in made:
                context = made[context.shape[-1]][half](context, strength)
        return nn.Linear.forward(projection, context)

    return forward


def close(found, wanted, tolerance=1e-6):
    assert float((found - wanted).abs().max() / wanted.abs().max()) <= tolerance


def differ(found, wanted):
    assert float((found - wanted).abs().max()) > 1e-3


def base_of(unet, name, dtype="F32"):
    weights = {f"unet.{path}": deltas.lazy(value.clone(), dtype) for path, value in unet.state_dict().items()}
    return Base(name, weights)


def changed(unet, adapter):
    """The UNet with an adapter's full differences added."""
    with torch.no_grad():
        for (_, module, role), tensor in adapter.tensors.items():
            target = unet.get_submodule(module)
            (target.weight if role == "diff" else target.bias).add_(deltas.tensor(tensor, target.weight.dtype))
    return unet
