"""Factors by block: vectors and presets of the LoRA Block Weight extension (`presets.toml`), or a TOML of path patterns."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import adapterhub.architectures as architectures
from adapterhub.adapter import Module
from adapterhub.errors import RefusedInput, UnknownName, UsageError
from adapterhub.files.source import machine

_BLOCK = re.compile(r"(input_blocks|middle_block|output_blocks)\.(\d+)")
_SHORT = {"input_blocks": "IN", "output_blocks": "OUT"}
_MIDDLE, _TEXT = "M00", "BASE"
_SHAPE = 'A TOML of patterns and factors: "unet.down_blocks.*" = 0.5'


@dataclass(frozen=True)
class Blocks:
    """Factors by block name for an architecture, or by pattern of the canonical path, of which the last that fits counts."""

    architecture: str
    by_block: Mapping[str, float] | None
    by_pattern: Mapping[str, float]

    def factor(self, module: Module) -> float:
        """What the strength of a module is multiplied by; 1 where nothing is said."""
        if self.by_block is not None:
            block = block_of(module, self.architecture)
            return 1.0 if block is None else self.by_block.get(block, 0.0)
        path = ".".join(module)
        return next(
            (factor for pattern, factor in reversed(list(self.by_pattern.items())) if fnmatchcase(path, pattern)), 1.0
        )


def block_of(module: Module, architecture: str) -> str | None:
    """IN00, M00, OUT00 …, BASE for text encoders; None for what lies in no block of the UNet."""
    if module.component != "unet":
        return _TEXT
    found = _BLOCK.match(architectures.get(architecture).module_names("unet", "ldm")[module.module])
    if found is None:
        return None
    return f"{_SHORT[found[1]]}{int(found[2]):02}" if found[1] in _SHORT else _MIDDLE


def blocks(given: str, architecture: str) -> Blocks:
    """What --blocks says: a file, the name of a preset, or the numbers of a vector themselves."""
    if (found := in_file(given)) is not None:
        return Blocks(architecture, None, found)
    if Path(given).suffix == ".toml":
        raise UsageError(f"{given} is no file that exists", mend=f"Give a preset, a vector or a file. {_SHAPE}")
    like = _data()["like"].get(architecture)
    if like is None:
        raise UsageError(f"there are no block vectors for {architecture}", mend=f"Give a file. {_SHAPE}")
    presets: Mapping[str, str] = _data()["presets"][like]
    vector = presets.get(given, given)
    if "," not in vector:
        raise UnknownName("preset of blocks", given, tuple(presets))
    return Blocks(architecture, _by_block(vector, like), {})


def in_file(given: str | None) -> Mapping[str, float] | None:
    """The factors by pattern, where --blocks names a file."""
    return _patterns(Path(given)) if given is not None and Path(given).is_file() else None


def _by_block(vector: str, like: str) -> dict[str, float]:
    orders: Mapping[str, str] = _data()["orders"][like]
    numbers = [*map(_number, vector.split(","))]
    if str(len(numbers)) not in orders:
        raise UsageError(f"{len(numbers)} values, and a vector of {like} has {' or '.join(orders)}", mend=_SHAPE)
    return dict(zip(orders[str(len(numbers))].split(), numbers, strict=True))


def _number(text: str) -> float:
    try:
        return _finite(float(text))
    except ValueError:
        raise UsageError(
            f"{text.strip()!r} is no number", mend="A vector is numbers with commas between them."
        ) from None


def _patterns(path: Path) -> dict[str, float]:
    with machine("read", path):
        raw = path.read_bytes()
    try:
        document: dict[str, Any] = tomllib.loads(raw.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RefusedInput(f"{path}: no TOML: {error}", mend=_SHAPE) from None
    if bad := [
        name for name, value in document.items() if isinstance(value, bool) or not isinstance(value, int | float)
    ]:
        raise RefusedInput(f"{path}: {bad[0]!r} has no number", mend=_SHAPE)
    return {name: _finite(float(value)) for name, value in document.items()}


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise UsageError("a factor is a finite number", mend=_SHAPE)
    return value


@cache
def _data() -> dict[str, Any]:
    return tomllib.loads(files("adapterhub.operations.merge").joinpath("presets.toml").read_text("utf-8"))
