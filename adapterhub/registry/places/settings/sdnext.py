"""SD.Next: the folders that `config.json` names, and those of its command line.

Source: SD.Next `modules/paths.py`, and the section "System Paths" of its options.
"""

from __future__ import annotations

from pathlib import Path

from adapterhub.adapter import Kind
from adapterhub.registry.places.found import Keeps, Place, Settings
from adapterhub.registry.places.settings import reading, webui

FILE = "config.json"
FOLDERS = {
    "lora_dir": Kind.LORA,
    "lyco_dir": Kind.LORA,
    "embeddings_dir": Kind.EMBEDDING,
    "hypernetwork_dir": Kind.HYPERNETWORK,
    "ckpt_dir": Kind.CHECKPOINT,
    "diffusers_dir": Kind.CHECKPOINT,
    "unet_dir": Kind.CHECKPOINT,
}
_MODELS = "models_dir"


def settings(root: Path, keeps: Keeps) -> Settings:
    """The folders of its arguments, then those of its configuration."""
    said = webui.settings(root, keeps)
    config = reading.json(root / FILE, said)
    for key, value in config.items():
        if not isinstance(value, str) or not (path := reading.expanded(value, root)):
            continue
        if key in FOLDERS:
            said.places.append(Place(path, FOLDERS[key]))
        elif key == _MODELS:
            said.places += webui.below("--models-dir", path, keeps)
    return said
