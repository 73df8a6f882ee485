"""diffusers 0.20 to 0.24: `unet.….lora.up.weight` (LoRACompatibleLinear), `text_encoder.….lora_linear_layer.up.weight`.

Source: huggingface/diffusers v0.21 `models/lora.py`, `loaders.py`. No alpha: it is folded.
"""

from __future__ import annotations

from adapterhub.layouts.lora.diffusers import PREFIXES
from adapterhub.layouts.lora.keyed import KeyedLayout
from adapterhub.layouts.lora.placing import AlphaPlace
from adapterhub.layouts.lora.spellings import ODD, TEXT_ENCODERS, variants
from adapterhub.layouts.lora.suffixes import LORA_LINEAR, LORA_LINEAR_LAYER

LAYOUT = KeyedLayout(
    name="diffusers-lora-linear",
    summary="`unet.….lora.up.weight` (0.20–0.24)",
    prefixes=PREFIXES,
    suffixes=LORA_LINEAR,
    component_suffixes=dict.fromkeys(TEXT_ENCODERS, LORA_LINEAR_LAYER),
    alpha=AlphaPlace.FOLDED,
    variants=tuple(variants({"": PREFIXES}, ODD)),
)
