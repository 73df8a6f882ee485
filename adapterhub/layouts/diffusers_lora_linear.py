"""diffusers 0.20 to 0.24: `unet.….lora.up.weight` (LoRACompatibleLinear), `text_encoder.….lora_linear_layer.up.weight`.

Source: huggingface/diffusers v0.21 `models/lora.py`, `loaders.py`. No alpha: it is folded.
"""

from __future__ import annotations

from adapterhub.layouts.base import AlphaPlace
from adapterhub.layouts.diffusers import PREFIXES
from adapterhub.layouts.keyed import KeyedLayout
from adapterhub.layouts.spellings import ODD, TEXT_ENCODERS, variants
from adapterhub.layouts.suffixes import LORA_LINEAR, LORA_LINEAR_LAYER

LAYOUT = KeyedLayout(
    name="diffusers-lora-linear",
    summary="`unet.….lora.up.weight` (0.20–0.24)",
    prefixes=PREFIXES,
    suffixes=LORA_LINEAR,
    component_suffixes=dict.fromkeys(TEXT_ENCODERS, LORA_LINEAR_LAYER),
    alpha=AlphaPlace.FOLDED,
    variants=tuple(variants({"": PREFIXES}, ODD)),
)
