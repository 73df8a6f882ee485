"""adapterhub lineage REF"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

import adapterhub
from adapterhub.cli.options import as_json, db, debug
from adapterhub.cli.rows import ref
from adapterhub.cli.terminal import escape, write, write_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from adapterhub.documents import Lineage, Step


@click.command("lineage")
@ref
@click.option("--dot", is_flag=True, help="Print a graph for Graphviz.")
@db
@as_json
@debug
def command(ref: str, dot: bool, db: Path | None, as_json: bool) -> None:
    found = adapterhub.lineage(ref, db=db)
    if as_json:
        write_json(found)
    else:
        write("\n".join(graph(found) if dot else trees(found)))


def trees(found: Lineage) -> list[str]:
    """What it came from, and what came from it, as two trees."""
    above = _branches(found, found.of, lambda step: (step.child, step.parent))
    below = _branches(found, found.of, lambda step: (step.parent, step.child))
    return [
        _title(found, found.of),
        *(["made of", *above] if above else ["made of: nothing is recorded"]),
        *(["made into", *below] if below else []),
    ]


def _branches(
    found: Lineage, key: str, ends: Callable[[Step], tuple[str, str]], met: frozenset[str] = frozenset(), indent: str = ""
) -> list[str]:  # fmt: skip
    steps = [step for step in found.steps if ends(step)[0] == key]
    lines = []
    for place, step in enumerate(steps, 1):
        other = ends(step)[1]
        last = place == len(steps)
        lines.append(f"{indent}{'└── ' if last else '├── '}{_title(found, other)}  [{escape(step.command)}{_by(step)}]")
        if other not in met:
            lines += _branches(found, other, ends, met | {key}, indent + ("    " if last else "│   "))
    return lines


def _by(step: Step) -> str:
    return {"sha256": "", "fingerprint": ", the same adapter in another file", "name": ", not in the registry"}[step.by]


def _title(found: Lineage, key: str) -> str:
    node = next(node for node in found.nodes if node.key == key)
    number = "" if node.record is None else f"#{node.record} "
    where = f" ({escape(node.path)})" if node.path else f" (sha256 {node.sha256[:12]}…)" if node.sha256 else ""
    return f"{number}{escape(node.name)}{where}{' missing' if node.missing else ''}"


def graph(found: Lineage) -> list[str]:
    """In Graphviz' language; texts are quoted, so that nothing in a name is part of it."""
    lines = ["digraph lineage {", "  rankdir=LR;", "  node [shape=box];"]
    lines += [f"  {_quoted(node.key)} [label={_quoted(node.name)}];" for node in found.nodes]
    lines += [
        f"  {_quoted(step.parent)} -> {_quoted(step.child)} [label={_quoted(step.command)}];" for step in found.steps
    ]
    return [*lines, "}"]


def _quoted(text: str) -> str:
    return '"' + escape(text).replace("\\", "\\\\").replace('"', '\\"') + '"'
