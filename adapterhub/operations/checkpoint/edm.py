"""SDXL that is sampled by EDM, told by markers in a single file: what diffusers samples it with, and what its latents are.

Source: diffusers `loaders/single_file_utils.py` (Playground 2.5: scheduler and VAE), its documentation of CosXL
(`EDMEulerScheduler`); ComfyUI `comfy/supported_models.py` (`SDXL.model_type`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from adapterhub.adapter import Adapter
from adapterhub.architectures.pipeline import VERSION
from adapterhub.files.directories import PIPELINE
from adapterhub.layouts.checkpoint.aside import aside
from adapterhub.operations.checkpoint.vae import CONFIG
from adapterhub.tensors import FLOATS, values

PLAYGROUND = ("edm_mean", "edm_std")
COSXL = ("edm_vpred.sigma_min", "edm_vpred.sigma_max")
SCHEDULER = "scheduler/scheduler_config.json"
_ALIKE = {"_diffusers_version": VERSION, "final_sigmas_type": "zero", "num_train_timesteps": 1000, "rho": 7.0}
_SOLVER = {
    **_ALIKE, "_class_name": "EDMDPMSolverMultistepScheduler", "algorithm_type": "dpmsolver++",
    "dynamic_thresholding_ratio": 0.995, "euler_at_final": False, "lower_order_final": True, "prediction_type": "epsilon",
    "sample_max_value": 1.0, "sigma_data": 0.5, "sigma_max": 80.0, "sigma_min": 0.002, "solver_order": 2,
    "solver_type": "midpoint", "thresholding": False,
}  # fmt: skip
_EULER = {
    **_ALIKE, "_class_name": "EDMEulerScheduler", "prediction_type": "v_prediction", "sigma_data": 1.0,
    "sigma_schedule": "exponential",
}  # fmt: skip
_SCALING = 0.5
"""What diffusers multiplies Playground's latents by, once they have its mean and deviation."""
_CHANNELS = 4


def marker(adapter: Adapter) -> str | None:
    """The marker of a model that is sampled so; nobody reads it in other models than SDXL."""
    markers = (PLAYGROUND[0], COSXL[1])
    found = (name for name in markers if adapter.architecture == "sdxl" and aside(name) in adapter.tensors)
    return next(found, None)


def sampled(documents: Mapping[str, Any], adapter: Adapter) -> dict[str, Any] | None:
    """`documents` as the markers want them; None where there are none, or they hold no such numbers."""
    if marker(adapter) is None:
        return None
    if (mean := _numbers(adapter, PLAYGROUND[0], _CHANNELS)) and (std := _numbers(adapter, PLAYGROUND[1], _CHANNELS)):
        return _made(documents, _SOLVER, {"latents_mean": mean, "latents_std": std, "scaling_factor": _SCALING})
    if (least := _numbers(adapter, COSXL[0], 1)) and (most := _numbers(adapter, COSXL[1], 1)):
        return _made(documents, {**_EULER, "sigma_min": least[0], "sigma_max": most[0]}, {})
    return None


def _made(documents: Mapping[str, Any], scheduler: Mapping[str, Any], vae: Mapping[str, Any]) -> dict[str, Any]:
    made = {**documents, SCHEDULER: dict(sorted(scheduler.items()))}
    index = {**documents[PIPELINE], "scheduler": ["diffusers", scheduler["_class_name"]]}
    if index["_class_name"] == "StableDiffusionXLInstructPix2PixPipeline" and not vae:
        index["is_cosxl_edit"] = True
    if CONFIG in documents:
        made[CONFIG] = dict(sorted({**documents[CONFIG], **vae}.items()))
    return {**made, PIPELINE: index}


def _numbers(adapter: Adapter, name: str, count: int) -> list[float]:
    """The numbers of a marker, in the shortest spelling that its dtype reads as the same; none where it has not so many."""
    tensor = adapter.tensors.get(aside(name))
    if tensor is None or tensor.size != count or tensor.dtype not in FLOATS:
        return []
    found = [float(str(number)) for number in values(tensor).reshape(-1)]
    return found if all(map(math.isfinite, found)) else []
