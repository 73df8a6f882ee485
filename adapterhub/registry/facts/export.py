"""`export`: facts into the side-car of another tool, with everything that it says already left as it is."""

from __future__ import annotations

import copy
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapterhub.errors import MalformedFile, OutputExists, RefusedInput, UnknownName, UsageError
from adapterhub.files import LIMITS, cached_sha256, publishing, sha256
from adapterhub.files.source import Source, machine
from adapterhub.files.streaming import write_all
from adapterhub.registry.facts.fact import Fact, Value, WrongType
from adapterhub.registry.facts.families import FAMILIES, Family, Local
from adapterhub.registry.facts.precedence import settled
from adapterhub.registry.facts.rows import NoPlace, Row
from adapterhub.registry.facts.sidecars import PREVIEWS, Listing, parsed


@dataclass(frozen=True, slots=True)
class Change:
    """`field` as the side-car said it and says it now; None for what it did not say."""

    field: str
    before: Value | None
    after: Value


@dataclass(frozen=True, slots=True)
class Export:
    """What `export` did, or would do: the side-car at `path`, made anew or changed; (field, why) of what it cannot hold;
    and the picture that was laid beside the file.
    """

    family: str
    path: Path
    created: bool
    written: bool
    changes: tuple[Change, ...]
    left_out: tuple[tuple[str, str], ...]
    preview: Path | None


def export(
    path: Path,
    facts: Iterable[Fact],
    family: str,
    *,
    preview: Path | None = None,
    dry_run: bool = False,
    digest: str | None = None,
) -> Export:
    """Writes the winning `facts` about the file at `path` into its side-car of `family`, a name of FAMILIES.

    What the side-car says otherwise is replaced; all else in it stays, in its order, keys that we do not know included, and
    a hash is only written where none stands. `preview` is copied beside the file. `digest` is the SHA-256 of the file where
    it is known; LoRA Manager's new side-cars need it, and it takes a reading otherwise.

    Raises UnknownName, UsageError where there is no such file or a link is in the way, OutputExists for a preview that
    would replace another, RefusedInput for a side-car that is malformed or another tool's: that is never overwritten.
    """
    if family not in FAMILIES:
        raise UnknownName("family of side-cars", family, list(FAMILIES))
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"{path} is no file", mend="Give the model's file; its side-car is written beside it.")
    values = {fact.field: fact.value for fact in settled(facts).values()}
    writing = _Writing(path, FAMILIES[family])
    picture = _picture(path, preview)
    document, changes, left_out = writing.merged(values, picture, digest)
    if picture is not None and (key := writing.family.preview) and (preview is not None or not document.get(key)):
        document[key] = _slashed(picture)
    written = document != writing.document
    if not dry_run:
        if preview is not None and picture is not None:
            _copy(preview, picture)
        if written:
            writing.publish(document)
    made = picture if preview is not None else None
    return Export(family, writing.path, writing.document is None, written and not dry_run, changes, left_out, made)


class _Writing:
    """The side-car of `model`, as it is now: `document` is None where there is none."""

    def __init__(self, model: Path, family: Family) -> None:
        self.model, self.family = model, family
        stem = model.stem
        self.path = Listing(model.parent).find(stem, family.suffix) or model.with_name(stem + family.suffix)
        self.document: dict[str, Any] | None = None
        self.source: Source | None = None
        if os.path.lexists(self.path):
            self._open()

    def _open(self) -> None:
        if self.path.is_symlink():
            raise UsageError(f"{self.path} is a link, and is not written through", mend="Put a file in its place.")
        self.source = Source(self.path)
        if self.source.size > LIMITS.document:
            raise MalformedFile(self.path, "sidecar-too-large", f"{self.source.size} bytes are too many for a side-car")
        document = parsed(self.path, self.source.read(0, self.source.size))
        if not self.family.is_one(document):
            raise RefusedInput(
                f"{self.path} is not what {self.family.name} writes, and is not overwritten", mend="Move it away first."
            )
        self.document = document

    def merged(
        self, values: Mapping[str, Value], picture: Path | None, digest: str | None
    ) -> tuple[dict[str, Any], tuple[Change, ...], tuple[tuple[str, str], ...]]:
        """The document with `values` in it, what changed, and what found no place."""
        document = self._new(values, picture, digest) if self.document is None else copy.deepcopy(self.document)
        rows = {row.field: row for row in self.family.rows}
        left_out = [(field, f"{self.family.name} has no place for it") for field in values.keys() - rows.keys()]
        for field, row in rows.items():
            there = _told(row, document)
            if field not in values or there == values[field] or (there and field.startswith("hash.")):
                continue
            try:
                row.write(document, values[field])
            except NoPlace as reason:
                left_out.append((field, str(reason)))
        return document, tuple(self._changes(document)), tuple(sorted(left_out))

    def _changes(self, document: dict[str, Any]) -> Iterator[Change]:
        for row in self.family.rows:
            before, after = _told(row, self.document), _told(row, document)
            if after is not None and before != after:
                yield Change(row.field, before, after)

    def _new(self, values: Mapping[str, Value], picture: Path | None, digest: str | None) -> dict[str, Any]:
        with machine("look up", self.model):
            there = self.model.stat()
        known = digest or (cached_sha256(self.model) if self.family.needs_sha256 else "")
        stem = self.model.stem
        local = Local(
            stem, _slashed(self.model), there.st_size, there.st_mtime, known, _slashed(picture) if picture else ""
        )
        return self.family.new(values, local)

    def publish(self, document: dict[str, Any]) -> None:
        """Makes `document` the side-car, whole or not at all. MalformedFile if somebody else changed it meanwhile."""
        content = _encoded(self.path, document, self.family.indent)
        with publishing.unpublished_file(self.path) as (temporary, descriptor):
            with machine("write", self.path):
                if self.source is not None:
                    os.fchmod(descriptor, stat.S_IMODE(os.fstat(self.source.descriptor).st_mode))
                write_all(descriptor, content)
                os.fsync(descriptor)
            if self.source is not None:
                self.source.ensure_unchanged()
            publishing.publish_file(temporary, self.path, force=self.source is not None)


def _told(row: Row, document: Any) -> Value | None:
    try:
        return row.read(document)
    except WrongType:
        return None


def _encoded(path: Path, document: dict[str, Any], indent: int | None) -> bytes:
    try:
        return json.dumps(document, indent=indent, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        raise UsageError(f"{path}: its name is no Unicode, which JSON needs", mend="Rename the file.") from None


def _slashed(path: Path) -> str:
    return path.absolute().as_posix()


def _picture(model: Path, preview: Path | None) -> Path | None:
    """Where the preview is or will be: beside the model, called as all tools look for it."""
    stem = model.stem
    listing = Listing(model.parent)
    found = next((there for suffix in PREVIEWS if (there := listing.find(stem, suffix)) and there != model), None)
    if preview is None:
        return found
    suffix = preview.suffix.lower()
    if suffix not in PREVIEWS:
        raise UsageError(f"{preview} is no preview that tools look for", mend=f"Give one of {', '.join(PREVIEWS[:9])}.")
    target = model.with_name(f"{stem}.preview{suffix}")
    if os.path.lexists(target) and sha256(target) != sha256(preview):
        raise OutputExists(target)
    return target


def _copy(preview: Path, target: Path) -> None:
    if os.path.lexists(target):
        return
    source = Source(preview)
    try:
        with publishing.unpublished_file(target) as (temporary, descriptor):
            with machine("write", target):
                for piece in source.pieces(0, source.size):
                    write_all(descriptor, piece)
                os.fsync(descriptor)
            source.ensure_unchanged()
            publishing.publish_file(temporary, target, force=False)
    finally:
        source.close()
