"""The front matter of a card, by kind. Source: hub-docs `model-cards.md` (base_model, base_model_relation, widget), diffusers'
training scripts (tags and library names), `template:sd-lora` of the Hub's gallery.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from adapterhub.adapter import Kind
from adapterhub.hub.card_facts import Facts
from adapterhub.hub.markdown import one_line

IMAGE = "text-to-image"


class Row(NamedTuple):
    """What the Hub calls a kind."""

    library: str | None
    tags: tuple[str, ...]
    relation: str


_KINDS = {
    Kind.LORA: Row("diffusers", (IMAGE, "diffusers", "lora"), "adapter"),
    Kind.EMBEDDING: Row("diffusers", (IMAGE, "diffusers", "textual_inversion"), "adapter"),
    Kind.CHECKPOINT: Row("diffusers", (IMAGE, "diffusers"), "finetune"),
    Kind.HYPERNETWORK: Row(None, (IMAGE, "hypernetwork"), "adapter"),
}
"""A hypernetwork has no library: the Hub would show a snippet that does not work."""
_PEFT = Row("peft", (IMAGE, "lora"), "adapter")
_FAMILIES: dict[str, tuple[str, ...]] = {
    "sd1": ("stable-diffusion", "stable-diffusion-diffusers"), "sd2": ("stable-diffusion", "stable-diffusion-diffusers"),
    "sdxl": ("stable-diffusion-xl", "stable-diffusion-xl-diffusers"),
    "sdxl-refiner": ("stable-diffusion-xl", "stable-diffusion-xl-diffusers"),
}  # fmt: skip
_DERIVED = ("library_name", "pipeline_tag", "base_model_relation")


def fields(facts: Facts) -> dict[str, Any]:
    """Our fields, in the order in which they are written."""
    row = _PEFT if is_peft(facts) else _KINDS[facts.kind]
    relation = {"base_model": facts.base_model, "base_model_relation": row.relation} if facts.base_model else {}
    rows = {
        **{name: one_line(text) for name, text in facts.license.items()},
        **relation,
        "library_name": row.library,
        "pipeline_tag": IMAGE,
        "tags": list(_tags(facts, row)),
        "instance_prompt": one_line(facts.instance_prompt or ", ".join(facts.triggers)),
        "widget": [{"text": one_line(prompt) or " ", "output": {"url": name}} for name, prompt in facts.pictures],
    }
    return {name: value for name, value in rows.items() if value}


def settled(facts: Facts) -> frozenset[str]:
    """Fields that are as we have them, whatever the card had: what was given, and what the kind decides."""
    given = {*facts.told, *_DERIVED} | ({"license_name", "license_link"} if "license" in facts.told else set())
    return frozenset(given | ({"widget"} if facts.pictures else set()))


def is_peft(facts: Facts) -> bool:
    """Whether what is pushed is PEFT's own."""
    return any(name.rpartition("/")[2] == "adapter_config.json" for name in facts.files)


def _tags(facts: Facts, row: Row) -> list[str]:
    family = _FAMILIES.get(facts.found.architecture or "", ())
    if row.library != "diffusers":
        family = tuple(tag for tag in family if not tag.endswith("-diffusers"))
    special = ["dora"] if any("dora" in name for name in facts.found.algorithms) else []
    gallery = ["template:sd-lora"] if facts.kind is Kind.LORA and facts.pictures else []
    return [*row.tags, *special, *family, *gallery]
