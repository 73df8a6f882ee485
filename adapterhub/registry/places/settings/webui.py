"""A1111, Forge and reForge: the folders that the arguments in `webui-user.sh` and `webui-user.bat` name.

Source: A1111 `modules/cmd_args.py`, `modules/paths_internal.py`, `extensions-builtin/Lora/preload.py`; Forge adds --models-dir
and --forge-ref-a1111-home. The two files are read as text, and never run.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from adapterhub.adapter import Kind
from adapterhub.registry.places.found import Keeps, Place, Settings
from adapterhub.registry.places.settings import reading

FILES = ("webui-user.sh", "webui-user.bat")
FOLDERS = {
    "--lora-dir": Kind.LORA,
    "--lora-dirs": Kind.LORA,
    "--lyco-dir": Kind.LORA,
    "--lyco-dir-backcompat": Kind.LORA,
    "--embeddings-dir": Kind.EMBEDDING,
    "--hypernetwork-dir": Kind.HYPERNETWORK,
    "--ckpt-dir": Kind.CHECKPOINT,
    "--ckpt-dirs": Kind.CHECKPOINT,
}
ROOTS = {"--data-dir": "", "--forge-ref-a1111-home": "", "--models-dir": "models/", "--model-ref": "models/"}
"""Arguments that name a folder like the application's own, and which part of its own that stands for."""
_LINE = re.compile(r"(?:@?set\s+|export\s+)?\"?COMMANDLINE_ARGS=(.*)", re.IGNORECASE)
_ARGUMENT = re.compile(r"(--[a-z0-9-]+)=(.+)", re.DOTALL)


def settings(root: Path, keeps: Keeps) -> Settings:
    """The folders that the arguments name, and those of `keeps` in the roots that they name."""
    said = Settings()
    for name in FILES:
        for flag, value in _arguments(reading.text(root / name, said), windows=name.endswith(".bat")):
            if path := reading.expanded(value, root):
                said.places += below(flag, path, keeps)
    return said


def below(flag: str, path: Path, keeps: Keeps) -> Iterator[Place]:
    """The places that the argument `flag` with the value `path` names."""
    if flag in FOLDERS:
        yield Place(path, FOLDERS[flag])
    elif flag in ROOTS:
        part = ROOTS[flag]
        for kind, names in keeps.items():
            yield from (Place(path / name.removeprefix(part), kind) for name in names if name.startswith(part))


def _arguments(text: str, *, windows: bool) -> Iterator[tuple[str, str]]:
    """Each argument with its value, of all lines that set COMMANDLINE_ARGS and are no comment."""
    for line in filter(None, (_LINE.match(line.strip()) for line in text.splitlines())):
        flag = ""
        for word in _words(line[1].replace("\\", "/") if windows else line[1]):
            if found := _ARGUMENT.fullmatch(word):
                yield found[1], found[2]
            elif flag:
                yield flag, word
            flag = word if word.startswith("--") else ""


def _words(line: str) -> list[str]:
    """The words of the value of a variable: what its own quotes enclose, split once more."""
    try:
        outer = shlex.split(line, comments=True)
        return shlex.split(" ".join(outer)) if len(outer) == 1 else outer
    except ValueError:  # quotes that do not close: `set "COMMANDLINE_ARGS=…"` opened one before
        return line.replace('"', " ").split()
