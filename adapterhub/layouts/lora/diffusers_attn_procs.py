"""diffusers 0.12 to 0.19: LoRA kept in attention processors, `…attn1.processor.to_q_lora.up.weight`; no alpha.

Source: huggingface/diffusers v0.12 `models/cross_attention.py:LoRACrossAttnProcessor`, v0.17 `loaders.py` for the text
encoder. Only q, k, v and out of the attentions have a place; `to_out` means `to_out.0`.
"""

from __future__ import annotations

from adapterhub.layouts.lora.diffusers import BARE_UNET, PREFIXES
from adapterhub.layouts.lora.keyed import KeyedLayout
from adapterhub.layouts.lora.placing import AlphaPlace
from adapterhub.layouts.lora.spellings import TEXT_ENCODERS, processor, variants
from adapterhub.layouts.lora.suffixes import LORA_LINEAR_LAYER, PROCESSOR

_TEXT = {"q_proj": "to_q_lora", "k_proj": "to_k_lora", "v_proj": "to_v_lora", "out_proj": "to_out_lora"}


def _attention(component: str, path: str) -> str | None:
    """`….processor.to_q_lora` in the UNet; in text encoders the projections of the attentions under their own names."""
    if component == "unet":
        found = processor(component, path)
        return found and f"{found}_lora"
    return path if ".self_attn." in path else None


def _first_text_encoder(component: str, path: str) -> str | None:
    """The first generation's text encoders: `self_attn.to_q_lora`."""
    head, _, leaf = path.rpartition(".self_attn.")
    return f"{head}.self_attn.{_TEXT[leaf]}" if head and component in TEXT_ENCODERS else None


LAYOUT = KeyedLayout(
    name="diffusers-attn-procs",
    summary="`…attn1.processor.to_q_lora.up.weight` (0.12–0.19)",
    prefixes=PREFIXES,
    suffixes=PROCESSOR,
    component_suffixes=dict.fromkeys(TEXT_ENCODERS, LORA_LINEAR_LAYER),
    spelling=_attention,
    alpha=AlphaPlace.FOLDED,
    variants=tuple(
        variants({"": PREFIXES, "no-unet-prefix": BARE_UNET}, {"": _attention, "first-generation": _first_text_encoder})
    ),
)
