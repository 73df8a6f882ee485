"""LoRAs of every algorithm that is a product or a difference, for true modules of SD 1, and ΔW by the formula in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

Arrays = dict[str, np.ndarray]
SHAPES = {
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k": (320, 768),
    "down_blocks.0.attentions.0.proj_in": (320, 320, 1, 1),
    "down_blocks.0.downsamplers.0.conv": (320, 320, 3, 3),
}
LINEAR, POINT, CONV = SHAPES
TEXT = "text_model.encoder.layers.0.self_attn.q_proj"
RANDOM = np.random.default_rng(11)


def head(module: str) -> str:
    """Kohya's name of a module."""
    return ("lora_te_" if module == TEXT else "lora_unet_") + module.replace(".", "_")


def normal(*shape: int, dtype: str = "f4") -> np.ndarray:
    return (RANDOM.standard_normal(shape) / 4).astype(dtype)


def lora(shape: tuple[int, ...], *, rank: int = 4, alpha: float | None = 2.0, dtype: str = "f4") -> Arrays:
    rows, columns, *kernel = shape
    made = {"lora_down.weight": normal(rank, columns, *kernel, dtype=dtype),
            "lora_up.weight": normal(rows, rank, *(1 for _ in kernel), dtype=dtype)}  # fmt: skip
    return made if alpha is None else {**made, "alpha": np.array(alpha, dtype)}


def tucker(shape: tuple[int, ...]) -> Arrays:
    rows, columns, *kernel = shape
    return {"lora_down.weight": normal(3, columns, 1, 1), "lora_mid.weight": normal(3, 3, *kernel),
            "lora_up.weight": normal(rows, 3, 1, 1), "alpha": np.float32(1.0)}  # fmt: skip


def loha(shape: tuple[int, ...]) -> Arrays:
    rows, columns = shape[0], math.prod(shape[1:])
    return {"hada_w1_a": normal(rows, 2), "hada_w1_b": normal(2, columns), "hada_w2_a": normal(rows, 2),
            "hada_w2_b": normal(2, columns), "alpha": np.float32(3.0)}  # fmt: skip


def lokr(shape: tuple[int, ...]) -> Arrays:
    rows, columns = shape[0], math.prod(shape[1:])
    return {"lokr_w1": normal(4, 2), "lokr_w2_a": normal(rows // 4, 2), "lokr_w2_b": normal(2, columns // 2),
            "alpha": np.float32(1.0)}  # fmt: skip


def lokr_whole(shape: tuple[int, ...]) -> Arrays:
    rows, columns, *kernel = shape
    return {"lokr_w1": normal(2, 2), "lokr_w2": normal(rows // 2, columns // 2, *kernel), "alpha": np.float32(9.0)}


def full(shape: tuple[int, ...]) -> Arrays:
    return {"diff": normal(*shape)}


PRODUCTS: dict[str, Callable[[tuple[int, ...]], Arrays]] = {
    "lora": lora, "tucker": tucker, "loha": loha, "lokr": lokr, "lokr, both whole": lokr_whole,
}  # fmt: skip
ADDITIVE = {**PRODUCTS, "full": full}


def change(held: Mapping[str, np.ndarray]) -> np.ndarray:
    """ΔW of the tensors of one module as a matrix (formats of LyCORIS)."""
    t = {name: array.astype("f8") for name, array in held.items()}
    alpha = float(t["alpha"]) if "alpha" in t else None
    if "diff" in t:
        return t["diff"].reshape(len(t["diff"]), -1)
    if "lora_mid.weight" in t:
        down, up = t["lora_down.weight"][:, :, 0, 0], t["lora_up.weight"][:, :, 0, 0]
        found = np.einsum("os,stkl,ti->oikl", up, t["lora_mid.weight"], down)
        return found.reshape(len(found), -1) * alpha / len(down)
    if "lora_down.weight" in t:
        down, up = (t[f"lora_{name}.weight"].reshape(len(t[f"lora_{name}.weight"]), -1) for name in ("down", "up"))
        return up @ down * (1.0 if alpha is None else alpha / len(down))
    if "hada_w1_a" in t:
        found = (t["hada_w1_a"] @ t["hada_w1_b"]) * (t["hada_w2_a"] @ t["hada_w2_b"])
        return found * alpha / len(t["hada_w1_b"])
    if "lokr_w2" in t:
        w1, w2 = t["lokr_w1"], t["lokr_w2"]
        return np.kron(w1, w2.reshape(len(w2), -1))
    return np.kron(t["lokr_w1"], t["lokr_w2_a"] @ t["lokr_w2_b"]) * alpha / len(t["lokr_w2_b"])


def saved(path: Path, modules: Mapping[str, Arrays], metadata: Mapping[str, str] | None = None) -> Path:
    """A Kohya file of these modules."""
    save_file({f"{head(module)}.{name}": np.ascontiguousarray(array) if array.ndim else np.array(array)
               for module, held in modules.items() for name, array in held.items()}, path, metadata)  # fmt: skip
    return path


def read(path: Path) -> dict[str, Arrays]:
    """The tensors of a Kohya file by module."""
    stored = load_file(path)
    names = {head(module): module for module in (*SHAPES, TEXT)}
    found: dict[str, Arrays] = {}
    for name, array in stored.items():
        start, _, role = name.partition(".")
        found.setdefault(names.get(start, start), {})[role] = array
    return found


def changes(path: Path) -> dict[str, np.ndarray]:
    """ΔW of every module of a Kohya file."""
    return {module: change(held) for module, held in read(path).items()}


def far(found: np.ndarray, expected: np.ndarray) -> float:
    """max|found − expected| / max|expected|."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def off(found: np.ndarray, expected: np.ndarray) -> float:
    """‖found − expected‖ / ‖expected‖ (Frobenius)."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def tail(matrix: np.ndarray, rank: int) -> float:
    """What the best approximation of `rank` leaves: by a singular value decomposition of all of it."""
    sizes = np.linalg.svd(matrix, compute_uv=False)
    return float(np.linalg.norm(sizes[rank:]) / np.linalg.norm(sizes))
