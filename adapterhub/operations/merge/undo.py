"""The undo file of a merge: what restores the base bit for bit.

Taking the change out of a merged weight again, and rounding, gives the base's bits but for a few units in the last place:
the differences are stored, compressed, beside the factors that made the change. Where the change was no sum, or the
arithmetic would have to be the same to the last bit of float64 (weights in float32), the differences of the bits themselves.

The container is safetensors: `head.N` is the header of the N-th of `files` in the metadata field, `document.N` the text of the
N-th of `documents`, `change.N` the differences of the N-th tensor in `weights`, `factor.N.ROLE` what the N-th of `terms` is
made of. Bytes are compressed by zstandard.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import adapterhub.layouts as layouts
from adapterhub import files
from adapterhub.adapter import Key, Role
from adapterhub.errors import RefusedInput
from adapterhub.files import SAFETENSORS, File, Package
from adapterhub.files.beside import leaves
from adapterhub.files.source import machine
from adapterhub.operations.merge.arithmetic import reversible
from adapterhub.operations.merge.rounding import CODES
from adapterhub.operations.merge.terms import Term
from adapterhub.operations.source import Source, titled
from adapterhub.tensors import Buffer, LazyTensor, from_bytes

if TYPE_CHECKING:
    import numpy as np

FIELD, VERSION = "adapterhub.undo", 1
_NARROW = frozenset({"F16", "BF16", "F8_E4M3", "F8_E5M2"})
_LEVEL = 3
_LARGEST = 100_000_000
"""Bytes of a header or a document."""
_PIECE = 1 << 20
"""Numbers whose bytes are put in order together: a part of the format."""


class Recorder:
    """Collects what an undo file holds while a merge is computed."""

    def __init__(self, opened: Source) -> None:
        self._opened = opened
        self._predicted: dict[Key, bytearray] = {}
        self._packed: dict[Key, tuple[bool, bytes]] = {}

    @property
    def share(self) -> float:
        """Bytes that it holds for each byte of the tensors that are done."""
        held = sum(len(data) for _, data in self._packed.values())
        return held / max(1, sum(self._opened.adapter.tensors[key].nbytes for key in self._packed))

    def subtracts(self, key: Key, stored: LazyTensor, terms: Sequence[Term]) -> bool:
        """Whether a tensor is restored by subtraction."""
        return stored.dtype in _NARROW and reversible(key, terms)

    def of(self, key: Key) -> Callable[[np.ndarray], None]:
        """What takes the bits that subtraction gives for a tensor, step by step."""
        held = self._predicted[key] = bytearray()
        return lambda codes: held.extend(codes.reshape(-1).view("u1").data)

    def done(self, key: Key, stored: LazyTensor, made: Iterable[Buffer]) -> None:
        """Packs the differences of a tensor."""
        predicted = self._predicted.pop(key, None)
        subtracted = predicted is not None
        differences = _differences(stored.read(), b"".join(made) if predicted is None else predicted, stored.dtype)
        self._packed[key] = (subtracted, packed(differences, stored.nbytes))

    def write(
        self,
        path: Path,
        merged: str,
        base: str,
        terms: Mapping[Key, Sequence[Term]],
        documents: Iterable[str],
        *,
        force: bool,
    ) -> None:
        """Writes the undo file. The merge is computed; `merged` and `base` are their digests, `documents` what it wrote beside
        the weights.
        """
        package = self._opened.package
        heads = {name: _head(package.paths[name], file) for name, file in package.files.items()}
        texts = {name: text for name in documents if (text := _text(package, name)) is not None}
        tensors: dict[str, LazyTensor] = {}
        for kind, parts in (("head", heads), ("document", texts)):
            for number, raw in enumerate(parts.values()):
                tensors[f"{kind}.{number}"] = _bytes(packed([raw], len(raw)))
        weights: list[dict[str, Any]] = []
        numbered: dict[int, int] = {}
        told: list[dict[str, Any]] = []
        for number, key in enumerate(key for key in terms if key in self._packed):
            subtracted, data = self._packed[key]
            tensors[f"change.{number}"] = _bytes(data)
            used = [_numbered(term, numbered, told, tensors) for term in terms[key]] if subtracted else None
            weights.append({"key": list(key), "terms": used})
        field = json.dumps({"version": VERSION, "merged": merged, "base": base, "architecture": self._opened.adapter.architecture,
                            "files": _sizes(heads), "documents": _sizes(texts), "weights": weights, "terms": told})  # fmt: skip
        files.write(Package.new({path.name: File(tensors, {FIELD: field})}), path, force=force)


def undoable(package: Package) -> bool:
    """Whether an undo file can restore it: safetensors, a file or a folder of such, but no shards."""
    return package.files.keys() == package.paths.keys() and all(
        file.container == SAFETENSORS for file in package.files.values()
    )


def _head(path: Path, file: File) -> bytes:
    """What stands before the tensors of a file."""
    with machine("read", path), path.open("rb") as stream:
        return stream.read(path.stat().st_size - sum(tensor.nbytes for tensor in file.tensors.values()))


def _text(package: Package, name: str) -> bytes | None:
    """A document of a folder, byte for byte."""
    path = None if package.path is None else package.path / name
    if path is None or not path.is_file():
        return None
    with machine("read", path):
        return path.read_bytes()


def _sizes(parts: Mapping[str, bytes]) -> list[tuple[str, int]]:
    return [(name, len(raw)) for name, raw in parts.items()]


def _numbered(term: Term, numbered: dict[int, int], told: list[dict[str, Any]], tensors: dict[str, LazyTensor]) -> int:
    """The number of a term in the file, into which it is put if it is new."""
    number = numbered.setdefault(id(term), len(told))
    if number == len(told):
        told.append({"strength": term.strength, "rank": list(term.rank)})
        tensors |= {f"factor.{number}.{role}": tensor for role, tensor in term.roles.items()}
    return number


@dataclass(frozen=True)
class Undo:
    """An undo file that was read: `terms` are None where the bits themselves are stored."""

    merged: str
    base: str
    architecture: str
    heads: Mapping[str, bytes]
    documents: Mapping[str, str]
    weights: Mapping[Key, tuple[LazyTensor, Sequence[Term] | None]]

    def head_of(self, name: str) -> bytes:
        """The header of the file that `name` was in the base; a single one may be called anything."""
        if len(self.heads) > 1 and name not in self.heads:
            raise RefusedInput(f"{name} is no file of the base", mend="Give the model as merge wrote it.")
        return self.heads[name] if name in self.heads else next(iter(self.heads.values()))


def read(package: Package) -> Undo:
    """What an undo file says. RefusedInput where it is none."""
    _require_undo(package)
    try:
        tensors = package.only.tensors
        told = json.loads(package.only.metadata[FIELD])
        if told["version"] != VERSION:
            raise ValueError(f"version {told['version']}")
        terms = [_term(number, one, tensors) for number, one in enumerate(told["terms"])]
        weights = {
            Key(str(one["key"][0]), str(one["key"][1]), Role(one["key"][2])): (
                tensors[f"change.{number}"],
                None if one["terms"] is None else [terms[index] for index in one["terms"]],
            )
            for number, one in enumerate(told["weights"])
        }
        heads = _unpacked(tensors, "head", told["files"])
        texts = {name: raw.decode() for name, raw in _unpacked(tensors, "document", told["documents"]).items()}
        return Undo(str(told["merged"]), str(told["base"]), str(told["architecture"]), heads, texts, weights)
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        raise RefusedInput(f"{package.path}: no undo file of a merge: {type(error).__name__} {error}",
                           mend="Give the file that merge --undo wrote.") from None  # fmt: skip


def _require_undo(package: Package) -> None:
    """RefusedInput that says what another file is."""
    if len(package.files) == 1 and FIELD in package.only.metadata:
        return
    identity = layouts.identify(package)
    found = identity.foreign.title if identity.foreign else titled(identity.kind)
    raise RefusedInput(f"{package.path} is no undo file of a merge, but {found}",
                       mend="merge --undo FILE makes one; without it, name the adapters: unmerge MERGED ADAPTER… -o OUT.")  # fmt: skip


def _unpacked(tensors: Mapping[str, LazyTensor], kind: str, sizes: Sequence[Sequence[Any]]) -> dict[str, bytes]:
    """The parts by their names."""
    if outside := [name for name, _ in sizes if leaves(name)]:
        raise ValueError(f"{outside} lead out of the folder")
    if large := [name for name, size in sizes if size > _LARGEST]:
        raise ValueError(f"{large} are too large")
    parts = (tensors[f"{kind}.{number}"].read() for number in range(len(sizes)))
    return {name: unpacked(part, int(size)) for (name, size), part in zip(sizes, parts, strict=True)}


def _term(number: int, told: Mapping[str, Any], tensors: Mapping[str, LazyTensor]) -> Term:
    head = f"factor.{number}."
    roles = {Role(name.removeprefix(head)): tensor for name, tensor in tensors.items() if name.startswith(head)}
    digest, strength = told["rank"]
    return Term(roles, float(told["strength"]), (str(digest), float(strength)))


def restored(change: LazyTensor, predicted: Buffer, stored: LazyTensor) -> bytearray:
    """The base's bytes of a tensor, from what is known without its differences."""
    import numpy as np

    kind = np.dtype(CODES[stored.dtype])
    made = bytearray(predicted)
    codes = np.frombuffer(made, kind)
    planes = np.frombuffer(unpacked(change.read(), codes.nbytes), "u1")
    for start in range(0, codes.size, _PIECE):
        piece = codes[start : start + _PIECE]
        bytes_of = planes[start * kind.itemsize :][: piece.nbytes].reshape(kind.itemsize, -1)
        folded = np.ascontiguousarray(bytes_of.T).view(kind).reshape(-1)
        piece += (folded >> 1) ^ (~(folded & 1) + 1)
    return made


def _differences(base: Buffer, other: Buffer, dtype: str) -> Iterator[bytes]:
    """base - other as integers, those near 0 as small numbers whatever their sign (zigzag); of each piece first the lowest
    byte of all of them.
    """
    import numpy as np

    kind = np.dtype(CODES[dtype])
    mine, theirs = np.frombuffer(base, kind), np.frombuffer(other, kind)
    for start in range(0, mine.size, _PIECE):
        gap = mine[start : start + _PIECE] - theirs[start : start + _PIECE]
        signs = gap.view(kind.str.replace("u", "i")) >> (8 * kind.itemsize - 1)
        folded = (gap << 1) ^ signs.view(kind)
        yield np.ascontiguousarray(folded.view("u1").reshape(-1, kind.itemsize).T).tobytes()


def packed(pieces: Iterable[bytes], size: int) -> bytes:
    """`size` bytes, compressed by zstandard."""
    import zstandard

    stream = zstandard.ZstdCompressor(level=_LEVEL).compressobj(size=size)
    return b"".join([*map(stream.compress, pieces), stream.flush()])


def unpacked(data: bytes, size: int) -> bytes:
    """The `size` bytes in what `packed` gave. ValueError where it does not hold as many."""
    import zstandard

    try:
        if zstandard.frame_content_size(data) != size:
            raise ValueError("a compressed part has another size")
        found: bytes = zstandard.ZstdDecompressor().decompress(data)
        return found
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from None


def _bytes(data: bytes) -> LazyTensor:
    return from_bytes("U8", (len(data),), data)
