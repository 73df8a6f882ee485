"""What is pushed, made in a folder of its own: the layout that the Hub's readers look for, by kind, and others beside it.

Source: diffusers `loaders/lora_base.py` and `loaders/textual_inversion.py` (the names that are looked for), PEFT
`utils/constants.py`. Private texts are taken out of headers and configurations there; the source is never touched.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import adapterhub.layouts as layouts
from adapterhub.adapter import Kind
from adapterhub.documents import Conversion, Inspection
from adapterhub.documents.header import Redaction
from adapterhub.documents.publication import Fidelity
from adapterhub.errors import NotAnAdapter, UsageError
from adapterhub.hub.card_facts import is_hub_id
from adapterhub.hub.names import safe_name
from adapterhub.operations.convert import convert
from adapterhub.operations.header.cleaning import cleaned
from adapterhub.operations.header.edit import metadata

_PEFT = "peft"
_CONFIG, _BASE = "adapter_config.json", "base_model_name_or_path"
_MAIN = {
    Kind.LORA: (("diffusers", "pytorch_lora_weights.safetensors"),),
    Kind.EMBEDDING: (("diffusers", ""),),
    Kind.CHECKPOINT: (("diffusers", ""),),
    Kind.HYPERNETWORK: (("safetensors", "{stem}.safetensors"), ("a1111", "{stem}.pt")),
}
"""Layouts and names by kind; without a name, the usual ones."""
_OUT = "out"
_CONFIGS = ("config.json", "model_index.json", "_config.json")
"""How the names of documents end that tools write paths into."""


@dataclass(frozen=True)
class Wanted:
    """How it is to be made."""

    also: Sequence[str] = ()
    as_algorithm: str | None = None
    rank: int | None = None
    base_model: str | None = None
    clean_private: bool = True


@dataclass(frozen=True)
class Staged:
    """What was made: files by their names in the repository, the proofs, and what was taken out."""

    files: dict[str, Path]
    fidelity: list[Fidelity] = field(default_factory=list)
    removed: list[Redaction] = field(default_factory=list)


def staged(source: Path, found: Inspection, folder: Path, wanted: Wanted) -> Staged:
    """Makes everything but the card and its pictures in `folder`, which is empty."""
    if found.kind not in _MAIN:
        raise NotAnAdapter(f"{source} is no adapter and no model", mend="adapterhub inspect says what it is.")
    fidelity: list[Fidelity] = []
    removed: list[Redaction] = []
    also = [(layout, _beside(source, found.kind, layout)) for layout in wanted.also]
    for layout, name in [*_main(source, found, wanted), *also]:
        origin = _twin(folder) if wanted.clean_private and _is_closed(name) else source
        fidelity.append(_made(origin, folder, layout, name, wanted))
        removed += _clean(folder, wanted) if wanted.clean_private else []
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return Staged(files, fidelity, removed)


def _is_closed(name: str) -> bool:
    """Whether this is a file whose texts cannot be cleaned once it is written: a pickle, a picture."""
    return bool(name) and not name.endswith(".safetensors")


def _twin(folder: Path) -> Path:
    """What was made and cleaned before: the source of a file that is cleaned by being made of it."""
    made = [path for path in sorted(folder.iterdir()) if path.suffix == ".safetensors"]
    return made[0] if len(made) == 1 else folder


def _main(source: Path, found: Inspection, wanted: Wanted) -> list[tuple[str, str]]:
    if found.layout == _PEFT:
        return [(_PEFT, "")]
    return [(layout, name.format(stem=stem_of(source))) for layout, name in _MAIN[found.kind]]


def stem_of(source: Path) -> str:
    """The source's name without suffix, such as every system takes."""
    name = source.resolve().name if source.name in ("", "..") else source.name
    return safe_name(name if source.is_dir() else Path(name).stem, "adapter").replace("{", "_").replace("}", "_")


def _beside(source: Path, kind: Kind, layout: str) -> str:
    """The name of a second file: the source's, in the first container of the layout."""
    suffix = next(iter(layouts.get(layout, kind).containers))
    if not suffix:
        raise UsageError(f"{layout} is a folder and has no place beside another layout", mend="Push it to a repository of its own.")  # fmt: skip
    return f"{stem_of(source)}{suffix}"


def _made(source: Path, folder: Path, layout: str, name: str, wanted: Wanted) -> Fidelity:
    """One layout, written into a folder of its own first, for a file of one may be called as that of another."""
    apart = folder.with_name("new")
    apart.mkdir()
    target = f"{apart / name}" if name else f"{apart / _OUT}/"
    if layout == _PEFT and _is_ready(source):
        done = _copied(source, apart / _OUT)
    else:
        options: dict[str, Any] = {"as_algorithm": wanted.as_algorithm, "rank": wanted.rank}
        done = _told(convert(source, target, to=layout, digests=False, **options))
    _move(apart if name else apart / _OUT, folder)
    shutil.rmtree(apart)
    return done


def _told(done: Conversion) -> Fidelity:
    return Fidelity(layout=done.target.layout, exactness=done.exactness, max_error=done.max_error, modules=done.modules)


def _is_ready(source: Path) -> bool:
    """Whether a PEFT folder has nothing but safetensors, and is pushed as it is."""
    return source.is_dir() and not any(source.rglob("adapter_model.bin"))


def _copied(source: Path, target: Path) -> Fidelity:
    """PEFT's files as they are."""
    count = 0
    for path in sorted(source.rglob("adapter_*")):
        if path.is_file() and path.name in (_CONFIG, "adapter_model.safetensors"):
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
            count += path.name == _CONFIG
    return Fidelity(layout=_PEFT, exactness="bit-exact", max_error=0.0, modules=count)


def _move(apart: Path, folder: Path) -> None:
    for path in sorted(apart.iterdir()):
        if (folder / path.name).exists():
            raise UsageError(f"two layouts would both write {path.name}", mend="Leave one out.")
        path.rename(folder / path.name)


def _clean(folder: Path, wanted: Wanted) -> list[Redaction]:
    """Takes private texts out of all headers and configurations; what there was, each with its file."""
    found: list[Redaction] = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.suffix == ".safetensors":
            done = metadata(path, clean_private=True).cleaning
            found += [
                one.model_copy(update={"field": f"{name}: {one.field}"}) for one in (done.findings if done else [])
            ]
        elif path.name.endswith(_CONFIGS):
            found += _cleaned_document(path, name, wanted.base_model)
    return found


def _cleaned_document(path: Path, name: str, base: str | None) -> list[Redaction]:
    text = path.read_text("utf-8")
    kept, found = cleaned({name: text})
    now = _with_base(kept.get(name, "{}"), base) if path.name == _CONFIG else kept.get(name, "{}")
    if now != text:
        path.write_text(now, "utf-8")
    return found


def _with_base(text: str, base: str | None) -> str:
    """PEFT's configuration with an id of the Hub for its base, or with none."""
    told = json.loads(text)
    if not isinstance(told, dict) or is_hub_id(str(told.get(_BASE) or "")) or not (told.get(_BASE) or base):
        return text
    return json.dumps({**told, _BASE: base}, indent=2)
