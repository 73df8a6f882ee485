"""SwarmUI: the section `Paths` of `Data/Settings.fds`. Source: SwarmUI `src/Core/Settings.cs`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from adapterhub.adapter import Kind
from adapterhub.registry.places.found import Keeps, Place, Settings
from adapterhub.registry.places.settings import reading

FILE = "Data/Settings.fds"
FOLDERS = {
    "SDLoraFolder": (Kind.LORA, "Lora"),
    "SDEmbeddingFolder": (Kind.EMBEDDING, "Embeddings"),
    "SDModelFolder": (Kind.CHECKPOINT, "Stable-Diffusion"),
}
"""What a key holds, and what it is where it is not set."""
_SECTION = "Paths:"
_MOST = 50
"""Entries of a list that are read: every folder is looked for in every root."""


def settings(root: Path, keeps: Keeps) -> Settings:
    """Every folder of every root that its settings name; both are lists with semicolons."""
    said = Settings()
    named = dict(_section(reading.text(root / FILE, said)))
    for above in _listed(named.get("ModelRoot", "Models")):
        models = reading.expanded(above, root)
        for key, (kind, default) in FOLDERS.items():
            for name in _listed(named.get(key, default)):
                if models and (path := reading.expanded(name, models)):
                    said.places.append(Place(path, kind))
    return said


def _listed(value: str) -> list[str]:
    return value.split(";")[:_MOST]


def _section(text: str) -> Iterator[tuple[str, str]]:
    """The settings of the section: the lines below its name that are set in."""
    inside = False
    for line in text.splitlines():
        if not line[:1].isspace():
            inside = line.rstrip() == _SECTION
        elif inside and not line.lstrip().startswith("#"):
            name, _, value = line.partition(":")
            yield name.strip(), value.strip()
