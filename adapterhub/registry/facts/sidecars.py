"""The side-cars of a file and its preview: found in a folder that is listed once, and read without trust."""

from __future__ import annotations

import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapterhub.errors import AdapterhubError, MalformedFile
from adapterhub.files import LIMITS, Limits, Problem, strict_json
from adapterhub.files.source import Source, machine
from adapterhub.registry.facts.fact import TEXT_CHARACTERS, Fact, WrongType, make
from adapterhub.registry.facts.families import (
    A1111,
    CIVITAI,
    FAMILIES,
    TEXT,
    Family,
    is_civitai_model,
    is_civitai_version,
    version_of,
)
from adapterhub.registry.facts.markup import plain
from adapterhub.registry.facts.rows import facts_of

PREVIEWS = tuple(
    before + after
    for before in (".preview", "")
    for after in (".png", ".jpg", ".jpeg", ".webp", ".avif", ".jxl", ".gif", ".mp4", ".webm")
)
"""How the names of previews end, the best first: one that is called so, still pictures before moving ones."""
TEXTS = (".txt", ".description.txt")
"""A1111's descriptions, in its order (`modules/ui_extra_networks.py`)."""
_MODELS = (".safetensors", ".sft", ".pt", ".pth", ".ckpt", ".bin", ".gguf")
PREVIEW = "preview"
SUFFIXES = (*(family.suffix for family in FAMILIES.values()), *TEXTS, *PREVIEWS)
"""How the names of all that lies beside a model end, behind the model's own without its suffix."""
_ENDINGS = tuple({Path(suffix).suffix for suffix in SUFFIXES})


@dataclass(frozen=True, slots=True)
class Beside:
    """A side-car or preview of `family` as it was when it was read, to tell later whether it has changed."""

    path: Path
    family: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Sidecars:
    """What lies beside a file and says something about it; `problems` are those of side-cars, each named in `where`."""

    facts: tuple[Fact, ...] = ()
    preview: Path | None = None
    files: tuple[Beside, ...] = ()
    problems: tuple[Problem, ...] = ()


class Listing:
    """The names in a folder, by what they are without regard to case."""

    def __init__(self, folder: Path, names: Iterable[str] | None = None) -> None:
        """Lists `folder`, unless its `names` are known already. MachineFailure where it cannot be listed."""
        self.folder = folder
        if names is None:
            with machine("list", folder):
                names = [entry.name for entry in folder.iterdir() if entry.name.lower().endswith(_ENDINGS)]
        self._names: dict[str, list[str]] = defaultdict(list)
        for name in sorted(names):
            self._names[name.casefold()].append(name)

    def beside(self, model: str) -> list[Path]:
        """All side-cars and previews of the file called `model`, not looked at yet."""
        stem = Path(model).stem
        start = stem.casefold()
        found = (self.find(stem, suffix) for suffix in SUFFIXES if start + suffix in self._names)
        return [path for path in found if path is not None and path.name != model]

    def find(self, stem: str, suffix: str) -> Path | None:
        """The file called `stem` and `suffix`, whatever its case; not one that goes with another model there."""
        found = [
            name for name in self._names.get((stem + suffix).casefold(), ())
            if name.startswith(stem) or not self._is_model(name[: len(name) - len(suffix)])
        ]  # fmt: skip
        best = min(found, key=lambda name: (name != stem + suffix, not name.startswith(stem)), default=None)
        return None if best is None else self.folder / best

    def _is_model(self, stem: str) -> bool:
        return any((self.folder / (stem + suffix)).exists() for suffix in _MODELS)


def read(path: Path, listing: Listing | None = None, limits: Limits = LIMITS) -> Sidecars:
    """What the side-cars of the file at `path` say, and its preview. `listing` is that of its folder, so that the files
    of one folder need but one. Nothing that lies there raises: what cannot be read is a problem.
    """
    path = Path(path)
    try:
        reading = _Reading(path, listing or Listing(path.parent), limits)
    except AdapterhubError as error:
        return Sidecars(problems=(Problem("warning", "sidecar-unreadable", path.parent.name, error.message),))
    for family in FAMILIES.values():
        reading.read_document(family)
    reading.read_text()
    preview = reading.find_preview()
    return Sidecars(tuple(reading.facts), preview, tuple(reading.files), tuple(reading.problems))


def document_at(path: Path, limits: Limits = LIMITS) -> Any:
    """The JSON of a side-car, a byte order mark before it or not. MalformedFile, MachineFailure or UsageError."""
    return parsed(path, _bytes(path, limits.document), limits)


def parsed(path: Path, content: bytes, limits: Limits = LIMITS) -> Any:
    """The value of JSON that was read from `path`. MalformedFile if it is none, or has too many values."""
    if strict_json.most_values(content) > limits.document_values:
        raise _malformed(path, "sidecar-values", f"more than {limits.document_values} values")
    try:
        return strict_json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise _malformed(path, "sidecar-json", f"this is not JSON: {str(error)[:200]}") from None


class _Reading:
    """What was found beside one file so far."""

    def __init__(self, path: Path, listing: Listing, limits: Limits) -> None:
        self.path, self.listing, self.limits = path, listing, limits
        self.stem = path.stem
        self.facts: list[Fact] = []
        self.files: list[Beside] = []
        self.problems: list[Problem] = []

    def read_document(self, family: Family) -> None:
        for found in self._files(family.suffix, family.name):
            try:
                document = document_at(found, self.limits)
            except AdapterhubError as error:
                self._complain(getattr(error, "rule", "sidecar-unreadable"), found, error.message)
            else:
                self._read_as_what_it_is(family, found, document)

    def _read_as_what_it_is(self, family: Family, found: Path, document: Any) -> None:
        """Civitai's documents stand under two names, and under A1111's there are those of other tools."""
        if family.name in (A1111, CIVITAI) and is_civitai_model(document):
            family, document = FAMILIES[CIVITAI], version_of(document, frozenset({self.path.name}))
        elif family.name == A1111 and not family.is_one(document) and is_civitai_version(document):
            family = FAMILIES[CIVITAI]
        if not family.is_one(document):
            self._complain("sidecar-unknown", found, f"this is not what {family.name} writes, and was left alone")
            return
        for field, value in facts_of(document, family.rows):
            if isinstance(value, WrongType):
                self._complain("sidecar-type", found, f"{field} {value}")
            elif (field, value) != ("title", self.stem):  # what tools put where they know no title
                self.facts.append(Fact(field, value, family.name))

    def read_text(self) -> None:
        """The first of TEXTS; what is no UTF-8 is read with marks in its place, as A1111 reads it."""
        for suffix in TEXTS:
            for found in self._files(suffix, TEXT):
                try:
                    text = _bytes(found, 4 * TEXT_CHARACTERS, cut=True).decode("utf-8-sig", "replace")
                except AdapterhubError as error:
                    self._complain("sidecar-unreadable", found, error.message)
                    continue
                if fact := make("description", plain(text), TEXT):
                    self.facts.append(fact)
                    return

    def find_preview(self) -> Path | None:
        return next((found for suffix in PREVIEWS for found in self._files(suffix, PREVIEW)), None)

    def _files(self, suffix: str, family: str) -> Iterator[Path]:
        """The side-car that ends in `suffix`, if there is one and it is a file."""
        found = self.listing.find(self.stem, suffix)
        if found is None or found.name == self.path.name:
            return
        try:
            there = found.stat()
        except OSError as error:
            self._complain("sidecar-unreadable", found, error.strerror or "it cannot be looked at")
            return
        if not stat.S_ISREG(there.st_mode):
            self._complain("sidecar-no-file", found, "this is no regular file: not opened")
            return
        self.files.append(Beside(found, family, there.st_size, there.st_mtime_ns))
        yield found

    def _complain(self, code: str, found: Path, message: str) -> None:
        message = message.removeprefix(f"{found}: ")
        self.problems.append(Problem("warning", code, found.name, message))


def _bytes(path: Path, most: int, *, cut: bool = False) -> bytes:
    """The content of a file; of more than `most` bytes the first, or MalformedFile."""
    source = Source(path)
    try:
        if source.size > most and not cut:
            raise _malformed(path, "sidecar-too-large", f"{source.size} bytes, above the limit of {most}")
        return source.read(0, min(source.size, most))
    finally:
        source.close()


def _malformed(path: Path, rule: str, message: str) -> MalformedFile:
    return MalformedFile(path, rule, message, mend="Mend the side-car by hand, or move it away.")
