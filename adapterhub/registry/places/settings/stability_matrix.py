"""StabilityMatrix: `settings.json` of a library may put its models elsewhere (`ModelDirectoryOverride`)."""

from __future__ import annotations

from pathlib import Path

from adapterhub.registry.places.found import Keeps, Place, Settings
from adapterhub.registry.places.settings import reading

_FILES = ("settings.json", "Data/settings.json")
_ABOVE = "Models/"


def settings(root: Path, keeps: Keeps) -> Settings:
    """The folders of `keeps` in the folder that the settings name."""
    said = Settings()
    for file in _FILES:
        named = reading.json(root / file, said).get("ModelDirectoryOverride")
        if isinstance(named, str) and (models := reading.expanded(named, root)):
            said.places += [
                Place(models / name.removeprefix(_ABOVE), kind)
                for kind, names in keeps.items()
                for name in names
                if name.startswith(_ABOVE)
            ]
    return said
