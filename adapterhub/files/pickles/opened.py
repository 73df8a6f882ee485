"""One file by its content: safetensors, or either of torch's containers, whose pickles are read and never executed."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

from adapterhub.errors import MalformedFile
from adapterhub.files import foreign
from adapterhub.files.limits import Limits
from adapterhub.files.opened import Opened, closing_on_error, open_file, read_safetensors, sniff
from adapterhub.files.package import TORCH_LEGACY, TORCH_ZIP, File, Problem
from adapterhub.files.source import Source

_FORBIDS = ".safetensors"
# How a container begins, what it is called, and the module here that reads it, which few runs need.
_READERS = (
    (re.compile(rb"PK(\x03\x04|\x05\x06)"), TORCH_ZIP, "zip_container"),
    (re.compile(foreign.TORCH_MAGIC, re.DOTALL), TORCH_LEGACY, "legacy_container"),
)
_MEND = "Nothing in it was executed. Get it as safetensors, or from where it comes from again."


def open_any(path: Path, limits: Limits) -> Opened:
    """The file at `path`. What is named `.safetensors` never leads to a reader of pickles."""
    if path.name.lower().endswith(_FORBIDS):
        return open_file(path, limits)
    with closing_on_error([Source(path)]) as sources:
        source, head = sources[0], sniff(sources[0])
        for pattern, container, module in _READERS:
            if pattern.match(head):
                file, problems = _read(module, source, limits)
                return Opened(file, tuple(problems), {path.name: source}, container)
        return read_safetensors(source, head, limits)


def _read(module: str, source: Source, limits: Limits) -> tuple[File, list[Problem]]:
    from adapterhub.files.pickles.state import Refusal

    reader = import_module(f"adapterhub.files.pickles.{module}")
    try:
        found: tuple[File, list[Problem]] = reader.read_file(source, limits)
        return found
    except Refusal as refusal:
        place = "" if refusal.at is None else f" (byte {refusal.at} of the pickle)"
        raise MalformedFile(source.path, refusal.rule, f"{refusal.message}{place}", mend=_MEND) from None
