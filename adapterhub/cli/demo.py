"""adapterhub demo: inspect, convert, ledger and proof of every fixture, and of real files where they are."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

import adapterhub
from adapterhub.cli import convert, diff, inspect
from adapterhub.cli.faults import report
from adapterhub.cli.options import debug
from adapterhub.cli.terminal import paint, write

if TYPE_CHECKING:
    from adapterhub.documents import Inspection

ROOT = Path(adapterhub.__file__).parents[1]
FIXTURES = "demo*.safetensors"
TARGETS = ("diffusers", "kohya", "comfyui")
"""In this order: the first that is another layout and has names for every algorithm in the file."""


@click.command("demo")
@debug
def command() -> int:
    real = Path(os.environ.get("ADAPTERHUB_REAL_FILES", ROOT.parent / "shared" / "real"))
    sources = sorted((ROOT / "fixtures").rglob(FIXTURES)) + sorted(real.glob("*.safetensors"))
    if not sources:
        raise click.UsageError(f"The demo works on the fixtures of a source checkout, and {ROOT} has none.")
    with tempfile.TemporaryDirectory(prefix="adapterhub-demo-") as folder:
        return max(_show(source, Path(folder, str(number))) for number, source in enumerate(sources))


def _show(source: Path, folder: Path) -> int:
    """Inspect one file, convert it if it is a LoRA, and compare the result with it."""
    found = adapterhub.inspect(source)
    write("\n".join([paint(source.name, "cyan"), *inspect.describe(found)]))
    try:
        status = _convert(source, folder, found) if found.kind == "lora" else 0
    except adapterhub.AdapterhubError as error:
        status = report(error, debug="debug" in click.get_current_context().obj)
    write("")
    return status


def _convert(source: Path, folder: Path, found: Inspection) -> int:
    folder.mkdir()
    target, layout = _target(found)
    done = adapterhub.convert(source, folder / target, to=layout)
    compared = adapterhub.diff(source, folder / target)
    write("\n".join([*convert.describe(done), *diff.describe(compared)]))
    return int(not compared.equal)


def _target(found: Inspection) -> tuple[str, str]:
    """The name of the file to write, and its layout."""
    known = {layout.name: layout for layout in adapterhub.layouts() if layout.kind == found.kind}
    algorithms = {label.partition("+")[0] for label in found.algorithms}
    fitting = [name for name in TARGETS if name != found.layout and algorithms <= set(known[name].holds)]
    layout = known[fitting[0] if fitting else TARGETS[-1]]
    return f"converted{layout.suffix}", layout.name
