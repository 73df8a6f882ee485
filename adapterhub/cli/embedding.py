"""adapterhub embedding merge|scale|trim|nearest"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adapterhub.cli.convert import describe
from adapterhub.cli.options import PATH, as_json, debug, weighted_path
from adapterhub.cli.recording import keep
from adapterhub.cli.terminal import columns, escape, number, write, write_json
from adapterhub.cli.writing import dtype, options

if TYPE_CHECKING:
    from adapterhub.documents import Conversion, Nearest, NearToken, NearVector

_RANGE = re.compile(r"(\d+)(?::(\d+))?")
_writing = options("The file to write.", click.option("--token", metavar="TEXT", help="The token of the result."))
"""The options of whatever writes an embedding."""


def _range(ctx: click.Context, option: click.Parameter, text: str) -> tuple[int, int]:
    """N, the first N vectors, or N:M, from the N-th to the M-th."""
    found = _RANGE.fullmatch(text)
    if not found:
        raise click.BadParameter(f"{text!r} is neither N nor N:M")
    return (int(found[1]), int(found[2])) if found[2] else (1, int(found[1]))


@click.group("embedding")
@debug
def command() -> None:
    pass


@command.command("merge")
@click.argument("weighted", metavar="EMBEDDING[:WEIGHT]...", nargs=-1, required=True)
@click.option("--method", type=click.Choice(["sum", "concat"]), default="sum", show_default=True,
              help="Add vectors, or put them one after another.")  # fmt: skip
@dtype
@_writing
def merge(weighted: tuple[str, ...], target: str, db: Path | None, as_json: bool, **options: Any) -> None:
    """Make one embedding of several: weighted sums of their vectors, or all of them in a row.

    A weight stands behind the last colon, and is 1 without. In a sum the first vectors are added, then the second ones, and so
    on; zeros stand for those that an embedding lacks.
    """
    from adapterhub import embeddings

    _show(embeddings.merge([*map(weighted_path, weighted)], target, **options), db, as_json)


@command.command("scale", context_settings={"ignore_unknown_options": True})  # FACTOR may be negative
@click.argument("source", metavar="SRC", type=PATH)
@click.argument("factor", required=False, type=float)
@click.option("--to-norm", metavar="N", type=float, help="Give every vector this length, instead of a factor.")
@dtype
@_writing
def scale(source: Path, target: str, db: Path | None, as_json: bool, **options: Any) -> None:
    """Multiply every vector by FACTOR, or give them a length."""
    from adapterhub import embeddings

    _show(embeddings.scale(source, target, **options), db, as_json)


@command.command("trim")
@click.argument("source", metavar="SRC", type=PATH)
@click.option("--vectors", metavar="N[:M]", callback=_range, required=True,
              help="The first N, or those from N to M, counted from 1.")  # fmt: skip
@_writing
def trim(source: Path, target: str, db: Path | None, as_json: bool, **options: Any) -> None:
    """Keep some vectors, bit for bit, and leave out the rest."""
    from adapterhub import embeddings

    _show(embeddings.trim(source, target, **options), db, as_json)


@command.command("nearest")
@click.argument("source", metavar="SRC", type=PATH)
@click.option("--base", metavar="DIR", type=PATH, help="A diffusers folder, with tokenizer and text encoder.")
@click.option("--tokenizer", metavar="DIR", type=PATH, help="The folder of vocab.json or tokenizer.json.")
@click.option(
    "--text-encoder", metavar="PATH", type=PATH, help="The folder or file of the text encoder, or of a model."
)
@click.option("--top", metavar="K", type=click.IntRange(min=1), default=10, show_default=True, help="How many tokens.")
@as_json
@debug
def nearest(source: Path, as_json: bool, **options: Any) -> None:
    """Say which tokens of a model each vector is like."""
    from adapterhub import embeddings

    found = embeddings.nearest(source, **options)
    write_json(found) if as_json else write("\n".join(shown(found)))


def _show(done: Conversion, db: Path | None, as_json: bool) -> None:
    told = columns((f"  {', '.join(entry.target)}:", entry.reason) for entry in done.entries if entry.reason)
    keep(done, db)
    write_json(done) if as_json else write("\n".join([*describe(done), *told]))


def shown(found: Nearest) -> list[str]:
    """A block for each vector: its length, that of tokens, and the nearest of these."""
    return [line for vector in found.vectors for line in _of_vector(vector)] + [
        f"{escape(table.place)}: {table.tokens} tokens, median length {number(table.median_length)}"
        for table in found.tables
    ]


def _of_vector(vector: NearVector) -> list[str]:
    rows = [("  cosine", "distance", "token")]
    rows += [(f"  {near.cosine:.4f}", number(near.distance), _name(near)) for near in vector.nearest]
    title = f"{escape(vector.token)} {vector.vector} ({vector.component}), length {number(vector.length)}"
    return [title, *(columns(rows) if vector.nearest else ["  zero or not finite: like no token"])]


def _name(token: NearToken) -> str:
    """A token that goes on within a word ends in an ellipsis."""
    if token.token is None:
        return f"token {token.id}, which the tokenizer does not name"
    return token.token if token.ends_word else f"{token.token}…"
