"""What a conversion was asked for, and what that means for a source of a kind."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import adapterhub.layouts as layouts
from adapterhub import files
from adapterhub.adapter import Kind
from adapterhub.errors import NotAnAdapter, OutputExists, UnknownName, UsageError
from adapterhub.files import DIRECTORY, PNG, SAFETENSORS, WEBP, Package
from adapterhub.layouts.base import Form, Layout
from adapterhub.operations.work import ORDINARY, Request, WholeOptions

DTYPES = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}
ALGORITHMS = ("lora", "full")
USUAL = "kohya"
"""The layout where none is named and the source's own is not written under such a name."""
_FILE_SUFFIXES = (".safetensors", ".pt", ".bin", ".ckpt", ".png", ".webp")
_SAY_WHAT = "Give either --to LAYOUT or --for TOOL."
_EXTRACTED = "kohya"
"""The layout of extracted embeddings, if none is named."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """The arguments of `convert`; `whole` is for whole models alone."""

    source: Path
    target: str
    to: str | None = None
    for_tool: str | None = None
    algorithm: str | None = None
    rank: int | None = None
    dtype: str | None = None
    token: str | None = None
    image: Path | None = None
    extract_embeddings: bool = False
    fit: bool = False
    allow_loss: bool = False
    force: bool = False
    whole: WholeOptions = ORDINARY

    def check(self) -> None:
        """Raises UsageError for what cannot be meant, whatever the source is."""
        in_place = self.extract_embeddings or self.whole.changes or self.dtype is not None or self.algorithm is not None
        if self.to is not None and self.for_tool is not None:
            raise UsageError("--to and --for both say what to convert to", mend="Give one of them.")
        if self.to is None and self.for_tool is None and not in_place:
            raise UsageError("say what to convert to", mend=_SAY_WHAT)
        if self.algorithm is not None and self.algorithm not in ALGORITHMS:
            raise UnknownName("algorithm", self.algorithm, ALGORITHMS)
        if self.rank is not None and (self.algorithm != "lora" or self.rank < 1):
            raise UsageError("--rank goes with --as lora and is at least 1")
        if self.dtype is not None and self.dtype not in DTYPES:
            raise UnknownName("dtype", self.dtype, tuple(DTYPES))
        if self.whole.vae_dtype is not None and self.whole.vae_dtype not in DTYPES:
            raise UnknownName("dtype", self.whole.vae_dtype, tuple(DTYPES))
        if self.whole.shard_size is not None and self.whole.shard_size < 1 << 20:
            raise UsageError("a shard has at least 1 MiB", mend="Give --shard-size in bytes, or as 5GB.")
        path = Path(self.target)
        if path.exists() and self.source.exists() and path.samefile(self.source):
            raise UsageError(f"{path} is the source itself", mend="Give another output path.")
        if path.exists() and not path.is_dir() and not self.force:
            raise OutputExists(path)

    def met(self, kind: Kind, own: Layout) -> tuple[Kind, Request]:
        """The request for a source of `kind` in the layout `own`, and whose work it is. UsageError where it cannot be met."""
        if kind is not Kind.CHECKPOINT and self.whole != ORDINARY:
            raise UsageError(f"{self.source} is no whole model", mend="Leave out the options that are for such.")
        if self.extract_embeddings:
            if kind is not Kind.LORA:
                raise NotAnAdapter(f"{self.source}: embeddings are extracted from LoRA files, and this is no such file")
            work, into = Kind.EMBEDDING, Kind.EMBEDDING
        else:
            work, into = kind, self._into(kind)
        self._require_meant(work, into)
        layout, container = self._layout(into, own)
        if self.image is not None and container not in (PNG, WEBP):
            raise UsageError(f"{layout.name} is not written onto a picture", mend="--image goes with --to a1111-image.")
        path = Path(self.target)
        form = Form(container, "" if self._names_folder() else path.stem, self.image)
        dtype = DTYPES[self.dtype] if self.dtype is not None else None
        return work, Request(
            self.source,
            layout,
            form,
            self.algorithm,
            self.rank,
            dtype,
            self.token,
            self.fit,
            self.allow_loss,
            self.whole,
        )

    def _require_meant(self, kind: Kind, into: Kind) -> None:
        """Raises UsageError for options that are for what is made of another kind, or is of another kind."""
        for option, given, is_kind, meant in (
            ("--as", self.algorithm is not None, into, Kind.LORA),  # a hypernetwork may become one
            ("--token", self.token is not None, kind, Kind.EMBEDDING),
            ("--fit", self.fit, kind, Kind.HYPERNETWORK),
        ):
            if given and is_kind is not meant:
                raise UsageError(f"{option} is for the kind {meant}, and {self.source} is of kind {kind}",
                                 mend=f"Leave out {option}.")  # fmt: skip

    def place(self, package: Package) -> Path:
        """The file or folder that is written: where a folder is named for a file, the file's usual name inside."""
        path = Path(self.target)
        if package.container == DIRECTORY:
            if path.suffix in _FILE_SUFFIXES:
                several = ", ".join(package.files)
                raise UsageError(
                    f"{path} names a file, and what is written is a folder of {several}", mend="Give -o DIR/."
                )
            found = path
        else:
            found = path / next(iter(package.files)) if self._names_folder() else path
            _require_suffix(found, package)
        if found.exists() and not self.force and not files.is_empty_folder(found):
            raise OutputExists(found)
        return found

    def _names_folder(self) -> bool:
        return Path(self.target).is_dir() or self.target.endswith("/")

    def _into(self, kind: Kind) -> Kind:
        """The kind of the result: a hypernetwork goes into a layout of LoRAs if that is what is named."""
        if kind is not Kind.HYPERNETWORK:
            return kind
        if self.to is None and self.for_tool is None:
            return kind if self.algorithm is None else Kind.LORA
        known = layouts.TOOLS[kind] if self.for_tool is not None else {layout.name for layout in layouts.every(kind)}
        return kind if (self.for_tool or self.to) in known else Kind.LORA

    def _layout(self, kind: Kind, own: Layout) -> tuple[Layout, str]:
        """The layout and the container: of the layouts that a tool reads the first that is written under such a name."""
        suffix = Path(self.target).suffix.lower()
        if self.for_tool is not None:
            named = layouts.for_tool(self.for_tool, kind)
        elif self.to is None and not self.extract_embeddings and own.kind is not kind:
            raise UsageError(f"say what to convert to: a {own.kind} is no {kind}", mend=_SAY_WHAT)
        elif self.to is None and not self.extract_embeddings:
            named = (own,)
        else:
            named = (layouts.get(self.to or _EXTRACTED, kind),)
        for layout in named:
            if not layout.writes:
                raise UsageError(f"{layout.name} is only read", mend="adapterhub layouts shows what is written.")
            if suffix in layout.containers or suffix not in _FILE_SUFFIXES:
                return layout, layout.containers.get(suffix, next(iter(layout.containers.values())))
        raise UsageError(
            f"{self.target}: {named[0].name} is not written as {suffix}",
            mend=f"Give -o a name with {_suffixes(named)}.",
        )


def _require_suffix(path: Path, package: Package) -> None:
    """Raises UsageError for safetensors under the name of another container, which readers would take it for."""
    suffix = path.suffix.lower()
    if package.container == SAFETENSORS and suffix in _FILE_SUFFIXES and suffix != _FILE_SUFFIXES[0]:
        raise UsageError(
            f"{path}: safetensors are not written as {suffix}", mend="Give -o a name with .safetensors, or a folder."
        )


def usual(own: Layout, kind: Kind, target: Path | str) -> str:
    """The source's own layout, if `kind` is written in it and under such a name."""
    suffix = Path(target).suffix.lower()
    known = {suffix for layout in layouts.every(kind) for suffix in layout.containers}
    fits = own.kind is kind and own.writes and (suffix in own.containers or suffix not in known)
    return own.name if fits else USUAL


def _suffixes(found: Iterable[Layout]) -> str:
    return " or ".join(suffix or "no suffix, for a folder" for layout in found for suffix in layout.containers)
