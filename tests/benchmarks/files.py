"""Files of full size, with true names and random float16 values, for measuring only."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np

import adapterhub.architectures as architectures
from adapterhub import files
from adapterhub.adapter import Adapter, Key, Kind, Role
from adapterhub.layouts import get
from adapterhub.tensors import LazyTensor, Shape, from_bytes

_TRAINED = (".attn1.", ".attn2.", ".ff.net.", "proj_in", "proj_out", ".self_attn.", ".mlp.")
_RANDOM = np.random.default_rng(0).standard_normal(1 << 22).astype("<f2").tobytes()


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


def _random(shape: Shape) -> LazyTensor:
    size = 2 * int(np.prod(shape))
    return from_bytes("F16", shape, (_RANDOM * (size // len(_RANDOM) + 1))[:size])


if __name__ == "__main__":  # a process of its own, whose memory is not the measured one's
    kohya_lora(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
