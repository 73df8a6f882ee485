"""Settings from a TOML file and back; a recipe keeps them without paths."""

from __future__ import annotations

import json
from typing import Any

from adapterhub.documents import TrainingSettings

CONFIG = "config.toml"
PRIVATE = frozenset({"base", "images", "output", "class_images"})
"""Settings that are paths, which files that travel do not tell."""


def as_toml(settings: TrainingSettings) -> str:
    """A file that `--config` reads as the same settings."""
    given = settings.model_dump(mode="json", exclude_none=True)
    return "".join(f"{name} = {_value(value)}\n" for name, value in given.items())


def _value(value: Any) -> str:
    """TOML's arrays, strings, numbers and truth values are those of JSON; its inline tables have equals signs."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(name)} = {_value(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def shown(settings: TrainingSettings) -> dict[str, Any]:
    """The settings that a file may tell anyone: those that were given, without paths."""
    told = settings.model_dump(mode="json", exclude_none=True)
    return {name: value for name, value in told.items() if name not in PRIVATE}
