"""Kohya's sd-scripts, which A1111, Forge, ComfyUI and InvokeAI read: `lora_unet_…`, SDXL's UNet in LDM names.

Source: kohya-ss/sd-scripts `networks/lora.py`, `library/sdxl_original_unet.py`; LyCORIS for the other suffixes.
"""

from __future__ import annotations

from collections.abc import Mapping

from adapterhub.layouts.lora.keyed import KeyedLayout, Prefixes
from adapterhub.layouts.lora.spellings import ODD, processor, trailing_underscore, variants
from adapterhub.layouts.lora.suffixes import KOHYA, LYCORIS, PEFT_LORA

ALSO_READ = frozenset((*LYCORIS.values(), *PEFT_LORA.values()))
LDM_SDXL = {"sdxl": "ldm", "sdxl-refiner": "ldm"}
LDM = {"sd1": "ldm", "sd2": "ldm", **LDM_SDXL}


def prefixes(unet: str, single: str, first: str, second: str) -> Prefixes:
    """The prefixes of every architecture: `single` where there is one text encoder, `first` and `second` where two."""
    return {
        "sd1": {"unet": unet, "text_encoder": single},
        "sd2": {"unet": unet, "text_encoder": single},
        "sdxl": {"unet": unet, "text_encoder": first, "text_encoder_2": second},
        "sdxl-refiner": {"unet": unet, "text_encoder_2": single},
    }


PREFIXES = prefixes("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_")
OTHER_PREFIXES: Mapping[str, Prefixes] = {
    "": PREFIXES,
    "lycoris-prefix": prefixes("lycoris_", "lycoris_", "lycoris_", "lycoris_"),
    "oft-prefix": prefixes("oft_unet_", "oft_te_", "oft_te1_", "oft_te2_"),
    "doubled-prefix": prefixes(
        "lora_unet_unet_", "lora_te_text_encoder_", "lora_te_text_encoder_", "lora_te_text_encoder_2_"
    ),
    "double-underscore": prefixes("lora_unet__", "lora_te__", "lora_te1__", "lora_te2__"),
    "first-encoder-unnumbered": {"sdxl": {"text_encoder": "lora_te_"}},
    "first-encoder-numbered": {name: {"text_encoder": "lora_te1_"} for name in ("sd1", "sd2")},
    "second-encoder-numbered": {"sdxl-refiner": {"text_encoder_2": "lora_te2_"}},
}
ODD_FLAT = {**ODD, "trailing-underscore": trailing_underscore, "processor-name": processor}

LAYOUT = KeyedLayout(
    name="kohya",
    summary="`lora_unet_…`, `lora_te…`; SDXL's UNet in the LDM dialect; LyCORIS suffixes",
    file_name="lora.safetensors",
    prefixes=PREFIXES,
    dialects=LDM_SDXL,
    separator="_",
    suffixes=KOHYA,
    also_read=ALSO_READ,
    bundles=True,
    variants=tuple(variants(OTHER_PREFIXES, ODD_FLAT, {"": None, "ldm-names": LDM})),
)
