"""How the commands of the registry show records, and the options that they share."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from functools import wraps
from itertools import islice
from typing import Any, TypeVar

import click

from adapterhub.cli.options import PATH, size
from adapterhub.cli.terminal import columns, escape, in_bytes, note, write

F = TypeVar("F", bound=Callable[..., Any])

SHOWN = 100
"""Rows that people are shown if they do not say how many."""
FLAT = ("id", "path", "name", "kind", "architecture", "variant", "layout", "container", "rank", "size", "modified", "added",
        "missing", "refused", "fingerprint", "words", "tags")  # fmt: skip
"""The columns of --csv."""
_HEADS = ("id", "name", "kind", "for", "layout", "rank", "size", "words")
_KINDS = ["lora", "embedding", "hypernetwork", "checkpoint", "unknown"]

ref = click.argument("ref", metavar="REF")


def day(ctx: click.Context, option: click.Parameter, text: str | None) -> str | None:
    """`2026-01-31`, or `7d` for as many days ago."""
    if text is None:
        return None
    if text[:-1].isdecimal() and text.endswith("d") and len(text) < 7:
        return (datetime.now(UTC) - timedelta(days=int(text[:-1]))).strftime("%Y-%m-%dT%H:%M:%SZ")
    try:
        return datetime.fromisoformat(text).strftime("%Y-%m-%dT%H:%M:%SZ")
    except ValueError:
        raise click.BadParameter(f"{text!r} is no date such as 2026-01-31, and no time ago such as 7d") from None


_FILTERS = (
    click.option("--kind", type=click.Choice(_KINDS), help="What the file is for."),
    click.option("--architecture", metavar="NAME", help="The model family: sd1, sd2, sdxl …"),
    click.option("--variant", metavar="NAME", help="A flavour of the family: inpainting …"),
    click.option("--layout", metavar="NAME", help="Whose names it carries."),
    click.option("--container", metavar="NAME", help="How its bytes are stored."),
    click.option("--application", metavar="NAME", help="Whose folder it lies in."),
    click.option("--algorithm", metavar="NAME", help="lora, locon, loha …"),
    click.option("--rank", type=click.IntRange(min=0), metavar="R", help="A rank that some module has."),
    click.option("--token", metavar="TEXT", help="A token or trigger word."),
    click.option("--tag", metavar="TEXT", help="A tag."),
    click.option("--component", metavar="NAME", help="A part of the model that it changes: unet, text_encoder …"),
    click.option("--dtype", metavar="NAME", help="An element type that it holds: F16, BF16 …"),
    click.option("--problem", metavar="CODE", help="A problem that it has, or any."),
    click.option("--min-size", metavar="SIZE", callback=size, help="At least so large, as 10MB."),
    click.option("--max-size", metavar="SIZE", callback=size, help="At most so large."),
    click.option("--since", metavar="DATE", callback=day, help="Changed since then: 2026-01-31, or 7d ago."),
    click.option("--until", metavar="DATE", callback=day, help="Changed until then."),
    click.option("--under", metavar="FOLDER", type=PATH, help="That lies in this folder."),
    click.option("--for", "fits", metavar="MODEL", help="Adapters for this checkpoint, and which programs read them."),
    click.option("--missing/--with-missing", default=None, help="Those that are gone from the disk; or those as well."),
)


def filters(command: F) -> F:
    """The options of `registry.find.Filter`, given to the command as `wanted`."""
    for option in reversed(_FILTERS):
        command = option(command)
    return command


def wanted(given: dict[str, Any]) -> Any:
    """Takes the filter out of the arguments of a command."""
    from adapterhub.registry.find import Filter

    found = {field.name: given.pop(field.name) for field in fields(Filter)}
    found["missing"] = {None: False, True: True, False: None}[found["missing"]]
    return Filter(**found)


_FORMS = ("json", "nl", "csv")
_OUTPUTS = (
    click.option(
        "--limit",
        type=click.IntRange(min=0),
        metavar="N",
        help=f"So many at most, 0 for all; people are shown {SHOWN}.",
    ),
    click.option("--json", "json", is_flag=True, help="Print one JSON document."),
    click.option("--nl", "nl", is_flag=True, help="Print one JSON document a line."),
    click.option("--csv", "csv", is_flag=True, help="Print comma-separated values."),
)


def outputs(command: F) -> F:
    """How many rows, and in which `form`."""

    @wraps(command)
    def call(**given: Any) -> Any:
        asked = [name for name in _FORMS if given.pop(name)]
        if len(asked) > 1:
            raise click.UsageError(f"--{asked[0]} and --{asked[1]} are two forms: give one")
        return command(**given, form=next(iter(asked), None))

    for option in reversed(_OUTPUTS):
        call = option(call)
    return call  # type: ignore[return-value] # it takes the flags in place of the form


def shown_at_most(form: str | None, limit: int | None) -> int | None:
    """The limit of a question; one more than people are shown, to know whether there are more."""
    return SHOWN + 1 if form is None and limit is None else limit or None


def show(found: Iterator[str], form: str | None, limit: int | None) -> int:
    """The records, each as its JSON; 1 where there is none."""
    if form == "json":
        texts = list(found)
        write("[" + ",\n".join(texts) + "]")
        return 0 if texts else 1
    if form == "nl":
        return _lines(found)
    if form == "csv":
        return _csv(found)
    rows = [json.loads(text) for text in islice(found, SHOWN if limit is None else limit or None)]
    if rows:
        fitting = "readers" in rows[0]
        cells = [(*_row(row), _readers(row)) if fitting else _row(row) for row in rows]
        write("\n".join(columns([(*_HEADS, "read by") if fitting else _HEADS, *cells])))
    if limit is None and next(found, None) is not None:
        note("… and more: --limit N shows so many, --limit 0 all.")
    return 0 if rows else 1


def _lines(found: Iterable[str]) -> int:
    count = 0
    for count, text in enumerate(found, 1):  # noqa: B007
        write(text)
    return 0 if count else 1


def _csv(found: Iterable[str]) -> int:
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(FLAT)
    rows = [json.loads(text) for text in found]
    table.writerows([_cell(row.get(name)) for name in FLAT] for row in rows)
    write(out.getvalue().rstrip("\n"))
    return 0 if rows else 1


def _cell(value: Any) -> str:
    return escape(", ".join(value) if isinstance(value, list) else "" if value is None else value)


def _readers(row: dict[str, Any]) -> str:
    """What programs make of it: those that read all are the rule."""
    others = [f"{reader} ({status})" for reader, status in row["readers"].items() if status != "loads"]
    return "all" if not others else f"all but {', '.join(others)}"


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    name = row["name"] + (" (missing)" if row["missing"] else "")
    kind = f"refused: {row['refused']}" if row["refused"] else row["kind"]
    return (f"#{row['id']}", name, kind, " ".join(filter(None, (row["architecture"], row["variant"]))), row["layout"] or "",
            str(row["rank"] or ""), in_bytes(row["size"]), ", ".join(row["words"])[:60])  # fmt: skip
