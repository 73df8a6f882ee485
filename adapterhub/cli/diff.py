"""adapterhub diff A B"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import adapterhub
from adapterhub.cli.options import PATH, as_json, base, debug, variant
from adapterhub.cli.terminal import columns, counts, escape, number, paint, write, write_json

if TYPE_CHECKING:
    from adapterhub.documents import ComponentDifference, Difference

SHOWN = 20
"""How many of the modules that differ, or that one side lacks, are shown to people; --json has them all."""


@click.command("diff")
@click.argument("a", metavar="A", type=PATH)
@click.argument("b", metavar="B", type=PATH)
@as_json
@base
@variant
@click.option("--tolerance", type=click.FloatRange(min=0.0), default=0.0, help="The relative error to let pass.")
@debug
def command(a: Path, b: Path, as_json: bool, **options: Any) -> int:
    found = adapterhub.diff(a, b, **options)
    write_json(found) if as_json else write("\n".join(describe(found)))
    return int(not found.equal)


def describe(found: Difference) -> list[str]:
    """The verdict, what it means and where of whole models, what only one side has, and the worst modules that differ."""
    verdict = paint("the same", "green") if found.equal else paint("different", "red")
    worst = [("module", "max", "relative")]
    worst += [
        (f"{one.component}.{one.module}", number(one.max_abs), number(one.relative))
        for one in found.differences[:SHOWN]
    ]
    return [
        f"{verdict}: {found.modules} modules compared, max error {number(found.max_error)}",
        *(f"  {escape(sentence)}" for sentence in found.summary),
        *_beside(found),
        *_blocks(found.components),
        *_alone(found.a, found.only_in_a),
        *_alone(found.b, found.only_in_b),
        *(columns(worst) if found.differences else ()),
        *_more(len(found.differences)),
    ]


def _beside(found: Difference) -> Iterator[str]:
    """What makes a difference by name, the rest by class."""
    alone = ("only", "not compared,")
    places = {"only_in_a": (*alone, found.a), "only_in_b": (*alone, found.b),
              "changed": ("other bits", "not counted: other bits", "both")}  # fmt: skip
    for fate, (differs, rest, path) in places.items():
        there = [one for one in found.beside if one.fate == fate]
        where = f"beside the weights of {escape(path)}"
        if names := [escape(one.name) for one in there if one.counts]:
            yield f"  {differs} {where}: {', '.join([*names[:SHOWN], *_more(len(names))])}"
        if others := Counter(one.extra for one in there if not one.counts):
            yield f"  {rest} {where}: {counts(others)}"


def _blocks(components: list[ComponentDifference]) -> list[str]:
    """A row for each block in which anything differs."""
    rows = [
        (part.name, block.name, block.tensors, block.identical, block.recast, block.changed, number(block.relative),
         number(block.largest))
        for part in components for block in part.blocks if block.identical < block.tensors
    ]  # fmt: skip
    head = ("component", "block", "tensors", "identical", "recast", "changed", "relative", "largest")
    return columns([head, *rows]) if rows else []


def _alone(path: str, modules: list[str]) -> list[str]:
    return [f"only in {escape(path)}: {escape(module)}" for module in modules[:SHOWN]] + _more(len(modules))


def _more(count: int) -> list[str]:
    return [f"... and {count - SHOWN} more"] if count > SHOWN else []
