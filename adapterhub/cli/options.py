"""The arguments and options that several commands share."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click


def _remember(ctx: click.Context, option: click.Parameter, value: bool) -> None:
    if value:
        ctx.ensure_object(dict)["debug"] = True


class Named(click.Path):
    """A path that is not empty, which would be the folder that one is in: what a variable gives that is not set."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not str(value):
            self.fail("it is empty", param, ctx)
        return super().convert(value, param, ctx)


class Target(Named):
    """A path that is written to; `-` is standard output elsewhere, and nothing is written there."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if str(value) == "-":
            self.fail("nothing is written to standard output: name a file, which ./- may be", param, ctx)
        return super().convert(value, param, ctx)


PATH = Named(path_type=Path)
TARGET = Target()
OUTPUT = Target(path_type=Path)
debug = click.option(
    "--debug", is_flag=True, expose_value=False, callback=_remember, help="Show the traceback of an error."
)


class PathOrAddress(Named):
    """A path; or, as text, the address of something remote, whose slashes a path would lose."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        remote = isinstance(value, str) and _ADDRESS.match(value)
        return value if remote else super().convert(value, param, ctx)


_ADDRESS = re.compile(r"(hf|https?)://", re.IGNORECASE)
paths = click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=PathOrAddress(path_type=Path))
force = click.option("--force", is_flag=True, help="Replace an output that is there already.")
as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
base = click.option("--base", metavar="CKPT", type=PATH, help="The model that the adapter is for, where it matters.")
variant = click.option(
    "--variant",
    metavar="NAME",
    help="Of each diffusers folder that has them: its weights of that name, as fp16.",
)
blocks = click.option(
    "--blocks",
    metavar="FILE|PRESET",
    help="Factors by block: a TOML of lines as 'unet.down_blocks.*' = 0.5; or a vector of LoRA Block Weight, or a preset as INS.",
)
include = click.option("--include", metavar="GLOB", multiple=True, help="Only modules whose component.path fits.")
exclude = click.option("--exclude", metavar="GLOB", multiple=True, help="No modules whose component.path fits.")
db = click.option("--db", metavar="FILE", type=PATH, help="The registry; $ADAPTERHUB_DB, if it is not given.")
STRENGTHS = (
    "UNET is an adapter's strength for the UNet, TE for the text encoders: one is for both, and 1 where none is given."
)
_WEIGHTED = re.compile(r"(.+):([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)", re.DOTALL)


def weighted_path(text: str) -> tuple[Path, float]:
    """PATH or PATH:WEIGHT: what stands behind the last colon is a weight if it is a number, and no file is called all of it."""
    if not text or text.startswith(":"):
        raise click.BadParameter("a path is empty")
    found = _WEIGHTED.fullmatch(text)
    if found is None and not Path(text).exists():
        _require_weight(text)
    return (Path(found[1]), float(found[2])) if found and not Path(text).exists() else (Path(text), 1.0)


def _require_weight(text: str) -> None:
    """Raises BadParameter where something that is no number follows on the name of a file or folder and a colon."""
    for colon in re.finditer(":", text):
        if Path(text[: colon.start()]).exists():
            raise click.BadParameter(f"{text[: colon.start()]}: {text[colon.end() :]!r} is no weight such as 0.7")


def strong_path(text: str) -> tuple[Path, float] | tuple[Path, float, float]:
    """PATH, PATH:UNET or PATH:UNET:TE: numbers from the right, as `weighted_path` reads one."""
    path, last = weighted_path(text)
    inner, first = weighted_path(str(path))
    if str(inner) == str(path):
        return path, last
    whole, _ = weighted_path(str(inner))
    if not inner.exists() and whole.exists():
        raise click.BadParameter(f"{whole}: two strengths at most, for the UNet and for the text encoders")
    return inner, first, last


_SIZES = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}


def size(ctx: click.Context, option: click.Parameter, text: str | None) -> int | None:
    """`5GB` as bytes; units of a thousand, or with an i of 1,024, as huggingface_hub reads them."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]I?B)?", text.upper())
    if not found:
        raise click.BadParameter(f"{text!r} is no size such as 5GB")
    return int(float(found[1]) * _SIZES[found[2] or ""])
