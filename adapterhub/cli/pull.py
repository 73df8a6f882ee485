"""adapterhub pull SOURCE"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import adapterhub
from adapterhub.cli.options import OUTPUT, as_json, base, db, debug, force, size
from adapterhub.cli.recording import is_kept, recording
from adapterhub.cli.terminal import columns, escape, in_bytes, note, problems, write, write_json

if TYPE_CHECKING:
    from adapterhub.documents import Pulled


@click.command("pull")
@click.argument("source", metavar="REPO_ID|ADDRESS")
@click.option(
    "-o", "--output", metavar="DIR", type=OUTPUT, help="The folder to put it into: that of the repository's name; here."
)
@click.option(
    "--file", metavar="NAME", help="Which file of the repository, if not the one that is called as adapters are."
)
@click.option("--revision", metavar="NAME", help="A branch, tag or commit.")
@click.option(
    "--link/--copy",
    default=False,
    help="Link the file in the Hub's cache where links can be made, or copy it (the default).",
)
@base
@click.option("--sha256", metavar="DIGITS", help="Refuse any other file.")
@click.option("--allow-http", is_flag=True, help="Ask addresses that are not encrypted, too.")
@click.option("--max-size", metavar="SIZE", callback=size, help="Refuse what is larger, as 2GB.")
@click.option("--dry-run", is_flag=True, help="Say what it is and where it would go; download nothing.")
@force
@db
@as_json
@debug
def command(source: str, db: Path | None, as_json: bool, **given: Any) -> None:
    from adapterhub.registry.transfers import having

    def known(sha256: str) -> Sequence[str]:
        return having(sha256, db=db)

    def announce(found: Pulled) -> None:
        if not as_json:
            note("\n".join(describe(found)))

    done = adapterhub.pull(source, known=known, announce=announce, **given)
    if not done.dry_run:
        _keep(done, db)
    if as_json:
        write_json(done)
    else:
        write("\n".join(describe(done) if done.dry_run else [escape(row.path or "") for row in done.files]))


def _keep(done: Pulled, db: Path | None) -> None:
    """Takes it into the registry, if there is one, with where it came from."""
    if not is_kept(db):
        return
    from adapterhub.registry.transfers import keep_transfer

    told = {"repository": done.repo, "revision": done.revision or ""} if done.repo else {"source": done.source}
    with recording("pulled"):
        keep_transfer("pulled", [row.path for row in done.files if row.path], told, db=db)


def describe(found: Pulled) -> list[str]:
    """What it is, whether it fits, and a line for each file."""
    seen, fit = found.inspection, found.fit
    rows = [("source", found.source), ("revision", found.revision or "")]
    if seen is not None:
        rows += [
            ("kind", seen.kind),
            ("layout", seen.layout or "none that is known"),
            ("architecture", seen.architecture or "unknown"),
        ]
    if fit is not None and fit.model is not None:
        rows.append(("fits", f"{fit.model.present} of {fit.model.modules} modules of {fit.model.path}"))
    rows.append(("fits", f"not compared: {found.unfitted}" if found.unfitted else ""))
    rows.append(("header", f"not read: {found.unread}" if found.unread else ""))
    each = [(row.path or "", "size not told" if row.size is None else in_bytes(row.size), f"as {row.known[0]}" if row.known else "")
            for row in found.files]  # fmt: skip
    return [*columns([row for row in rows if row[1]]), *columns(each), *problems(seen.problems if seen else ())]
