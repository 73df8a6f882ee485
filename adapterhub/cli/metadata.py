"""adapterhub metadata SRC"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import adapterhub
from adapterhub.cli.options import PATH, as_json, db, debug, force
from adapterhub.cli.recording import keep_edit
from adapterhub.cli.terminal import columns, escape, in_bytes, paint, problems, write, write_json

if TYPE_CHECKING:
    from adapterhub.documents import HeaderMetadata

_LONGEST = 200
"""Characters of a field that people are shown; --json has them all."""


def _pairs(ctx: click.Context, option: click.Parameter, given: tuple[str, ...]) -> dict[str, str | Path]:
    """K=V, K=@FILE, and K=@@V for a text that begins with an @."""
    found: dict[str, str | Path] = {}
    for pair in given:
        field, equals, text = pair.partition("=")
        if not equals or not field:
            raise click.BadParameter(f"{pair!r} is no NAME=TEXT")
        if field in found:
            raise click.BadParameter(f"{field!r} is set twice")
        found[field] = Path(text[1:]) if text.startswith("@") and not text.startswith("@@") else text.removeprefix("@")
    return found


@click.command("metadata")
@click.argument("source", metavar="SRC", type=PATH)
@click.option("--set", "set", metavar="NAME=TEXT", multiple=True, callback=_pairs, help="Give a field a text; NAME=@FILE takes it from a file.")  # fmt: skip
@click.option("--unset", metavar="NAME", multiple=True, help="Take a field away.")
@click.option(
    "--clean-private", is_flag=True, help="Shorten or remove local paths, secrets, e-mail addresses, names of machines."
)
@click.option("--thumbnail", metavar="PICTURE", type=PATH, help="Put a small copy of a picture into the header.")
@click.option("--thumbnail-to", metavar="FILE", type=PATH, help="Write the header's picture to a file.")
@click.option("--lint", is_flag=True, help="Check the fields by ModelSpec's rules; status 1 where one is broken.")
@click.option("--hash", "hash", is_flag=True, help="With --lint: read the data and check its hashes.")
@click.option("--dry-run", is_flag=True, help="Say what would be done and write nothing.")
@force
@db
@as_json
@debug
def command(source: Path, db: Path | None, as_json: bool, **options: Any) -> int:
    if options["hash"] and not options["lint"]:
        raise click.UsageError("--hash goes with --lint")
    done = adapterhub.metadata(source, **options)
    keep_edit(done, db)
    write_json(done) if as_json else write("\n".join(describe(done)))
    return int(done.valid is False)


def describe(done: HeaderMetadata) -> list[str]:
    """The fields where nothing was asked; otherwise what was done, and what is wrong."""
    lines = []
    if done.written or done.cleaning or done.changes:
        lines += _edited(done)
    elif done.valid is None and done.extracted is None:
        lines += columns((field, _short(text)) for field, text in done.fields.items())
        lines.append(f"{len(done.fields)} fields, a header of {done.header} bytes, {done.spare} of them to spare")
    if done.extracted is not None:
        lines.append(f"thumbnail: {escape(done.extracted)}")
    if done.valid is not None:
        lines.append(f"{escape(done.path)}: {paint('valid', 'green') if done.valid else paint('not valid', 'red')}")
    return lines + problems(done.problems)


def _edited(done: HeaderMetadata) -> list[str]:
    how = {"in-place": "the header alone", "rewritten": f"{in_bytes(done.size)}, the header had no room"}
    verb = "would write" if done.dry_run else "wrote"
    lines = [f"{verb} {how[done.written]}: {escape(done.path)}" if done.written else "nothing to change"]
    lines += columns((f"  {one.action}", one.field, one.reason) for one in done.changes) if done.changes else []
    for one in done.cleaning.findings if done.cleaning else ():
        became = "removed" if one.removed else f"now {_short(one.now or '')}"
        lines.append(escape(f"  private: {one.field}: {one.what} × {one.count}, {became}"))
    return lines


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
