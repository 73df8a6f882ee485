"""The families of side-cars: how each is called, what it says and where, and how a new one begins.

To read another tool's side-cars, add a Family here and its name to `precedence.ORIGINS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from adapterhub.registry.facts.fact import Value
from adapterhub.registry.facts.rows import Row, hash_rows, row
from adapterhub.registry.facts.spellings import A1111_BASE, HTML, LIST_OR_PROMPT, PROMPT, TEXT_OR_HTML, USAGE_TIPS

A1111, CIVITAI, LORA_MANAGER, STABILITY_MATRIX, TEXT = "a1111", "civitai", "lora-manager", "stability-matrix", "text"


@dataclass(frozen=True, slots=True)
class Local:
    """The file beside which a side-car lies, as some families tell it: the absolute path with "/", times in seconds."""

    stem: str
    path: str
    size: int
    time: float
    sha256: str
    preview: str


@dataclass(frozen=True, slots=True)
class Family:
    """`suffix` follows the name of the model, without its own; `is_one` tells a document of the family from others that
    are called like it; `new` is an empty one for (facts, the model's file), and says whether it `needs` the file's SHA-256.
    """

    name: str
    suffix: str
    rows: tuple[Row, ...]
    is_one: Callable[[Any], bool]
    new: Callable[[Mapping[str, Value], Local], dict[str, Any]]
    indent: int | None
    needs_sha256: bool = False
    preview: str | None = None
    """The name under which the path of the preview is told."""


_A1111_ALONE = {"sd version", "activation text", "preferred weight", "negative text"}
_A1111_KEYS = _A1111_ALONE | {"description", "notes", "vae", "extensions"}
"""`vae` stands beside checkpoints, `extensions` is Civitai Helper's."""


def _is_a1111(document: Any) -> bool:
    """Whether only A1111 writes this: trainers and other tools leave settings under the same name."""
    return isinstance(document, dict) and bool(_A1111_ALONE & document.keys() or document.keys() <= _A1111_KEYS)


def _new_a1111(facts: Mapping[str, Value], local: Local) -> dict[str, Any]:
    return {"description": "", "sd version": "Unknown", "activation text": "", "preferred weight": 0,
            "negative text": "", "notes": ""}  # fmt: skip


def is_civitai_model(document: Any) -> bool:
    """Whether this is a whole model of Civitai, with its versions: what SD.Next keeps as NAME.json."""
    return isinstance(document, dict) and isinstance(document.get("modelVersions"), list)


def is_civitai_version(document: Any) -> bool:
    """Whether this is a version of a model of Civitai; an empty object means that Civitai does not know the file."""
    told = isinstance(document, dict) and (
        not document or bool({"modelId", "trainedWords", "baseModel"} & document.keys())
    )
    return told and not is_civitai_model(document)


def _new_civitai(facts: Mapping[str, Value], local: Local) -> dict[str, Any]:
    version = {
        name: facts[field]
        for field, name in (("civitai_version", "id"), ("civitai_model", "modelId"))
        if field in facts
    }
    return {**version, "name": "", "baseModel": "Other", "description": None, "trainedWords": [],
            "model": {"name": facts.get("title", local.stem), "nsfw": False, "tags": []},
            "files": [], "images": []}  # fmt: skip


def _is_lora_manager(document: Any) -> bool:
    return isinstance(document, dict) and len({"file_name", "model_name", "file_path", "sha256", "base_model", "civitai",
                                               "usage_tips", "modelDescription"} & document.keys()) >= 2  # fmt: skip


def _new_lora_manager(facts: Mapping[str, Value], local: Local) -> dict[str, Any]:
    """All that its reader asks for (`BaseModelMetadata.from_dict`); it skips a model whose side-car lacks any of it."""
    return {
        "file_name": local.stem, "model_name": facts.get("title", local.stem), "file_path": local.path, "size": local.size,
        "modified": local.time, "sha256": local.sha256, "base_model": "Unknown", "preview_url": local.preview,
        "preview_nsfw_level": 0, "notes": "", "from_civitai": "civitai_model" in facts, "civitai": {}, "tags": [],
        "modelDescription": "", "usage_tips": "{}",
    }  # fmt: skip


_STABILITY_OTHER = 2
"""`ConnectedModelSource.Other`; System.Text.Json writes and reads it as a number."""


def _is_stability_matrix(document: Any) -> bool:
    return isinstance(document, dict) and bool({"ModelName", "ModelId", "VersionId"} & document.keys())


def _new_stability_matrix(facts: Mapping[str, Value], local: Local) -> dict[str, Any]:
    """What is not nullable in `ConnectedModelInfo`, and a time."""
    return {
        "ModelId": facts.get("civitai_model"), "ModelName": facts.get("title", local.stem), "ModelDescription": "",
        "Nsfw": False, "Tags": [], "ModelType": "Unknown", "VersionId": facts.get("civitai_version"), "VersionName": "",
        "BaseModel": None, "ImportedAt": datetime.fromtimestamp(local.time, UTC).isoformat(), "Hashes": {},
        "TrainedWords": [], "ThumbnailImageUrl": local.preview or None,
        "Source": 0 if "civitai_model" in facts else _STABILITY_OTHER,
    }  # fmt: skip


_CIVITAI_HASHES = {"SHA256": "sha256", "AutoV1": "autov1", "AutoV2": "autov2", "AutoV3": "autov3", "CRC32": "crc32",
                   "BLAKE3": "blake3"}  # fmt: skip
_STABILITY_HASHES = {name: _CIVITAI_HASHES[name] for name in ("SHA256", "CRC32", "BLAKE3")}

FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        # AUTOMATIC1111: modules/ui_extra_networks_user_metadata.py, extensions-builtin/Lora/ui_edit_user_metadata.py
        Family(A1111, ".json", (
            row("description", "description", spelling=TEXT_OR_HTML),
            row("base_model", "sd version", spelling=A1111_BASE),
            row("words", "activation text", spelling=PROMPT),
            row("strength", "preferred weight"),
            row("negative_text", "negative text"),
            row("notes", "notes", spelling=TEXT_OR_HTML),
        ), _is_a1111, _new_a1111, indent=4),
        # ComfyUI-Lora-Manager: py/utils/models.py, .specs/metadata.schema.json
        Family(LORA_MANAGER, ".metadata.json", (
            row("title", "model_name", "civitai.model.name"),
            row("description", "modelDescription", "civitai.model.description", spelling=HTML),
            row("version_name", "civitai.name"),
            row("version_description", "civitai.description", spelling=HTML),
            row("words", "civitai.trainedWords", "trainedWords", spelling=LIST_OR_PROMPT),
            row("notes", "notes"),
            row("tags", "tags", "civitai.model.tags", spelling=LIST_OR_PROMPT),
            row("base_model", "base_model", "civitai.baseModel"),
            row("strength", "usage_tips", spelling=USAGE_TIPS),
            row("author", "civitai.creator.username"),
            row("nsfw", "civitai.model.nsfw"),
            row("civitai_model", "civitai.modelId"),
            row("civitai_version", "civitai.id"),
            row("civitai_type", "civitai.model.type"),
            row("hash.sha256", "sha256"),
            row("hash.autov3", "autov3"),
        ), _is_lora_manager, _new_lora_manager, indent=2, needs_sha256=True, preview="preview_url"),
        # StabilityMatrix, in StabilityMatrix.Core/Models/ConnectedModelInfo.cs
        Family(STABILITY_MATRIX, ".cm-info.json", (
            row("title", "UserTitle", "ModelName"),
            row("description", "ModelDescription", spelling=HTML),
            row("version_name", "VersionName"),
            row("version_description", "VersionDescription", spelling=HTML),
            row("words", "TrainedWords", spelling=LIST_OR_PROMPT),
            row("tags", "Tags", spelling=LIST_OR_PROMPT),
            row("base_model", "BaseModel"),
            row("author", "AuthorUsername"),
            row("nsfw", "Nsfw"),
            row("civitai_model", "ModelId"),
            row("civitai_version", "VersionId"),
            row("civitai_type", "ModelType"),
            *hash_rows("Hashes", _STABILITY_HASHES),
        ), _is_stability_matrix, _new_stability_matrix, indent=2, preview="ThumbnailImageUrl"),
        # Civitai's /api/v1/model-versions, as Civitai Helper and most downloaders keep it: ch_lib/civitai.py
        Family(CIVITAI, ".civitai.info", (
            row("title", "model.name"),
            row("description", "model.description", spelling=HTML),
            row("version_name", "name"),
            row("version_description", "description", spelling=HTML),
            row("words", "trainedWords", spelling=LIST_OR_PROMPT),
            row("tags", "model.tags", spelling=LIST_OR_PROMPT),
            row("base_model", "baseModel"),
            row("author", "creator.username", "model.creator.username"),
            row("nsfw", "model.nsfw"),
            row("civitai_model", "modelId"),
            row("civitai_version", "id"),
            row("civitai_type", "model.type"),
            *hash_rows("files.*.hashes", _CIVITAI_HASHES),
        ), is_civitai_version, _new_civitai, indent=4),
    )
}  # fmt: skip


def version_of(model: dict[str, Any], names: frozenset[str]) -> dict[str, Any]:
    """A whole model of Civitai as that version which has a file of one of `names`, or as its only one.

    Where neither is there, only what is true of all versions is left.
    """
    versions = [version for version in model["modelVersions"] if isinstance(version, dict)]
    named = [version for version in versions if names & _file_names(version)]
    chosen = named if len(named) == 1 else versions if len(versions) == 1 else [{}]
    about = {name: model.get(name) for name in ("name", "type", "nsfw", "tags", "description")}
    return {**chosen[0], "modelId": model.get("id"), "model": about, "creator": model.get("creator")}


def _file_names(version: dict[str, Any]) -> set[str]:
    files = version.get("files")
    found = [file.get("name") for file in files if isinstance(file, dict)] if isinstance(files, list) else []
    return {name for name in found if isinstance(name, str)}
