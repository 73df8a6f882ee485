"""One file by its content: safetensors, or either of torch's containers, whose pickles are read and never executed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from adapterhub.errors import MalformedFile
from adapterhub.files import foreign
from adapterhub.files.limits import Limits
from adapterhub.files.opened import Opened, closing_on_error, open_file, read_safetensors, sniff
from adapterhub.files.package import TORCH_LEGACY, TORCH_ZIP, File, Problem
from adapterhub.files.pickles import legacy_container, zip_container
from adapterhub.files.pickles.state import Refusal
from adapterhub.files.source import Source

_Reader = Callable[[Source, Limits], tuple[File, list[Problem]]]
_FORBIDS = ".safetensors"
_READERS = (
    (re.compile(rb"PK(\x03\x04|\x05\x06)"), TORCH_ZIP, zip_container.read_file),
    (re.compile(foreign.TORCH_MAGIC, re.DOTALL), TORCH_LEGACY, legacy_container.read_file),
)
_MEND = "Nothing in it was executed. Get it as safetensors, or from where it comes from again."


def open_any(path: Path, limits: Limits) -> Opened:
    """The file at `path`. What is named `.safetensors` never leads to a reader of pickles."""
    if path.name.lower().endswith(_FORBIDS):
        return open_file(path, limits)
    with closing_on_error([Source(path)]) as sources:
        source, head = sources[0], sniff(sources[0])
        for pattern, container, read_file in _READERS:
            if pattern.match(head):
                file, problems = _read(read_file, source, limits)
                return Opened(file, tuple(problems), {path.name: source}, container)
        return read_safetensors(source, head, limits)


def _read(read_file: _Reader, source: Source, limits: Limits) -> tuple[File, list[Problem]]:
    try:
        return read_file(source, limits)
    except Refusal as refusal:
        place = "" if refusal.at is None else f" (byte {refusal.at} of the pickle)"
        raise MalformedFile(source.path, refusal.rule, f"{refusal.message}{place}", mend=_MEND) from None
