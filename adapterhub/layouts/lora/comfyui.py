"""ComfyUI's generic names: `diffusion_model.` and `text_encoders.…transformer.` before the original (LDM) dotted paths.

Source: Comfy-Org/ComfyUI `comfy/lora.py` (`model_lora_keys_unet`, `model_lora_keys_clip`), `comfy/sd1_clip.py`,
`comfy/sdxl_clip.py`, `comfy/text_encoders/sd2_clip.py` for the names of the text encoders.
"""

from __future__ import annotations

from collections.abc import Mapping

from adapterhub.layouts.lora.keyed import KeyedLayout, Prefixes
from adapterhub.layouts.lora.kohya import ALSO_READ, LDM
from adapterhub.layouts.lora.spellings import ODD, variants
from adapterhub.layouts.lora.suffixes import KOHYA

CLIP = {
    "sd1": {"text_encoder": "clip_l"},
    "sd2": {"text_encoder": "clip_h"},
    "sdxl": {"text_encoder": "clip_l", "text_encoder_2": "clip_g"},
    "sdxl-refiner": {"text_encoder_2": "clip_g"},
}


def _prefixes(unet: str, infix: str) -> Prefixes:
    return {
        architecture: {"unet": unet, **{name: f"text_encoders.{clip}.{infix}" for name, clip in clips.items()}}
        for architecture, clips in CLIP.items()
    }


PREFIXES = _prefixes("diffusion_model.", "transformer.")
OTHER_PREFIXES: Mapping[str, Prefixes] = {
    "": PREFIXES,
    "no-transformer-level": _prefixes("diffusion_model.", ""),
    "model-prefix": _prefixes("model.diffusion_model.", "transformer."),
}

LAYOUT = KeyedLayout(
    name="comfyui",
    summary="`diffusion_model.…` and `text_encoders.…`, original (LDM) dotted names",
    file_name="lora.safetensors",
    prefixes=PREFIXES,
    dialects=LDM,
    suffixes=KOHYA,
    also_read=ALSO_READ,
    variants=tuple(variants(OTHER_PREFIXES, ODD)),
)
