"""adapterhub push PATH REPO_ID"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import adapterhub
from adapterhub.cli.options import PATH, as_json, db, debug, force
from adapterhub.cli.recording import is_kept, recording
from adapterhub.cli.terminal import columns, escape, in_bytes, number, problems, write, write_json

if TYPE_CHECKING:
    from adapterhub.documents import Push
    from adapterhub.documents.publication import PushedFile


@click.command("push")
@click.argument("path", metavar="PATH")
@click.argument("repo_id", metavar="REPO_ID")
@click.option("--private", is_flag=True, help="Make the repository a private one, if it is not there yet.")
@click.option("--revision", metavar="BRANCH", help="The branch to push to, which is made if need be.")
@click.option("--create-pr", is_flag=True, help="Open a pull request instead.")
@click.option("--message", metavar="TEXT", help="The title of the commit.")
@click.option("--also", metavar="LAYOUT", multiple=True, help="A second layout beside the Hub's, as kohya.")
@click.option(
    "--as", "as_algorithm", type=click.Choice(["lora"]), help="Rewrite other algorithms as LoRA, for diffusers."
)
@click.option("--rank", type=click.IntRange(min=1), help="With --as lora: the rank, if it may be approximate.")
@click.option("--base-model", metavar="ID", help="The model that it is for, by its id on the Hub.")
@click.option("--license", metavar="ID", help="The licence, as the Hub calls it: mit, openrail++ …")
@click.option("--instance-prompt", metavar="TEXT", help="The words that call it.")
@click.option("--image", "images", metavar="FILE", multiple=True, type=PATH, help="A picture for the card's gallery.")
@click.option("--token-env", metavar="NAME", help="The environment variable that holds the token; HF_TOKEN or hf's login, if it is not given.")  # fmt: skip
@click.option("--clean-private/--no-clean-private", default=True, help="Take local paths, secrets and the like out of what is sent.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Say what would be pushed, with the card, and push nothing.")
@force
@db
@as_json
@debug
def command(path: str, db: Path | None, token_env: str | None, as_json: bool, **options: Any) -> int:
    place = _path(path, db)
    done = adapterhub.push(place, token=_token(token_env), **options)
    _keep(place, done, db)
    write_json(done) if as_json else write("\n".join(describe(done)))
    return int(done.verified is False)


def _keep(place: Path, done: Push, db: Path | None) -> None:
    """Records where it is on the Hub, if there is a registry."""
    if done.commit is None or not is_kept(db):
        return
    from adapterhub.registry.transfers import keep_transfer

    with recording("pushed"):
        keep_transfer("pushed", [place], {"repository": done.repo_id, "revision": done.commit}, db=db)


def _path(given: str, db: Path | None) -> Path:
    """A path, or what the registry calls so."""
    path = Path(given)
    if path.exists() or not is_kept(db):
        return path
    return Path(adapterhub.show(given, db=db).path)


def _token(variable: str | None) -> str | None:
    if variable is None:
        return None
    token = os.environ.get(variable, "").strip()
    if not token:
        raise click.UsageError(f"--token-env: the environment has no {variable}")
    return token


def _digest(row: PushedFile) -> str:
    return f", sha256 {row.sha256[:16]}" if row.sha256 else ""


def describe(done: Push) -> list[str]:
    """Where it went, file by file; for a dry run the card, too."""
    rows = [("would push to" if done.dry_run else "pushed to", f"{done.repo_id} ({done.revision})")]
    rows += [("page", done.url)] if done.url else []
    rows += [("proof", f"{one.layout}: {one.exactness}, max error {number(one.max_error)}") for one in done.fidelity]
    rows += [("removed", f"{one.field}: {one.what} ({one.count})") for one in done.cleaned]
    rows += [(row.action or "file", f"{row.name}, {in_bytes(row.size)}{_digest(row)}") for row in done.files]
    rows += [("read back", "every header as it was sent")] if done.verified else []
    card = ["", *(escape(line) for line in done.card.splitlines())] if done.dry_run else []
    return columns(rows) + problems(done.problems) + card
