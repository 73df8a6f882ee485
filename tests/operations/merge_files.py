"""Tiny models in one file and Kohya's adapters for them, and what a merge must make of both by the formula in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from adapterhub import architectures
from tests.operations import checkpoint_files

Q = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
K2 = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
OUT = "up_blocks.3.attentions.2.transformer_blocks.0.attn1.to_out.0"
CONV = "down_blocks.0.resnets.0.conv1"
PROJ = "down_blocks.0.attentions.0.proj_in"
TEXT = "text_model.encoder.layers.3.self_attn.q_proj"
MODULES = {"unet": (Q, K2, OUT, CONV, PROJ), "text_encoder": (TEXT,)}
HEADS = {"unet": "lora_unet_", "text_encoder": "lora_te_", "text_encoder_2": "lora_te2_"}


def place(component: str, module: str, kind: str = "weight", architecture: str = "sd1") -> str:
    """The name of a tensor in the single file."""
    name = f"{component}.{module}.{kind}"
    return next(row.place for row in architectures.get(architecture).single_file() if name in row.tensors)


def head(component: str, module: str) -> str:
    """Kohya's name of a module of SD 1."""
    return HEADS[component] + module.replace(".", "_")


def base(path: Path, dtype: torch.dtype = torch.float16, architecture: str = "sd1", **metadata: str) -> Path:
    """A whole model of the true names, in an order that is not safetensors' own."""
    tensors = {name: torch.from_numpy(np.ascontiguousarray(value)).to(dtype)
               for name, value in checkpoint_files.weights(architecture).items()}  # fmt: skip
    tensors |= {name: torch.from_numpy(value) for name, value in checkpoint_files.positions(architecture).items()}
    save_file(tensors, path, metadata or None)
    return path


def shape(component: str, module: str) -> tuple[int, ...]:
    """Of the weight in `base`, as diffusers has it."""
    return tuple(min(size, 2) for size in architectures.get("sd1").weights[component][module])


def lora(
    path: Path, seed: int = 0, rank: int = 2, alpha: float = 1.0, dtype: torch.dtype = torch.float16,
    modules: Mapping[str, tuple[str, ...]] = MODULES,
) -> Path:  # fmt: skip
    """A LoRA or LoCon pair for each of `modules`."""
    random = torch.Generator().manual_seed(seed)
    tensors = {}
    for component, paths in modules.items():
        for module in paths:
            rows, *columns = shape(component, module)
            name = head(component, module)
            tensors[f"{name}.lora_down.weight"] = torch.randn(rank, *columns, generator=random).to(dtype)
            tensors[f"{name}.lora_up.weight"] = torch.randn(rows, rank, *(1 for _ in columns[1:]), generator=random).to(
                dtype
            )
            tensors[f"{name}.alpha"] = torch.tensor(alpha, dtype=dtype)
    save_file(tensors, path)
    return path


def changed(path: Path, edit: Callable[[dict[str, Tensor]], object]) -> Path:
    """The file with its tensors edited in place."""
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)
    return path


def change(path: Path, component: str, module: str) -> np.ndarray:
    """alpha / r · B · A in float64, in the shape of the weight."""
    tensors = {name: value.double().numpy() for name, value in load_file(path).items()}
    name = head(component, module)
    down, up = tensors[f"{name}.lora_down.weight"], tensors[f"{name}.lora_up.weight"]
    product = up.reshape(len(up), -1) @ down.reshape(len(down), -1)
    return (float(tensors[f"{name}.alpha"]) / len(down) * product).reshape(shape(component, module))


def nearest(numbers: np.ndarray, dtype: torch.dtype) -> Tensor:
    """float64 rounded once, half to even: by numpy where it does that, else by the bits of float64 (normal numbers only)."""
    if dtype is torch.float64:
        return torch.from_numpy(numbers)
    if dtype in (torch.float16, torch.float32):
        return torch.from_numpy(numbers.astype("f2" if dtype is torch.float16 else "f4"))
    digits = {torch.bfloat16: 7, torch.float8_e4m3fn: 3, torch.float8_e5m2: 2}[dtype]
    gone = np.uint64(52 - digits)
    bits = np.ascontiguousarray(numbers).view("u8")
    half = np.uint64((1 << (51 - digits)) - 1)
    rounded = ((bits + half + ((bits >> gone) & np.uint64(1))) >> gone) << gone
    return torch.from_numpy(rounded.view("f8")).to(dtype)


Bytes = dict[str, tuple[torch.dtype, tuple[int, ...], bytes]]


def content(path: Path) -> Bytes:
    """Dtype, shape and bytes of every tensor, in the order of the header."""
    return {name: (t.dtype, tuple(t.shape), t.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
            for name, t in load_file(path).items()}  # fmt: skip


def expected(model: Path, changes: Mapping[str, Callable[[np.ndarray], np.ndarray]]) -> Bytes:
    """What a file must hold whose tensors at some places are changed in float64."""
    tensors = load_file(model)
    for name, make in changes.items():
        stored = tensors[name]
        wide = stored.double().numpy()
        tensors[name] = nearest(make(wide).reshape(wide.shape), stored.dtype)
    return {name: (t.dtype, tuple(t.shape), t.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
            for name, t in tensors.items()}  # fmt: skip
