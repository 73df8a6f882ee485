"""The code that a card shows, by kind. Each is executed by tests/consumers/test_hub_push.py.

Whatever stands in it from outside is a Python literal in ASCII.
"""

from __future__ import annotations

from adapterhub.adapter import Kind
from adapterhub.hub.card_facts import Facts
from adapterhub.hub.card_fields import is_peft
from adapterhub.hub.markdown import one_line

_START = """\
from diffusers import AutoPipelineForText2Image

pipeline = AutoPipelineForText2Image.from_pretrained({base})
"""
_END = "image = pipeline({prompt}).images[0]\n"
_SECOND = """\
for name, encoder, tokenizer in (
    ("learned_embeds.safetensors", pipeline.text_encoder, pipeline.tokenizer),
    ("learned_embeds_2.safetensors", pipeline.text_encoder_2, pipeline.tokenizer_2),
):
    pipeline.load_textual_inversion({repo}, weight_name=name, text_encoder=encoder, tokenizer=tokenizer)
"""
UNKNOWN = "USER/NAME"
"""Stands for a base that nobody named."""


def snippet(facts: Facts) -> str:
    """How diffusers or PEFT loads it; empty for a hypernetwork, which neither knows."""
    if facts.kind is Kind.HYPERNETWORK:
        return ""
    told = {"{repo}": _literal(facts.repo), "{base}": _base(facts), "{prompt}": _literal(facts.prompt)}
    text = "".join(_parts(facts))
    for name, literal in told.items():  # the prompt last: it may hold anything
        text = text.replace(name, literal)
    return text


def _parts(facts: Facts) -> list[str]:
    if is_peft(facts):
        return ["from peft import PeftModel\n", _START, *_peft(facts), _END]
    if facts.kind is Kind.CHECKPOINT:
        return [_START.replace("{base}", "{repo}"), _END]
    if facts.kind is Kind.LORA:
        return [_START, 'pipeline.load_lora_weights({repo}, weight_name="pytorch_lora_weights.safetensors")\n', _END]
    if "learned_embeds_2.safetensors" in facts.files:
        return [_START, _SECOND, _END]
    return [_START, "pipeline.load_textual_inversion({repo})\n", _END]


def _peft(facts: Facts) -> list[str]:
    """A line for each component that has an adapter, in a folder of its name or, alone, in the root."""
    lines = []
    for folder in (name.rpartition("/")[0] for name in facts.files if name.endswith("adapter_config.json")):
        part = folder or next(iter(facts.found.components), "unet")
        if part in facts.found.components:
            where = f", subfolder={_literal(folder)}" if folder else ""
            lines.append(f"PeftModel.from_pretrained(pipeline.{part}, {{repo}}{where})\n")
    return lines


def _base(facts: Facts) -> str:
    return _literal(facts.base_model) if facts.base_model else f'"{UNKNOWN}"'


def _literal(text: str) -> str:
    """A string as Python reads it, in ASCII and on one line."""
    quoted = ascii(one_line(text))
    return quoted if quoted[0] == '"' or '"' in quoted else f'"{quoted[1:-1]}"'
