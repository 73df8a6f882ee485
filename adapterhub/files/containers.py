"""One file by its content: which container it is, and the module that reads it. Content decides; a name only forbids."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from adapterhub.errors import MalformedFile
from adapterhub.files import foreign, safetensors
from adapterhub.files.limits import Limits
from adapterhub.files.package import PNG, SAFETENSORS, TORCH_LEGACY, TORCH_ZIP, WEBP, File, Problem
from adapterhub.files.source import Range, Source


class Container(NamedTuple):
    """How a container begins, its name, the module that reads it, which is imported when one is met, and what to do about
    one that is refused.
    """

    pattern: re.Pattern[bytes]
    name: str
    module: str
    mend: str


_PICKLED = "Nothing in it was executed. Get it as safetensors, or from where it comes from again."
_DRAWN = "Get the picture as it was saved: what shows pictures, or sends them, may have changed it."
CONTAINERS = (
    Container(re.compile(rb"PK(\x03\x04|\x05\x06)"), TORCH_ZIP, "adapterhub.files.pickles.zip_container", _PICKLED),
    Container(re.compile(foreign.TORCH_MAGIC, re.DOTALL), TORCH_LEGACY, "adapterhub.files.pickles.legacy_container", _PICKLED),
    Container(re.compile(rb"\x89PNG\r\n\x1a\n"), PNG, "adapterhub.files.images.reading", _DRAWN),
    Container(re.compile(rb"RIFF....WEBP", re.DOTALL), WEBP, "adapterhub.files.images.reading", _DRAWN),
)  # fmt: skip
"""What is none of these is safetensors, or refused by the name of what it is."""
ANY = frozenset(container.name for container in CONTAINERS)
TORCH = frozenset({TORCH_ZIP, TORCH_LEGACY})
_SAFE = ".safetensors"


@dataclass(frozen=True, slots=True)
class Opened:
    """A file, what was odd about it, and the sources behind its tensors by their names: itself, or its shards."""

    file: File
    problems: tuple[Problem, ...]
    sources: dict[str, Source]


def open_file(path: Path, limits: Limits, *, name: str = "", among: Collection[str] = ANY) -> Opened:
    """The file at `path`, which is safetensors or one of the containers `among`.

    `name` is what the file was called before links were followed. What is called `.safetensors`, by either name, never
    leads to a reader of pickles.
    """
    if is_safetensors(name):
        among = ()
    return open_source(Source(path), limits, among=among)


def open_source(source: Source, limits: Limits, *, among: Collection[str] = ANY) -> Opened:
    """What `source` holds, which is closed if that is refused."""
    if is_safetensors(source.path.name):
        among = ()
    with closing_on_error([source]):
        head = source.read(0, min(source.size, foreign.SNIFFED))
        for container in CONTAINERS:
            if container.name in among and container.pattern.match(head):
                return _read(container, source, limits)
        return _read_safetensors(source, head, limits)


def is_safetensors(name: str) -> bool:
    """Whether the name says so, and forbids everything else."""
    return name.lower().endswith(_SAFE)


@contextmanager
def closing_on_error(sources: list[Source]) -> Iterator[list[Source]]:
    """Closes `sources`, and what was added to them, if something goes wrong inside."""
    try:
        yield sources
    except BaseException:
        for source in sources:
            source.close()
        raise


def _read_safetensors(source: Source, head: bytes, limits: Limits) -> Opened:
    path = source.path
    count = safetensors.header_length(head, source.size, path, limits)
    start = safetensors.PREFIX + count
    raw = head[safetensors.PREFIX : start] if start <= len(head) else source.read(safetensors.PREFIX, count)
    try:
        header = safetensors.parse_header(raw, source.size - start, path, limits)
    except MalformedFile as error:
        raise _torn(path) or error from None
    file = File(header.tensors(partial(Range, source), start), header.metadata, container=SAFETENSORS)
    return Opened(file, tuple(header.problems), {path.name: source})


def _torn(path: Path) -> MalformedFile | None:
    """What is said of a header that breaks a rule because an edit of it was cut off."""
    from adapterhub.files.journal import journal_of

    if not journal_of(path).exists():
        return None
    return MalformedFile(
        path, "header-torn", "an edit of its header was cut off", mend=f"adapterhub metadata {path} finishes it."
    )


def _read(container: Container, source: Source, limits: Limits) -> Opened:
    from adapterhub.files.pickles.state import Refusal

    try:
        file, problems = import_module(container.module).read_file(source, limits)
    except Refusal as refusal:
        place = "" if refusal.at is None else f" (byte {refusal.at} of the pickle)"
        raise MalformedFile(source.path, refusal.rule, f"{refusal.message}{place}", mend=container.mend) from None
    file.container = container.name
    return Opened(file, tuple(problems), {source.path.name: source})
