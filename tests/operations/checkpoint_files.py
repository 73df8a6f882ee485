"""Single files of the true names with tiny tensors, no two alike, and everything that stands beside the weights in real ones."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

import adapterhub
from adapterhub import architectures

Tensors = dict[str, np.ndarray]
UNET = "model.diffusion_model."
CONV_IN = f"{UNET}input_blocks.0.0.weight"
POSITIONS = {
    "sd1": "cond_stage_model.transformer.text_model.embeddings.position_ids",
    "sd2": "cond_stage_model.model.transformer.text_model.embeddings.position_ids",
    "sdxl": "conditioner.embedders.0.transformer.text_model.embeddings.position_ids",
}
OPEN_CLIP = {
    "sd2": "cond_stage_model.model.", "sdxl": "conditioner.embedders.1.model.",
    "sdxl-refiner": "conditioner.embedders.0.model.",
}  # fmt: skip
SCHEDULE = (
    "betas alphas_cumprod alphas_cumprod_prev sqrt_alphas_cumprod sqrt_one_minus_alphas_cumprod "
    "log_one_minus_alphas_cumprod sqrt_recip_alphas_cumprod sqrt_recipm1_alphas_cumprod posterior_variance "
    "posterior_log_variance_clipped posterior_mean_coef1 posterior_mean_coef2 logvar scale_factor"
).split()
"""The buffers of `ldm/models/diffusion/ddpm.py`."""


def weights(name: str, dtype: str = "f4", channels: int = 4) -> Tensors:
    """Every tensor of the single file of an architecture; the UNet's first takes `channels`."""
    found = {place: tensor.astype(dtype) for place, tensor in _weights(name).items()}
    found[CONV_IN] = np.resize(found[CONV_IN], (2, channels, 3, 3))
    return found


@cache
def _weights(name: str) -> Tensors:
    model, random = architectures.get(name), np.random.default_rng(0)
    shapes = {f"{component}.{path}.{kind}": shape for component in model.weights
              for path, kind, shape in model.tensors(component)}  # fmt: skip
    found = {}
    for row in model.single_file():
        shape = [min(size, 2) for size in shapes[row.tensors[0]]]
        shape[0] *= len(row.tensors)
        found[row.place] = random.standard_normal([*shape, *[1] * (2 if row.crossing == "reshaped" else 0)])
    return found


def averages(tensors: Mapping[str, np.ndarray], start: str = "model.") -> Tensors:
    """Moving averages of the UNet as CompVis' LDM names them; the DreamBooth extension strips a longer `start`."""
    found = {f"model_ema.{place.removeprefix(start).replace('.', '')}": tensor + tensor.dtype.type(1)
             for place, tensor in tensors.items() if place.startswith(UNET)}  # fmt: skip
    return {**found, "model_ema.decay": np.float32([0.9999]), "model_ema.num_updates": np.int32([470])}


def schedule() -> Tensors:
    """What DDPM registers as buffers."""
    return {name: np.linspace(0, number, 10, dtype="f4") for number, name in enumerate(SCHEDULE, 1)}


def unused_text(name: str) -> Tensors:
    """What OpenCLIP has and the text encoder of diffusers does not."""
    head = OPEN_CLIP[name]
    found: Tensors = {f"{head}logit_scale": np.array(4.6, "f4")}
    if name == "sd2":
        block = f"{head}transformer.resblocks.22."
        found |= {place.replace(".22.", ".23."): tensor.astype("f4") * 2 for place, tensor in _weights("sd2").items()
                  if place.startswith(block)}  # fmt: skip
        found[f"{head}text_projection"] = np.arange(4, dtype="f4").reshape(2, 2)
    return found


def positions(name: str, dtype: str = "i8") -> Tensors:
    """0 to 76, as a text encoder of transformers keeps them."""
    return {POSITIONS[name]: np.arange(77).astype(dtype)[None]}


MARKERS = {"v_pred": np.zeros(0, "f4"), "ztsnr": np.zeros(0, "f4")}
FOREIGN = {"my_trainer.state.0": np.float16([1, 2, 3]), "lora_te_odd.alpha_x": np.int8([5])}
METADATA = {"format": "pt", "my_trainer": "{\"epoch\": 3}", "modelspec.title": "A title"}  # fmt: skip


def saved(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> Path:
    """A safetensors file."""
    save_file({name: np.ascontiguousarray(tensor) if tensor.ndim else tensor for name, tensor in tensors.items()}, path,
              dict(metadata) if metadata else None)  # fmt: skip
    return path


def content(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Dtype, shape and bytes by name, read by safetensors."""
    return {name: (str(tensor.dtype), tensor.shape, tensor.tobytes()) for name, tensor in load_file(path).items()}


def folder_content(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """The same of every component of a folder."""
    return {f"{file.parent.name}.{name}": held for file in sorted(path.glob("*/*.safetensors"))
            for name, held in content(file).items()}  # fmt: skip


def empty(path: Path, shapes: Mapping[str, Iterable[int]], dtype: str = "F8_E4M3", width: int = 1) -> Path:
    """A file of zeros at any size, which takes no space: its data is a hole."""
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + width * int(np.prod(list(shape)))
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        stream.truncate(8 + len(text) + end)
    return path


def document(folder: Path, name: str) -> Any:
    """A JSON document of a folder."""
    return json.loads((folder / name).read_text("utf-8"))


def folder_of(tmp_path: Path, tensors: Tensors, metadata=None, **asked):
    source = saved(tmp_path / "model.safetensors", tensors, metadata)
    return adapterhub.convert(source, tmp_path / "folder", to="diffusers", **asked), tmp_path / "folder"


def full(path: Path) -> Path:
    """An SD 1 file with averages, a schedule, position ids and strangers."""
    tensors = weights("sd1")
    return saved(path, {**tensors, **averages(tensors), **schedule(), **positions("sd1"), **FOREIGN, **MARKERS})


def stored(tensors: Tensors) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {name: (str(tensor.dtype), tensor.shape, tensor.tobytes()) for name, tensor in tensors.items()}


def drops(done):
    return {place: entry.reason for entry in done.entries if entry.action == "drop" for place in entry.source}
