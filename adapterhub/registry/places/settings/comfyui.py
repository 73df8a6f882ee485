"""ComfyUI: `extra_model_paths.yaml`, sections of folders by what they hold. Source: ComfyUI `utils/extra_config.py`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from adapterhub.adapter import Kind
from adapterhub.registry.places.found import Keeps, Place, Settings
from adapterhub.registry.places.settings import reading

FILE = "extra_model_paths.yaml"
KINDS = {
    "loras": Kind.LORA,
    "embeddings": Kind.EMBEDDING,
    "hypernetworks": Kind.HYPERNETWORK,
    "checkpoints": Kind.CHECKPOINT,
    "diffusion_models": Kind.CHECKPOINT,
    "unet": Kind.CHECKPOINT,
    "diffusers": Kind.CHECKPOINT,
}
"""What ComfyUI calls the kinds that adapterhub knows; it has dozens more."""


def settings(root: Path, keeps: Keeps) -> Settings:
    """The folders that its YAML adds, those of a default section first."""
    said = Settings()
    sections = [section for section in reading.yaml(root / FILE, said).values() if isinstance(section, dict)]
    for section in sorted(sections, key=lambda section: section.get("is_default") not in ("true", "True")):
        said.places += _places(section, root)
    return said


def _places(section: Mapping[str, Any], root: Path) -> Iterator[Place]:
    base = section.get("base_path")
    above = (reading.expanded(base, root) if isinstance(base, str) else None) or root
    for key, kind in KINDS.items():
        for line in _lines(section.get(key)):
            if path := reading.expanded(line, above):
                yield Place(path, kind)


def _lines(value: object) -> list[str]:
    """The folders of a key: a text with one a line. A list is not what ComfyUI takes, but what people write."""
    listed = value if isinstance(value, list) else [value]
    return [line for text in listed if isinstance(text, str) for line in text.split("\n")]
