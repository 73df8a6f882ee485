"""diffusers since 0.25: PEFT's names behind a component, `unet.….lora_A.weight`; alpha in `lora_adapter_metadata`.

Source: huggingface/diffusers `loaders/lora_base.py` (`_pack_dict_with_prefix`, `LORA_ADAPTER_METADATA_KEY`),
`loaders/peft.py`. diffusers refuses a file that has both alpha tensors and this metadata, so no other layout keeps it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from adapterhub.adapter import Adapter, Role
from adapterhub.errors import BrokenAdapter
from adapterhub.layouts.base import Reading
from adapterhub.layouts.lora import peft_config
from adapterhub.layouts.lora.keyed import KeyedLayout, Prefixes
from adapterhub.layouts.lora.placing import AlphaPlace
from adapterhub.layouts.lora.spellings import ODD, TEXT_ENCODERS, variants
from adapterhub.layouts.lora.suffixes import PEFT_LORA

FIELD = "lora_adapter_metadata"
KEPT = "adapterhub.lora_adapter_metadata"
"""Where other layouts keep what FIELD said and no tensor tells."""

PREFIXES: Prefixes = {
    "sd1": {"unet": "unet.", "text_encoder": "text_encoder."},
    "sd2": {"unet": "unet.", "text_encoder": "text_encoder."},
    "sdxl": {"unet": "unet.", "text_encoder": "text_encoder.", "text_encoder_2": "text_encoder_2."},
    "sdxl-refiner": {"unet": "unet.", "text_encoder_2": "text_encoder_2."},
}
BARE_UNET: Prefixes = {architecture: {"unet": ""} for architecture in PREFIXES}
"""`save_lora_adapter` writes no component, and so did the first scripts."""


def _read(reading: Reading) -> None:
    peft_config.magnitude_in(reading)
    text = reading.metadata.pop(FIELD, None)
    if text is None:
        return
    components = peft_config.components_with_config(_parse(text))
    for component, config in components.items():
        peft_config.require_known(config, FIELD)
        peft_config.read_alphas(reading, component or "unet", config, FIELD)
    peft_config.keep(reading, KEPT, components)


def _parse(text: str) -> Mapping[str, Any]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise BrokenAdapter(f"{FIELD} is not a JSON object", [FIELD], mend="It holds alpha: mend it or take it out.")
    return fields


def _write(adapter: Adapter, metadata: dict[str, str]) -> None:
    modules = adapter.modules()
    kept = peft_config.kept(metadata.pop(KEPT, None))
    fields: dict[str, Any] = {}
    for component in adapter.components():
        before = {name: value for name, value in kept.get(component, {}).items() if name != "peft_type"}
        config = {**before, **peft_config.lora_config(modules, component)}
        fields |= {f"{component}.{name}": value for name, value in config.items()}
    metadata[FIELD] = json.dumps(fields, indent=2, sort_keys=True)
    metadata.setdefault("format", "pt")


# transformers 5 finds magnitudes under their full name alone, PEFT under either, and others read none in text encoders.
_TEXT_SUFFIXES = {**PEFT_LORA, Role.DORA_SCALE: ".lora_magnitude_vector.weight"}

LAYOUT = KeyedLayout(
    name="diffusers",
    summary="`pytorch_lora_weights.safetensors`, `unet.…lora_A.weight`, α in `lora_adapter_metadata`",
    prefixes=PREFIXES,
    suffixes=PEFT_LORA,
    component_suffixes=dict.fromkeys(TEXT_ENCODERS, _TEXT_SUFFIXES),
    alpha=AlphaPlace.METADATA,
    metadata_field=FIELD,
    read_metadata=_read,
    write_metadata=_write,
    written=peft_config.magnitude_out,
    variants=tuple(variants({"": PREFIXES, "no-unet-prefix": BARE_UNET}, ODD)),
)
