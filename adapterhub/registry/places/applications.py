"""The applications that keep adapters and models, and in which folders: one row each."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from adapterhub.adapter import Kind
from adapterhub.registry.places.found import Application, Keeps, Place, Settings
from adapterhub.registry.places.hugging_face import NAME as HUGGING_FACE
from adapterhub.registry.places.settings import comfyui, invokeai, sdnext, stability_matrix, swarmui, webui


class Row(NamedTuple):
    """An application: it is there where all names of one of `witnesses` are. `keeps` are its folders by kind, as far as they
    are there, and `settings` reads what its own settings add.
    """

    name: str
    witnesses: tuple[tuple[str, ...], ...]
    keeps: Keeps
    settings: Callable[[Path, Keeps], Settings] | None = None


_WEBUI: Keeps = {
    Kind.LORA: ("models/Lora", "models/LyCORIS"),
    Kind.EMBEDDING: ("embeddings", "models/embeddings"),
    Kind.HYPERNETWORK: ("models/hypernetworks",),
    Kind.CHECKPOINT: ("models/Stable-diffusion", "models/Diffusers", "models/UNET"),
}
_STABILITY_MATRIX: Keeps = {
    Kind.LORA: ("Lora", "LyCORIS"),
    Kind.EMBEDDING: ("Embeddings", "TextualInversion"),
    Kind.HYPERNETWORK: ("Hypernetwork",),
    Kind.CHECKPOINT: ("StableDiffusion", "Diffusers", "DiffusionModels", "Unet"),
}
APPLICATIONS = (
    # ComfyUI `folder_paths.py`, and `main.py` for what its nodes save; the second row of witnesses is a folder of its desktop.
    Row("comfyui", (("folder_paths.py", "comfy"), ("models/checkpoints", "custom_nodes")), {
        Kind.LORA: ("models/loras", "output/loras"),
        Kind.EMBEDDING: ("models/embeddings",),
        Kind.HYPERNETWORK: ("models/hypernetworks",),
        Kind.CHECKPOINT: ("models/checkpoints", "models/diffusion_models", "models/unet", "models/diffusers",
                          "output/checkpoints", "output/diffusion_models"),
    }, comfyui.settings),
    # SD.Next `modules/paths.py`, `modules/shared.py`: embeddings are below models, and config.json names every folder.
    Row("sdnext", (("webui.py", "installer.py", "modules"),), _WEBUI, sdnext.settings),
    Row("reforge", (("webui.py", "modules_forge", "ldm_patched"),), _WEBUI, webui.settings),
    Row("forge", (("webui.py", "modules_forge"),), _WEBUI, webui.settings),
    # A1111 `modules/paths_internal.py`, `modules/cmd_args.py`; the second row of witnesses is a folder given as --data-dir.
    Row("a1111", (("webui.py", "launch.py", "modules"), ("models/Stable-diffusion", "embeddings")), _WEBUI, webui.settings),
    # StabilityMatrix `SharedFolderType.cs`: a library, or an installation that carries its library in Data.
    Row("stability-matrix", (("Models/StableDiffusion",), ("Data/Models/StableDiffusion",), ("Packages", "settings.json")), {
        kind: tuple(f"{above}/{name}" for above in ("Models", "Data/Models") for name in folders)
        for kind, folders in _STABILITY_MATRIX.items()
    }, stability_matrix.settings),
    # SwarmUI `src/Core/Settings.cs`
    Row("swarmui", (("src/SwarmUI.csproj",), ("Data/Settings.fds",)), {
        Kind.LORA: ("Models/Lora",),
        Kind.EMBEDDING: ("Models/Embeddings",),
        Kind.CHECKPOINT: ("Models/Stable-Diffusion", "Models/diffusion_models", "Models/unet"),
    }, swarmui.settings),
    Row("invokeai", (("invokeai.yaml",), ("databases/invokeai.db",)), {None: ("models",)}, invokeai.settings),
    Row(HUGGING_FACE, (("models--*",), ("hub/models--*",), ("snapshots", "blobs")), {None: (".",)}),
)  # fmt: skip
"""The first whose witnesses are there."""


def recognised(path: Path | str) -> Application | None:
    """The application that is installed in the folder `path`, told by the names of folders and files in it."""
    root = Path(path).absolute()
    row = next((row for row in APPLICATIONS if any(_there(root, names) for names in row.witnesses)), None)
    return _read(row, root) if row else None


def _there(root: Path, names: tuple[str, ...]) -> bool:
    return all(_any(root, name) if "*" in name else os.path.lexists(root / name) for name in names)


def _any(root: Path, pattern: str) -> bool:
    folder, name = os.path.split(root / pattern)
    try:
        with os.scandir(folder) as entries:
            return any(entry.name.startswith(name.removesuffix("*")) for entry in entries)
    except OSError:
        return False


def _read(row: Row, root: Path) -> Application:
    said = row.settings(root, row.keeps) if row.settings else Settings()
    kept = [Place(root / name, kind) for kind, names in row.keeps.items() for name in names]
    places: dict[Path, Place] = {}
    for place in (*said.places, *kept):
        if os.path.exists(place.path):
            places.setdefault(place.path, place)
    return Application(
        row.name, root, tuple(places.values()), said.entries, frozenset(said.others), tuple(said.troubles)
    )
