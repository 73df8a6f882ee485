"""The keys by which a single file of SDXL tells how it is sampled, made of what a folder says in its scheduler and its VAE.

Source: ComfyUI `comfy/supported_models.py` (`SDXL.model_type`), which reads nothing else of such a file.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping
from typing import Any

from adapterhub.adapter import Adapter, Key
from adapterhub.documents import LedgerEntry
from adapterhub.files import ASIDE_FILE, DIRECTORY
from adapterhub.layouts.checkpoint.aside import aside
from adapterhub.operations.checkpoint.edm import COSXL, PLAYGROUND, SCHEDULER
from adapterhub.operations.checkpoint.vae import CONFIG
from adapterhub.operations.source import Source
from adapterhub.tensors import LazyTensor, Shape, from_bytes

_MOST = 1e9
"""Far above what any scheduler or VAE says."""


def with_markers(adapter: Adapter, opened: Source) -> tuple[Adapter, list[LedgerEntry]]:
    """The model with the keys that `opened`, if it is a folder, asks for, and what the ledger says of them; a folder that was made
    of a single file has that one's own.
    """
    package = opened.package
    is_first = package.container == DIRECTORY and ASIDE_FILE not in package.files
    if not is_first or adapter.architecture != "sdxl" or "unet" not in adapter.components():
        return adapter, []
    made: dict[Key, LazyTensor] = {aside(name): tensor for name, tensor in _markers(package.documents).items()}
    entries = [LedgerEntry(source=[], target=[held.module], action="metadata", reason="the configurations of the folder say so")
               for held in made]  # fmt: skip
    return adapter.with_tensors({**adapter.tensors, **made}), entries


def _markers(documents: Mapping[str, Any]) -> Mapping[str, LazyTensor]:
    scheduler, vae = (_settings(documents.get(name)) for name in (SCHEDULER, CONFIG))
    velocity = scheduler.get("prediction_type") == "v_prediction"
    if str(scheduler.get("_class_name")).startswith("EDM"):
        latents = [vae.get("latents_mean"), vae.get("latents_std")]
        sigmas = [[scheduler.get("sigma_min")], [scheduler.get("sigma_max")]]
        return _numbers(PLAYGROUND, latents, (1, 4, 1, 1)) or (_numbers(COSXL, sigmas, ()) if velocity else {})
    said = {"v_pred": velocity, "ztsnr": scheduler.get("rescale_betas_zero_snr") is True}
    return {name: from_bytes("F32", (0,), b"") for name, is_so in said.items() if is_so}


def _settings(document: Any) -> Mapping[str, Any]:
    return document if isinstance(document, dict) else {}


def _numbers(names: Iterable[str], told: Iterable[Any], shape: Shape) -> Mapping[str, LazyTensor]:
    """Tensors of `shape` of what is `told`; none unless all of it is numbers."""
    made = {}
    for name, numbers in zip(names, told, strict=True):
        if not isinstance(numbers, list) or len(numbers) != math.prod(shape) or not all(map(_is_number, numbers)):
            return {}
        made[name] = from_bytes("F32", shape, struct.pack(f"<{len(numbers)}f", *numbers))
    return made


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and -_MOST < value < _MOST
