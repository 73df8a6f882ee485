"""Side-cars as their owners write them."""

import json
from pathlib import Path

from adapterhub.registry.facts import make

SHA = "ab" * 32
A1111 = {"description": "Soft ink.", "sd version": "SDXL", "activation text": "inkwash, (soft light, haze:1.2)",
         "preferred weight": 0.7, "negative text": "photo", "notes": "Try 0.5 too."}  # fmt: skip
CIVITAI = {
    "id": 200, "modelId": 100, "name": "v2", "baseModel": "Pony", "trainedWords": ["inkwash"],
    "description": "<p>Second try</p>", "creator": {"username": "mei"},
    "model": {"name": "Ink Wash", "type": "LORA", "nsfw": False, "tags": ["style", "ink"],
              "description": "<p>Ink &amp; water</p><ul><li>one</li><li>two</li></ul>"},
    "files": [{"name": "other.pt", "hashes": {"SHA256": "cd" * 32}},
              {"name": "ink.safetensors", "primary": True,
               "hashes": {"SHA256": SHA.upper(), "AutoV2": "ABABABABAB", "CRC32": "0123ABCD"}}],
    "images": [{"url": "https://image.invalid/1"}],
}  # fmt: skip
LORA_MANAGER = {
    "file_name": "ink", "model_name": "Ink Wash", "file_path": "/loras/ink.safetensors", "size": 3, "modified": 1.5,
    "sha256": SHA, "base_model": "Pony", "preview_url": "", "preview_nsfw_level": 0, "notes": "mine", "from_civitai": True,
    "civitai": CIVITAI, "tags": ["Style", "water"], "modelDescription": "<p>Ink</p>", "favorite": True,
    "usage_tips": '{"strength": 0.6, "clip_skip": 2}', "someone": {"else": [1, None]},
}  # fmt: skip
STABILITY_MATRIX = {
    "ModelId": 100, "ModelName": "Ink Wash", "ModelDescription": "<p>Ink</p>", "Nsfw": False, "Tags": ["style"],
    "ModelType": "LORA", "VersionId": 200, "VersionName": "v2", "BaseModel": "Pony", "AuthorUsername": "mei",
    "ImportedAt": "2024-05-01T10:00:00+00:00", "Hashes": {"SHA256": SHA.upper(), "CRC32": None, "BLAKE3": None},
    "TrainedWords": ["inkwash"], "UserTitle": "My ink", "Source": 0,
}  # fmt: skip
WRITTEN = {"a1111": (".json", A1111), "civitai": (".civitai.info", CIVITAI), "lora-manager": (".metadata.json", LORA_MANAGER),
           "stability-matrix": (".cm-info.json", STABILITY_MATRIX)}  # fmt: skip


def model(folder: Path, name: str = "ink.safetensors") -> Path:
    path = folder / name
    path.write_bytes(b"abc")
    return path


def put(path: Path, suffix: str, document: object) -> Path:
    """Writes a side-car of the model at `path`; text and bytes as they are."""
    beside = path.with_name(path.stem + suffix)
    content = document if isinstance(document, str | bytes) else json.dumps(document)
    beside.write_bytes(content.encode() if isinstance(content, str) else content)
    return beside


def facts(origin: str = "user", **values: object) -> list:
    return [make(field, value, origin) for field, value in values.items()]


def told(found) -> dict:
    """{field: value} of facts of one origin."""
    return {fact.field: fact.value for fact in found}
