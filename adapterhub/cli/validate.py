"""adapterhub validate PATH..."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

import adapterhub
from adapterhub.cli.options import as_json, base, debug, paths, variant
from adapterhub.cli.paths import each
from adapterhub.cli.terminal import counts, escape, paint, problems

if TYPE_CHECKING:
    from adapterhub.documents import Validation


@click.command("validate")
@paths
@as_json
@base
@variant
@click.option("--strict", is_flag=True, help="Exit with 1 for warnings too.")
@debug
def command(paths: tuple[Path | str, ...], as_json: bool, base: Path | None, variant: str | None, strict: bool) -> int:
    def status(found: Validation) -> int:
        return int(not found.valid or (strict and bool(found.problems)))

    return each(
        paths,
        lambda path: adapterhub.validate(path, base=base, variant=variant),
        describe,
        as_json=as_json,
        status=status,
    )


def describe(found: Validation) -> list[str]:
    """The verdict, of a model that has a base how they compare, then every problem and how to mend it."""
    verdict = paint("valid", "green") if found.valid else paint("not valid", "red")
    what = " ".join(filter(None, (found.architecture, found.layout, found.kind)))
    severities = Counter[str](problem.severity for problem in found.problems)
    return [
        f"{escape(found.path)}: {verdict} ({', '.join(filter(None, (what, counts(severities))))})",
        *(f"  {escape(sentence)}" for sentence in (found.descent.summary if found.descent else ())),
        *problems(found.problems),
    ]
