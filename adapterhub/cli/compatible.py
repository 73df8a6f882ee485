"""adapterhub compatible ADAPTER [CKPT]"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import adapterhub
from adapterhub.cli.options import PATH, as_json, debug, variant
from adapterhub.cli.terminal import columns, escape, paint, problems, write, write_json

if TYPE_CHECKING:
    from adapterhub.documents import Compatibility, ModelFit, Verdict

SHOWN = 5
"""How many modules that do not fit are shown to people; --json has them all."""


@click.command("compatible")
@click.argument("adapter", metavar="ADAPTER", type=PATH)
@click.argument("checkpoint", metavar="[CKPT]", type=PATH, required=False)
@click.option("--architecture", metavar="NAME", help="Say what it is for, where its keys leave that open.")
@variant
@as_json
@debug
def command(adapter: Path, checkpoint: Path | None, as_json: bool, **options: Any) -> int:
    found = adapterhub.compatible(adapter, checkpoint, **options)
    write_json(found) if as_json else write("\n".join(describe(found)))
    return int(not found.fits)


def describe(found: Compatibility) -> list[str]:
    """Whether it fits, one line a reader, and how to mend what is wrong for it."""
    what = " ".join(filter(None, (found.architecture, found.layout, found.kind)))
    return [
        f"{escape(found.path)}: {escape(what)}",
        *(_model(found.model) if found.model else ()),
        *columns([("reader", "status", "modules", "why"), *map(_row, found.readers)]),
        *_mends(found),
        *problems(found.problems),
    ]


def _model(fit: ModelFit) -> list[str]:
    fits = fit.same_architecture and 0 < fit.present == fit.modules
    verdict = paint("fits", "green") if fits else paint("does not fit", "red")
    kind = " ".join((fit.architecture, *fit.variants))
    lines = [f"{verdict} {escape(fit.path)} ({escape(kind)}): {fit.present} of {fit.modules} modules"]
    if not fit.same_architecture:
        lines.append("  it is for another architecture")
    away = [f"  absent {name}" for name in fit.absent]
    away += [f"  {one.module}: {one.reason}" for one in fit.misfits]
    lines += [escape(line) for line in away[:SHOWN]]
    if len(away) > SHOWN:
        lines.append(f"  ... and {len(away) - SHOWN} more")
    return [*lines, *problems(fit.problems)]


def _row(verdict: Verdict) -> tuple[str, str, str, str]:
    return verdict.title, verdict.status, f"{verdict.applied}/{verdict.modules}", _why(verdict)


def _why(verdict: Verdict) -> str:
    """The worst reason, and how many there are besides."""
    if not verdict.reasons:
        return ""
    worst, *others = verdict.reasons
    some = worst.modules < verdict.modules and worst.examples
    of = f" ({worst.modules}, as {worst.examples[0]})" if some else ""
    return f"{worst.message}{of}" + (f"; {len(others)} more" if others else "")


def _mends(found: Compatibility) -> list[str]:
    """The commands that mend, each with the readers that it is for."""
    return [f"for {escape(verdict.title)}: {escape(verdict.mend)}" for verdict in found.readers if verdict.mend]
