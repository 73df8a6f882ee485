"""OMI, as OneTrainer exports it: `unet.` with LDM dotted names, `clip_l.`, `clip_g.`, and `ot_branch` in the metadata.

Source: Nerogar/OneTrainer `modules/util/convert/lora/` (convert_sd_lora, convert_sdxl_lora, convert_clip: both SD 1 and
SD 2 say `clip_l`); invoke-ai/InvokeAI tells it by `ot_branch` and a `modelspec.architecture` ending in `/lora`.
"""

from __future__ import annotations

from adapterhub.adapter import Adapter
from adapterhub.layouts.lora.keyed import KeyedLayout
from adapterhub.layouts.lora.kohya import ALSO_READ, LDM
from adapterhub.layouts.lora.spellings import ODD, variants
from adapterhub.layouts.lora.suffixes import KOHYA

PREFIXES = {
    "sd1": {"unet": "unet.", "text_encoder": "clip_l."},
    "sd2": {"unet": "unet.", "text_encoder": "clip_l."},
    "sdxl": {"unet": "unet.", "text_encoder": "clip_l.", "text_encoder_2": "clip_g."},
    "sdxl-refiner": {"unet": "unet.", "text_encoder_2": "clip_g."},
}


def _mark(adapter: Adapter, metadata: dict[str, str]) -> None:
    metadata["ot_branch"] = "omi_format"


LAYOUT = KeyedLayout(
    name="omi",
    summary="OMI / OneTrainer: dotted original names, identified by metadata",
    file_name="lora.safetensors",
    prefixes=PREFIXES,
    dialects=LDM,
    suffixes=KOHYA,
    also_read=ALSO_READ,
    bundles=True,
    write_metadata=_mark,
    variants=tuple(variants({"": PREFIXES}, ODD)),
)
