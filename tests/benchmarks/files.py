"""Files of full size, with true names and random float16 values, for measuring only."""

from __future__ import annotations

import math
import struct
import sys
from pathlib import Path

import numpy as np

import adapterhub.architectures as architectures
from adapterhub import files
from adapterhub.adapter import Adapter, Key, Kind, Role
from adapterhub.files import File, Package
from adapterhub.layouts import get
from adapterhub.layouts.checkpoint.places import put_together
from adapterhub.tensors import LazyTensor, Shape, from_bytes

_TRAINED = (".attn1.", ".attn2.", ".ff.net.", "proj_in", "proj_out", ".self_attn.", ".mlp.")
_RANDOM = (0.02 * np.random.default_rng(0).standard_normal(1 << 22)).astype("<f2").tobytes()
"""Small enough that a whole model of it computes numbers."""


def kohya_lora(path: Path, architecture: str, rank: int) -> Path:
    """What Kohya trains by default: every attention, feed-forward and projection of UNet and text encoders."""
    tensors: dict[Key, LazyTensor] = {}
    for component, weights in architectures.get(architecture).weights.items():
        for module, shape in weights.items():
            if component == "vae" or len(shape) < 2 or not any(part in f".{module}" for part in _TRAINED):
                continue
            tensors[Key(component, module, Role.DOWN)] = _random((rank, *shape[1:]))
            tensors[Key(component, module, Role.UP)] = _random((shape[0], rank, *(1 for _ in shape[2:])))
            tensors[Key(component, module, Role.ALPHA)] = from_bytes("F16", (), struct.pack("<e", rank / 2))
    adapter = Adapter(Kind.LORA, architecture, tensors, {"ss_network_dim": str(rank)})
    files.write(get("kohya").encode(adapter).package, path)
    return path


def model(path: Path, architecture: str) -> Path:
    """A whole model of full size in one file: safetensors, or the `.ckpt` of a trainer; float16."""
    whole = architectures.get(architecture)
    ours = {
        Key(component, module, Role.LAYER_WEIGHT if kind == "weight" else Role.LAYER_BIAS): _endless(shape)
        for component in whole.parts
        for module, kind, shape in whole.tensors(component)
    }
    tensors = put_together(ours, architecture)
    file = File(tensors)
    if path.suffix == ".ckpt":
        file = File({}, {}, {"state_dict": tensors, "global_step": 1000}, files.TORCH_ZIP)
    files.write(Package.new({path.name: file}), path)
    return path


def embedding(path: Path) -> Path:
    """A1111's `.pt` of 8 vectors for SD 1."""
    tree = {"string_to_token": {"*": 265}, "string_to_param": {"*": _random((8, 768))}, "name": path.stem, "step": 1}
    files.write(Package.new({path.name: File({}, {}, tree, files.TORCH_ZIP)}), path)
    return path


def picture(path: Path) -> None:
    """Noise of 256 × 256."""
    from PIL import Image

    Image.fromarray(np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)).save(path)


def _endless(shape: Shape) -> LazyTensor:
    """The same random numbers over and over, never all in memory."""
    size = 2 * math.prod(shape)
    return LazyTensor(
        "F16", shape, lambda: (_RANDOM[: min(len(_RANDOM), size - at)] for at in range(0, size, len(_RANDOM)))
    )


def _random(shape: Shape) -> LazyTensor:
    size = 2 * int(np.prod(shape))
    return from_bytes("F16", shape, (_RANDOM * (size // len(_RANDOM) + 1))[:size])


if __name__ == "__main__":  # a process of its own, whose memory is not the measured one's
    match sys.argv[1:]:
        case ["lora", path, architecture, rank]:
            kohya_lora(Path(path), architecture, int(rank))
        case ["model", path, architecture]:
            model(Path(path), architecture)
        case ["embedding", path]:
            embedding(Path(path))
        case ["picture", path]:
            picture(Path(path))
