"""What a card tells of a training of ours, from the metadata field that `adapterhub train` writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from adapterhub.operations.recipe import TRAINED

_ROWS = {
    "technique": "Technique", "settings.prompt": "Prompt", "settings.class_prompt": "Class", "settings.prior_weight": "Prior weight λ",
    "settings.token": "Token", "settings.vectors": "Vectors", "settings.initial_words": "Initial words",
    "settings.steps": "Steps", "settings.batch": "Batch size", "settings.learning_rate": "Learning rate",
    "settings.rank": "Rank", "settings.alpha": "Alpha", "settings.targets": "Targets", "settings.text_targets": "Targets in text encoders",
    "settings.layer_structure": "Layers", "settings.activation": "Activation", "settings.snr_gamma": "Min-SNR γ",
    "settings.noise_offset": "Noise offset", "settings.seed": "Seed", "data.subject.pictures": "Pictures",
    "data.class.pictures": "Pictures of the class", "loss": "Loss",
}  # fmt: skip
"""Where it stands in the field → what a card calls it."""


def rows(metadata: Mapping[str, str]) -> dict[str, str]:
    """Labels and values; none where the field is not there, or not ours."""
    try:
        told = json.loads(metadata.get(TRAINED, "{}"))
    except (ValueError, RecursionError):
        return {}
    found = {label: _at(told, place.split(".")) for place, label in _ROWS.items()}
    return {label: _text(value) for label, value in found.items() if value not in (None, "", [], {}, 0)}


def _at(told: Any, place: list[str]) -> Any:
    for name in place:
        told = told.get(name) if isinstance(told, dict) else None
    return told


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
