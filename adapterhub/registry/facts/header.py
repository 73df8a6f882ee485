"""What the header of a safetensors file says about itself: ModelSpec, Kohya, and others.

Sources: Stability-AI/ModelSpec 1.0.1; Kohya `train_network.py`; sd-webui-additional-networks (`ssmd_*`); ai-toolkit
`toolkit/metadata.py`; diffusers `lora_adapter_metadata`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from adapterhub.registry.facts.fact import ENTRIES, Fact, WrongType, make
from adapterhub.registry.facts.markup import plain
from adapterhub.registry.facts.spellings import words_of

_FIELDS = (
    ("modelspec", "title", "modelspec.title"),
    ("modelspec", "description", "modelspec.description"),
    ("modelspec", "author", "modelspec.author"),
    ("modelspec", "licence", "modelspec.license"),
    ("modelspec", "notes", "modelspec.usage_hint"),
    ("modelspec", "tags", "modelspec.tags"),
    ("modelspec", "words", "modelspec.trigger_phrase"),
    ("modelspec", "base_model", "modelspec.architecture"),
    ("modelspec", "hash.sshs_model_hash", "modelspec.hash_sha256"),
    ("additional-networks", "title", "ssmd_display_name"),
    ("additional-networks", "description", "ssmd_description"),
    ("additional-networks", "author", "ssmd_author"),
    ("additional-networks", "source", "ssmd_source"),
    ("additional-networks", "version_name", "ssmd_version"),
    ("additional-networks", "tags", "ssmd_tags"),
    ("additional-networks", "words", "ssmd_keywords"),
    ("kohya", "alias", "ss_output_name"),
    ("kohya", "notes", "ss_training_comment"),
    ("kohya", "base_model", "ss_base_model_version"),
    ("kohya", "trained_on", "ss_sd_model_name"),
    ("kohya", "trained_on_hash", "ss_new_sd_model_hash"),
    ("kohya", "trained_on_hash", "ss_sd_model_hash"),
    ("kohya", "network_module", "ss_network_module"),
    ("kohya", "steps", "ss_steps"),
    ("kohya", "epochs", "ss_epoch"),
    ("kohya", "training_tags", "ss_tag_frequency"),
    ("kohya", "hash.sshs_model_hash", "sshs_model_hash"),
    ("ai-toolkit", "base_model", "ss_base_model"),
    ("ai-toolkit", "steps", "training_info"),
    ("ai-toolkit", "epochs", "training_info"),
    ("diffusers", "base_model", "lora_adapter_metadata"),
)  # fmt: skip
"""(origin, field, name in the header); of two names of one origin for one field the first that says something."""

_SMALL = 262_144
"""Characters of JSON that is parsed whole; PEFT's configurations of several components take some 20,000."""
_TAGS = 100_000
"""Different training tags that are counted."""
_LONG_TAG = 1_000
_TAG = re.compile(r'"([^"\\]*+(?:\\.[^"\\]*+)*+)"\s*+:\s*+(\d{1,9})\b', re.DOTALL)
_DOTS_AND_ZERO = re.compile(r"\.0+\Z")


def of_header(metadata: Mapping[str, str]) -> list[Fact]:
    """The facts in the metadata of a safetensors file. What is broken or of another sort says nothing here: `validate`
    tells of that. However large a field is, it is looked at once, and little of it is kept.
    """
    found: dict[tuple[str, str], Fact] = {}
    for origin, field, name in _FIELDS:
        text = metadata.get(name)
        if isinstance(text, str) and (origin, field) not in found and (fact := _fact(origin, field, name, text)):
            found[origin, field] = fact
    if "ot_branch" in metadata:  # OneTrainer hashes tensors in an order of its own
        found.pop(("modelspec", "hash.sshs_model_hash"), None)
    return list(found.values())


def training_tags(text: str) -> list[str]:
    """The most frequent tags of Kohya's `ss_tag_frequency`, {folder: {tag: count}}, over all folders.

    Not parsed but searched: other tools cut it off in the middle, or write it as a text within a text.
    """
    if text.startswith('"'):
        text = text.replace('\\"', '"').replace("\\\\", "\\")
    counts: Counter[str] = Counter()
    for found in _TAG.finditer(text):
        tag = found[1][:_LONG_TAG]
        if tag in counts or len(counts) < _TAGS:
            counts[tag] += int(found[2])
    return [_unescaped(tag) for tag, _ in counts.most_common(ENTRIES)]


def _fact(origin: str, field: str, name: str, text: str) -> Fact | None:
    try:
        return make(field, _READERS.get(name, _line_of)(field, text), origin)
    except WrongType:
        return None


def _line_of(field: str, text: str) -> Any:
    """ai-toolkit writes all but texts as JSON, so that a whole number may come as "2000.0"."""
    return _DOTS_AND_ZERO.sub("", text) if field in ("steps", "epochs") else text


def _words(field: str, text: str) -> Any:
    return words_of(text)


def _without_kind(field: str, text: str) -> str:
    return text.partition("/")[0]


def _description(field: str, text: str) -> str:
    return plain(text)


def _data_hash(field: str, text: str) -> str | None:
    """Kohya's hash; what LyCORIS writes under this name begins with 0x and is another (`lycoris/kohya.py`)."""
    return None if text.startswith("0x") else text


def _tags(field: str, text: str) -> list[str]:
    return training_tags(text)


def _training_info(field: str, text: str) -> Any:
    told = _object(text)
    return told.get({"steps": "step", "epochs": "epoch"}[field])


def _base_of_peft(field: str, text: str) -> Any:
    told = [value for name, value in _object(text).items() if name.endswith("base_model_name_or_path")]
    return next((value for value in told if isinstance(value, str) and value), None)


def _object(text: str) -> dict[str, Any]:
    try:
        told = json.loads(text) if len(text) <= _SMALL else {}
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _unescaped(tag: str) -> str:
    if "\\" not in tag:
        return tag.strip()
    try:
        return str(json.loads(f'"{tag}"', strict=False)).strip()
    except ValueError:
        return tag.strip()


_READERS = {
    "modelspec.architecture": _without_kind, "modelspec.tags": _words, "modelspec.trigger_phrase": _words,
    "modelspec.description": _description, "ssmd_description": _description, "ssmd_tags": _words, "ssmd_keywords": _words,
    "sshs_model_hash": _data_hash, "ss_tag_frequency": _tags, "training_info": _training_info,
    "lora_adapter_metadata": _base_of_peft,
}  # fmt: skip
