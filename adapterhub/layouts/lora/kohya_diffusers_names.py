"""Kohya's layout with diffusers' UNet names for SDXL: OneTrainer, SimpleTuner, diffusers' own conversion script.

Source: diffusers `utils/state_dict_utils.py:convert_state_dict_to_kohya`, Nerogar/OneTrainer `convert_sdxl_lora.py`.
"""

from __future__ import annotations

from adapterhub.layouts.lora.keyed import KeyedLayout
from adapterhub.layouts.lora.kohya import ALSO_READ, ODD_FLAT, OTHER_PREFIXES, PREFIXES
from adapterhub.layouts.lora.spellings import variants
from adapterhub.layouts.lora.suffixes import KOHYA

LAYOUT = KeyedLayout(
    name="kohya-diffusers-names",
    summary="the same with diffusers' UNet names for SDXL",
    file_name="lora.safetensors",
    prefixes=PREFIXES,
    separator="_",
    suffixes=KOHYA,
    also_read=ALSO_READ,
    bundles=True,
    variants=tuple(variants(OTHER_PREFIXES, ODD_FLAT)),
)
