"""Settings in files: text, JSON and YAML, each no larger than settings are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapterhub.errors import AdapterhubError, MalformedFile
from adapterhub.files.beside import read_document, read_text
from adapterhub.files.limits import Limits
from adapterhub.registry.places.found import Settings, Trouble

LIMITS = Limits(document=64 << 10, document_values=10_000)
"""Settings have some kilobytes; YAML is read at a tenth of a megabyte in a second."""
_JSON = Limits(document=4 << 20, document_values=200_000)
"""Those of SD.Next and StabilityMatrix hold everything else too."""


def text(path: Path, settings: Settings) -> str:
    """The text at `path`; none where there is no such file, and a trouble in `settings` where it is no text."""
    if not os.path.lexists(path):
        return ""
    try:
        return read_text(path, LIMITS)
    except AdapterhubError as error:
        settings.troubles.append(_trouble(path, error))
        return ""


def json(path: Path, settings: Settings) -> Mapping[str, Any]:
    """The JSON object at `path`, in the same way."""
    if not os.path.lexists(path):
        return {}
    try:
        document = read_document(path, _JSON)
    except AdapterhubError as error:
        settings.troubles.append(_trouble(path, error))
        return {}
    return document if isinstance(document, dict) else {}


def yaml(path: Path, settings: Settings) -> Mapping[str, Any]:
    """The YAML mapping at `path`, in the same way: texts, lists and mappings, whatever its tags ask for."""
    if not (content := text(path, settings)):
        return {}
    from adapterhub.registry.places.settings.plain_yaml import loads

    try:
        document = loads(content, path)
    except MalformedFile as error:
        settings.troubles.append(_trouble(path, error))
        return {}
    return document if isinstance(document, dict) else {}


def expanded(name: str, folder: Path) -> Path | None:
    """The path that a setting names, `~` and `$VARIABLE` expanded, relative to `folder`; None where it names none."""
    name = os.path.expandvars(os.path.expanduser(name.strip()))
    return folder / name if name and "\0" not in name else None


def _trouble(path: Path, error: AdapterhubError) -> Trouble:
    return Trouble(path, error.message.removeprefix(f"{path}: "))
