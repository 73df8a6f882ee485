"""What lies at a path: files of lazy tensors, the JSON documents beside them, and what was odd about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from adapterhub.files.source import Source
from adapterhub.tensors import LazyTensor

SAFETENSORS, SHARDED, DIRECTORY = "safetensors", "safetensors-sharded", "directory"
TORCH_ZIP, TORCH_LEGACY = "torch-zip", "torch-legacy"
PNG, WEBP = "png", "webp"
ASIDE_FILE = "adapterhub_aside.safetensors"
"""In a folder: what the single file had that diffusers has no place for."""
SINGLE = frozenset({SAFETENSORS, TORCH_ZIP, TORCH_LEGACY, PNG, WEBP})
"""Containers that are one file."""


@dataclass(frozen=True)
class Problem:
    """Something odd but harmless: `where` is a tensor name, a metadata field or a file."""

    severity: str
    code: str
    where: str
    message: str


@dataclass
class File:
    """One tensor file; tensors read from disk stand in the order of their bytes, those of a pickle in its own.

    `tree` is everything that a pickle or a picture holds: dictionaries, lists, tuples, sets, numbers, texts, bytes and
    LazyTensors, and a `pickles.values.Record` for each object of another class; `beside` are the tensors in it that stand
    beside those of the file, such as an optimizer's, by the way to each. `container` is how the file is stored, or is to be
    written; a picture is written onto `cover`, or onto a plain card.

    Of a safetensors file that is to be written: tensors stand `in_given_order` or in the format's own; `late` gives metadata
    that is known only when all tensors are written, as long as what `metadata` has in its place; `head` is the length and
    the header as they are to be, in place of those made of the rest.
    """

    tensors: Mapping[str, LazyTensor]
    metadata: Mapping[str, str] = field(default_factory=dict)
    tree: Any = None
    container: str = SAFETENSORS
    cover: Path | None = None
    in_given_order: bool = False
    late: Callable[[], Mapping[str, str]] | None = None
    head: bytes | None = None
    beside: Mapping[str, LazyTensor] = field(default_factory=dict)


@dataclass
class Package:
    """What was read from `path`, or what is to be written.

    `files` and `paths` are keyed by relative file name; the shards of one model are one File, and each has its path.
    `size` counts the bytes on disk of all tensor files; `variant` is what was asked for, of whatever folders are read.
    """

    path: Path | None
    container: str
    files: Mapping[str, File]
    documents: Mapping[str, Any] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    size: int = 0
    paths: Mapping[str, Path] = field(default_factory=dict)
    sources: tuple[Source, ...] = field(default=(), repr=False)
    variant: str | None = None

    @classmethod
    def new(
        cls, files: Mapping[str, File], documents: Mapping[str, Any] | None = None, container: str | None = None
    ) -> Package:
        """A package that is not on disk yet: a directory where there are documents or several files."""
        guess = DIRECTORY if documents or len(files) != 1 else next(iter(files.values())).container
        return cls(None, container or guess, files, documents or {})

    @property
    def only(self) -> File:
        """The one file. ValueError if there are several."""
        if len(self.files) != 1:
            raise ValueError(f"{len(self.files)} files where one was expected: {', '.join(self.files)}")
        return next(iter(self.files.values()))

    @property
    def beside(self) -> dict[str, LazyTensor]:
        """The tensors that stand beside those of the files, each behind the name of its file where there are several."""
        return {f"{file}:{name}" if len(self.files) > 1 else name: tensor
                for file, held in self.files.items() for name, tensor in held.beside.items()}  # fmt: skip

    def ensure_unchanged(self) -> None:
        """Raises MalformedFile (rule `changed-while-reading`) if any open file is not what it was when opened."""
        for source in self.sources:
            source.ensure_unchanged()

    def close(self) -> None:
        """Closes the files; tensors that were read from them have no bytes any more."""
        for source in self.sources:
            source.close()

    def __enter__(self) -> Package:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
