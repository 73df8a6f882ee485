"""What is fuzzed: each parser as a function of bytes, which may raise what refuses a file, and nothing else."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import safetensors

from adapterhub import files
from adapterhub.errors import MalformedFile
from adapterhub.files.images import payload
from adapterhub.files.pickles.machine import interpret
from adapterhub.files.pickles.meanings import TorchMeanings
from adapterhub.files.pickles.state import Refusal
from adapterhub.files.pickles.tensors import Storage
from adapterhub.files.pickles.tree import file_of
from adapterhub.tensors import LazyTensor
from tests.fuzz import folders
from tests.fuzz.mutators import Mutate, of_header, of_nothing, of_png, of_webp, of_zip

LIMITS = files.Limits(
    header=1 << 16, tensors=1000, metadata=1 << 16, document=1 << 16, opcodes=10_000, pickle=1 << 16, pickle_memory=4 << 20,
    stack=1000, depth=32, nodes=10_000, keys=500, records=100, pixels=1 << 20, decoded=1 << 16, payload=1 << 16,
)  # fmt: skip
"""So low that nothing takes long; what is above one of them is refused by the same code."""
_LARGEST = 1 << 20
"""Bytes of tensors that a run reads."""


class Target(NamedTuple):
    """`read` gives whether the bytes were read; what `refuses` is raised where a rule refuses them."""

    read: Callable[[bytes], bool]
    refuses: tuple[type[Exception], ...] = (MalformedFile,)
    mutate: Mutate = of_nothing


def scratch() -> Path:
    """A folder for this process. libFuzzer ends it without a farewell: whoever started it removes the folder then."""
    folder = tempfile.mkdtemp(prefix="adapterhub-fuzz-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def whole(name: str) -> Callable[[bytes], bool]:
    """A file of this name, with all its tensors."""
    path = scratch() / name

    def read(content: bytes) -> bool:
        path.write_bytes(content)
        with files.read(path, limits=LIMITS) as package:
            return consumed(package.only.tensors)

    return read


def consumed(tensors: Mapping[str, LazyTensor]) -> bool:
    """Reads all tensors, which must give as many bytes as they promise."""
    if sum(tensor.nbytes for tensor in tensors.values()) < _LARGEST:
        for name, tensor in tensors.items():
            assert len(tensor.read()) == tensor.nbytes, name
    return True


def header(content: bytes) -> bool:
    """A safetensors file: what we accept, the reference accepts too, and finds the same in it."""
    path = _SAFETENSORS
    path.write_bytes(content)
    with files.read(path, limits=LIMITS) as package:
        ours = {name: (list(tensor.shape), tensor.read()) for name, tensor in package.only.tensors.items()}
    assert ours == {name: (told["shape"], bytes(told["data"])) for name, told in safetensors.deserialize(content)}
    return True


def pickled(content: bytes) -> bool:
    """A pickle as `data.pkl` holds it; every storage that it names is there, full of zeros."""
    meanings = TorchMeanings(LIMITS, _of_zeros)
    root, _ = interpret(content, 0, meanings, LIMITS)
    return consumed(file_of(root, meanings.left_out, LIMITS)[0].tensors)


def _of_zeros(storage: Storage) -> None:
    if storage.nbytes > _LARGEST:
        raise Refusal("storage-size", "more than there is")
    storage.read = lambda start, length: (bytes(length),)


def embedding(content: bytes) -> bool:
    """The JSON inside a picture."""
    return consumed(file_of(payload.loads(content, LIMITS), {}, LIMITS)[0].tensors)


def beside(lay: Callable[[Path], tuple[Path, Path]]) -> Callable[[bytes], bool]:
    """A document beside weights: `lay` gives what to read, and the document that the bytes are."""
    path, document = lay(scratch())

    def read(content: bytes) -> bool:
        document.write_bytes(content)
        with files.read(path, limits=LIMITS) as package:
            return all(consumed(file.tensors) for file in package.files.values())

    return read


_SAFETENSORS = scratch() / "x.safetensors"
TARGETS = {
    "header": Target(header, mutate=of_header),
    "zip": Target(whole("x.pt"), mutate=of_zip),
    "legacy": Target(whole("x.pt")),
    "pickle": Target(pickled, (Refusal,)),
    "png": Target(whole("x.png"), mutate=of_png),
    "webp": Target(whole("x.webp"), mutate=of_webp),
    "payload": Target(embedding, (Refusal,)),
    "index": Target(beside(folders.shards)),
    "pipeline": Target(beside(folders.pipeline)),
    "config": Target(beside(folders.peft)),
}
