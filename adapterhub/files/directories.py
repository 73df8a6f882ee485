"""Which files of a folder make up an adapter or a checkpoint, told from names, before any is opened."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from adapterhub.errors import MalformedFile, UsageError
from adapterhub.files.beside import inside, read_document
from adapterhub.files.limits import Limits
from adapterhub.files.package import Problem
from adapterhub.files.source import machine

LORA = "pytorch_lora_weights.safetensors"
PEFT, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
PIPELINE = "model_index.json"
COMPONENTS = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3", "vae")
"""Folders of a diffusers pipeline that hold weights adapterhub works on."""
DOCUMENTS = (PIPELINE, PEFT_CONFIG, "config.json", "scheduler_config.json")
"""JSON files that say something about the weights beside them."""
_SCHEDULER = "scheduler"
_STEMS = ("diffusion_pytorch_model", "model")
_SHARD = re.compile(r"-\d{5}-of-\d{5}(\.|\Z)")
_INDEX = re.compile(r"\.safetensors\.(\w+\.)?index(\.\w+)?\.json\Z")
_CODE_FIELDS = ("auto_map", "custom_pipeline")


@dataclass
class Contents:
    """What to read of a folder, by names relative to it; `whole` if the folder as such is what is meant."""

    weights: list[str]
    documents: list[str] = field(default_factory=list)
    whole: bool = True


class Folder:
    """A folder, whose names are listed once; only regular files and links to such are in `files`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: set[str] = set()
        self.folders: list[str] = []
        self.problems: list[Problem] = []
        with machine("list", path), os.scandir(path) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                self._sort_in(entry)

    def _sort_in(self, entry: os.DirEntry[str]) -> None:
        try:
            mode = entry.stat().st_mode
        except OSError:  # a link to nothing, or in circles
            mode = 0
        if stat.S_ISREG(mode):
            self.files.add(entry.name)
        elif stat.S_ISDIR(mode):
            self.folders.append(entry.name)
        elif not entry.name.startswith("."):
            self.problems.append(Problem("warning", "skipped", entry.name, "neither a file nor a folder: not opened"))

    def candidates(self) -> list[str]:
        """The models in the folder: single files, and an index for each set of shards."""
        indexes = [name for name in self.files if _INDEX.search(name)]
        single = [name for name in self.files if name.endswith(".safetensors") and not _SHARD.search(name)]
        return sorted(indexes + [name for name in single if not name.startswith(".")])


def survey(path: Path, limits: Limits) -> tuple[Contents, list[Problem]]:
    """What of the folder `path` is to be read, and what was odd. UsageError where nothing or too much fits."""
    folder = Folder(path)
    for recognise in (_lora, _peft, _peft_components, _pipeline, _lone):
        if contents := recognise(folder, limits):
            return contents, folder.problems
    raise UsageError(
        f"{path} holds no adapter and no model that adapterhub reads",
        mend=f"Expected {LORA}, {PEFT}, {PIPELINE} or one *.safetensors; found: {_list(folder.files) or 'nothing'}.",
    )


def read_documents(path: Path, names: Iterable[str], limits: Limits) -> tuple[dict[str, object], list[Problem]]:
    """The documents `names` of the folder `path`; a warning for each that asks for code to be run."""
    documents = {name: read_document(inside(path, name, path), limits) for name in names}
    problems = [
        Problem("warning", "custom-code", name, f"{field} names code, which is never run")
        for name, document in documents.items()
        if isinstance(document, dict)
        for field in _CODE_FIELDS
        if field in document
    ]
    return documents, problems


def _lora(folder: Folder, limits: Limits) -> Contents | None:
    return Contents([LORA], _documents(folder)) if LORA in folder.files else None


def _peft(folder: Folder, limits: Limits) -> Contents | None:
    here = {PEFT, PEFT_CONFIG} & folder.files
    if len(here) == 1:
        raise _missing(folder, ({PEFT, PEFT_CONFIG} - here).pop(), folder)
    return Contents([PEFT], _documents(folder)) if here else None


def _peft_components(folder: Folder, limits: Limits) -> Contents | None:
    found = {name: Folder(folder.path / name) for name in folder.folders if not name.startswith(".")}
    parts = {name: part for name, part in found.items() if {PEFT, PEFT_CONFIG} & part.files}
    for name, part in parts.items():
        if missing := {PEFT, PEFT_CONFIG} - part.files:
            raise _missing(folder, f"{name}/{missing.pop()}", part)
    documents = [document for name, part in parts.items() for document in _documents(part, f"{name}/")]
    return Contents([f"{name}/{PEFT}" for name in parts], documents) if parts else None


def _pipeline(folder: Folder, limits: Limits) -> Contents | None:
    if PIPELINE not in folder.files:
        return None
    index = read_document(inside(folder.path, PIPELINE, folder.path), limits)
    stated = {name for name, value in index.items() if isinstance(value, list) and any(value)}
    for name in stated:
        inside(folder.path, name, folder.path / PIPELINE)
    contents = Contents([], _documents(folder))
    for name in (*COMPONENTS, _SCHEDULER):
        if name in folder.folders:
            part = Folder(folder.path / name)
            contents.documents += _documents(part, f"{name}/")
            contents.weights += [f"{name}/{weights}" for weights in _preferred(part)]
            folder.problems += part.problems
        if name in COMPONENTS and name in stated and not any(w.startswith(f"{name}/") for w in contents.weights):
            raise _missing(folder, f"{name}/*.safetensors", folder)
    return contents


def _preferred(folder: Folder) -> list[str]:
    """The weights of one component: without a variant if there are such, else of the only variant there is."""
    known = [name for name in folder.candidates() if name.split(".")[0] in _STEMS]
    plain = [name for name in known if name.count(".") == 1 or name.endswith(".safetensors.index.json")]
    plain = [name for name in plain if name.split(".")[1] == "safetensors"]
    return _at_most_one(folder, sorted(plain, key=len)[:1] or known)


def _lone(folder: Folder, limits: Limits) -> Contents | None:
    found = _at_most_one(folder, folder.candidates())
    return Contents(found, _documents(folder), whole=False) if found else None


def _at_most_one(folder: Folder, names: list[str]) -> list[str]:
    if len(names) > 1:
        raise UsageError(f"{folder.path} holds several models: {_list(names)}", mend="Give one of these files.")
    return names


def _documents(folder: Folder, prefix: str = "") -> list[str]:
    return [prefix + name for name in DOCUMENTS if name in folder.files]


def _missing(folder: Folder, name: str, part: Folder) -> MalformedFile:
    return MalformedFile(
        folder.path, "missing-file", f"{name} is missing",
        mend=f"Get it too, or give a single file. Beside it lie: {_list(part.files) or 'no files'}.",
    )  # fmt: skip


def _list(names: Iterable[str]) -> str:
    names = sorted(names)
    return ", ".join(map(ascii, names[:12])) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
