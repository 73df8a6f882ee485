"""Kohya files of one algorithm each for the tiny models, in every layout that has a place for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from adapterhub.adapter import Module
from adapterhub.documents import Verdict
from adapterhub.errors import LossyConversion, NeedsBase
from adapterhub.operations.convert import convert
from adapterhub.operations.fit.compatible import compatible
from tests.consumers.conftest import Workbench, built, spelled

Part = Callable[[nn.Module], dict[str, Tensor]]
RANK = 2
LAYOUTS = {
    "kohya": ".safetensors", "kohya-diffusers-names": ".safetensors", "comfyui": ".safetensors", "omi": ".safetensors",
    "diffusers": ".safetensors", "diffusers-lora-linear": ".safetensors", "diffusers-attn-procs": ".safetensors", "peft": "",
}  # fmt: skip
"""Every layout that is written and needs no order of modules, and how its files end."""


def shape(layer: nn.Module) -> tuple[int, int, tuple[int, ...]]:
    rows, columns, *kernel = layer.weight.shape
    return rows, columns, tuple(kernel)


def lora(layer: nn.Module) -> dict[str, Tensor]:
    rows, columns, kernel = shape(layer)
    return {".lora_down.weight": torch.randn(RANK, columns, *kernel), ".alpha": torch.tensor(1.0),
            ".lora_up.weight": torch.randn(rows, RANK, *(1 for _ in kernel))}  # fmt: skip


def tucker(layer: nn.Module) -> dict[str, Tensor]:
    rows, columns, kernel = shape(layer)
    if not kernel:
        return lora(layer)
    return {".lora_down.weight": torch.randn(RANK, columns, 1, 1), ".lora_mid.weight": torch.randn(RANK, RANK, *kernel),
            ".lora_up.weight": torch.randn(rows, RANK, 1, 1), ".alpha": torch.tensor(1.0)}  # fmt: skip


def dora(layer: nn.Module) -> dict[str, Tensor]:
    rows, _, kernel = shape(layer)
    return {**lora(layer), ".dora_scale": torch.rand(rows, 1, *(1 for _ in kernel)) + 1}


def dora_columns(layer: nn.Module) -> dict[str, Tensor]:
    _, columns, kernel = shape(layer)
    return {**lora(layer), ".dora_scale": torch.rand(1, columns, *(1 for _ in kernel)) + 1}


def shifted(layer: nn.Module) -> dict[str, Tensor]:
    return {**lora(layer), **({".diff_b": torch.randn(len(layer.bias))} if layer.bias is not None else {})}


def loha(layer: nn.Module) -> dict[str, Tensor]:
    rows, columns, kernel = shape(layer)
    flat = columns * torch.Size(kernel).numel()
    return {".hada_w1_a": torch.randn(rows, RANK), ".hada_w1_b": torch.randn(RANK, flat), ".alpha": torch.tensor(1.0),
            ".hada_w2_a": torch.randn(rows, RANK), ".hada_w2_b": torch.randn(RANK, flat)}  # fmt: skip


def lokr(layer: nn.Module) -> dict[str, Tensor]:
    rows, columns, kernel = shape(layer)
    return {".lokr_w1": torch.randn(2, 2), ".lokr_w2_a": torch.randn(rows // 2, RANK), ".alpha": torch.tensor(1.0),
            ".lokr_w2_b": torch.randn(RANK, columns // 2 * torch.Size(kernel).numel())}  # fmt: skip


def ia3(layer: nn.Module) -> dict[str, Tensor]:
    return {".weight": torch.randn(layer.weight.shape[0]), ".on_input": torch.tensor(0)}


def oft(layer: nn.Module) -> dict[str, Tensor]:
    return {".oft_blocks": torch.randn(layer.weight.shape[0] // 4, 4, 4), ".alpha": torch.tensor(0.0)}


def boft(layer: nn.Module) -> dict[str, Tensor]:
    return {".oft_blocks": torch.randn(2, layer.weight.shape[0] // 4, 4, 4), ".alpha": torch.tensor(0.0)}


def glora(layer: nn.Module) -> dict[str, Tensor]:
    rows, columns, _ = shape(layer)
    return {".a1.weight": torch.randn(columns, RANK), ".a2.weight": torch.randn(RANK, columns), ".alpha": torch.tensor(1.0),
            ".b1.weight": torch.randn(rows, RANK), ".b2.weight": torch.randn(RANK, columns)}  # fmt: skip


def full(layer: nn.Module) -> dict[str, Tensor]:
    return {".diff": torch.randn(layer.weight.shape)}


EVERYWHERE = {"lora": lora, "tucker": tucker, "dora": dora, "dora-columns": dora_columns, "shifted": shifted, "loha": loha,
              "lokr": lokr, "full": full}  # fmt: skip
LINEAR = {"ia3": ia3, "oft": oft, "boft": boft, "glora": glora}
"""Algorithms that the made files have for linear layers alone."""
PARTS: dict[str, Part] = {**EVERYWHERE, **LINEAR}


def in_attention(module: Module) -> bool:
    return ".attn" in module.module or ".self_attn." in module.module


def everywhere(module: Module) -> bool:
    return True


def made(bench: Workbench, architecture: str, algorithm: str, folder: Path) -> Path:
    """A Kohya file of one algorithm, for every layer that it has a part for."""
    torch.manual_seed(4)
    only = in_attention if algorithm in LINEAR else everywhere
    tensors = {spelled(architecture, module) + suffix: tensor.contiguous()
               for module, layer in bench.layers(built(architecture)).items() if only(module)
               for suffix, tensor in PARTS[algorithm](layer).items()}  # fmt: skip
    path = folder / "kohya.safetensors"
    save_file(tensors, path)
    return path


def in_layout(source: Path, layout: str, architecture: str, folder: Path) -> Path | None:
    """The file in another layout; None where that has no place for it."""
    if layout == "kohya":
        return source
    target = folder / f"made{LAYOUTS[layout]}"
    try:
        convert(source, target, to=layout, architecture=architecture)
    except (LossyConversion, NeedsBase):
        return None
    return target


def verdict(path: Path, architecture: str, reader: str) -> Verdict:
    """What we foretell."""
    return next(one for one in compatible(path, architecture=architecture).readers if one.reader == reader)
