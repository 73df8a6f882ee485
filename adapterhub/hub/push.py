"""`push`: a file or folder becomes a repository of the Hub, with a card that says what it is.

One straight line: validate → stage (convert, clean) → look at the repository → write the card → commit → read back.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from adapterhub.adapter import Kind
from adapterhub.documents import Inspection, Problem
from adapterhub.documents.publication import Push, PushedFile
from adapterhub.errors import AdapterhubError, BrokenAdapter, MachineFailure, UsageError
from adapterhub.hub import card, card_body, card_fields, pictures, publishing, run_folder
from adapterhub.hub.card_facts import Facts, Options, base_of, gathered, is_hub_id, lacking, license_of
from adapterhub.hub.publishing import CARD, Place, There
from adapterhub.hub.staging import Staged, Wanted, staged
from adapterhub.operations.header.cleaning import cleaned
from adapterhub.operations.inspect import inspect
from adapterhub.operations.problems import warning
from adapterhub.operations.validate import validate

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_LONGEST = 200
"""Characters of the title of a commit."""
_CLEANED = "private-path"
"""The problem that cleaning mends."""


@dataclass(frozen=True)
class _Ready:
    """Everything that is to be sent."""

    found: Inspection
    made: Staged
    facts: Facts
    problems: list[Problem]


def push(
    path: Path | str,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    message: str | None = None,
    also: Sequence[str] = (),
    as_algorithm: str | None = None,
    rank: int | None = None,
    base_model: str | None = None,
    license: str | None = None,  # noqa: A002 (--license)
    instance_prompt: str | None = None,
    images: Sequence[Path | str] = (),
    token: str | None = None,
    clean_private: bool = True,
    dry_run: bool = False,
    force: bool = False,
) -> Push:
    """Puts the adapter or model at `path` (or of the training whose folder that is, with its samples) into the model repository `repo_id` ("alice/fox-lora"), in one commit.

    It is validated, and written in the layout that the Hub's readers look for, with those in `also` beside it; LoRAs first
    `as_algorithm` "lora", of `rank`, where diffusers cannot hold them. `revision` is a branch, made if need be; `create_pr`
    opens a pull request instead. `base_model` (a Hub id), `license`, `instance_prompt` and `images` are for the card; what a
    person wrote in a card that is there stays. `clean_private` takes local paths, secrets and the like out of what is sent.
    Without `token` the client finds its own. Files that are other ones in the repository are replaced only with `force`.

    With `dry_run` nothing is sent; the repository is looked at if it can be reached. Raises UsageError for a bad id, NotFound
    for a missing branch to propose to, NoAccess, Unreachable, and BrokenAdapter where validation finds an error.
    """
    started = time.perf_counter()
    options = Options(base_model, license, instance_prompt)
    _check(repo_id, options)
    place = Place(repo_id, revision or "main", create_pr, private, _title(message, repo_id))
    wanted = Wanted(also, as_algorithm, rank, base_model, clean_private)
    source, shown = run_folder.resolved(Path(path), images)
    with tempfile.TemporaryDirectory(prefix="adapterhub-push-") as name:
        ready = _prepared(source, Path(name), repo_id, options, wanted, shown)
        done = _pushed(path, place, ready, options, publishing.client(token), Path(name), dry_run=dry_run, force=force)
    return done.model_copy(update={"dry_run": dry_run, "seconds": round(time.perf_counter() - started, 3)})


def _pushed(
    path: Path | str,
    place: Place,
    ready: _Ready,
    options: Options,
    api: HfApi,
    folder: Path,
    *,
    dry_run: bool,
    force: bool,
) -> Push:
    """What was made, sent with its card; with `dry_run` only told."""
    there, unseen = _looked(api, place, dry_run=dry_run)
    ready = _licensed(ready, options, api) if there is not None else ready
    text = _card(ready, there, folder)
    rows = publishing.listed(ready.made.files, there)
    told = replace(ready, problems=[*ready.problems, *unseen])
    done = _document(path, place, told, rows, text, there)
    return done if dry_run or there is None else _sent(api, place, there, ready, rows, done, force=force)


def _check(repo_id: str, options: Options) -> None:
    publishing.check_id(repo_id)
    if options.base_model is not None and not is_hub_id(options.base_model):
        raise UsageError(
            f"{options.base_model!a} is no Hub id of a model: USER/NAME", mend="Give the id that its page has."
        )


def _title(message: str | None, repo_id: str) -> str:
    given = " ".join((message or "").split())[:_LONGEST]
    return given or f"Push {repo_id.rpartition('/')[2]} with adapterhub"


def _prepared(
    path: Path, folder: Path, repo: str, options: Options, wanted: Wanted, images: Sequence[Path | str]
) -> _Ready:
    checked = validate(path)
    if not checked.valid:
        places = [f"{one.where}: {one.message}" for one in checked.problems if one.severity == "error"]
        raise BrokenAdapter(
            f"{path} is not sound, and is not pushed", places, mend="adapterhub validate says how to mend it."
        )
    source = inspect(path)
    (folder / "files").mkdir()
    made = staged(path, source, folder / "files", wanted)
    main = _main(made, folder / "files")
    found = inspect(main, hash=source.kind is not Kind.CHECKPOINT) if main else source
    (folder / "pictures").mkdir()
    shown = pictures.staged(images, folder / "pictures")
    made.files.update({name: folder / "pictures" / name for name, _ in shown})
    said, _ = cleaned({**found.metadata, **source.metadata})
    facts = gathered(repo, found, said, [*made.files], made.fidelity, options, shown)
    return _Ready(found, made, facts, [*_left(checked.problems, wanted), *lacking(facts)])


def _left(problems: Sequence[Problem], wanted: Wanted) -> list[Problem]:
    """What is odd about the source and stays so; no message repeats what is private."""
    kept = [one for one in problems if not (wanted.clean_private and one.code == _CLEANED)]
    return [one.model_copy(update={"message": cleaned({"": one.message})[0].get("", "")}) for one in kept]


def _main(made: Staged, folder: Path) -> Path | None:
    """What the card describes: the first file, or the folder where that is what is pushed."""
    weights = [path for name, path in made.files.items() if name.endswith((".safetensors", ".pt"))]
    alone = len(weights) == 1 or not any(
        path.name.endswith("_2.safetensors") or path.parent != folder for path in weights
    )
    if (folder / "adapter_config.json").exists() or not alone:
        return folder
    known = folder / "pytorch_lora_weights.safetensors"
    return known if known.exists() else next(iter(weights), None)


def _looked(api: HfApi, place: Place, *, dry_run: bool) -> tuple[There | None, list[Problem]]:
    """What is there; for a dry run it need not be reached."""
    try:
        return publishing.look(api, place), []
    except MachineFailure as error:
        if not dry_run:
            raise
        return None, [
            warning("not-asked", place.repo, f"the repository was not looked at: {error.message}", error.mend)
        ]


def _licensed(ready: _Ready, options: Options, api: HfApi) -> _Ready:
    """With the licence of the base, where no other is known."""
    facts = ready.facts
    base = base_of(facts.metadata, options)
    if facts.license or base is None or license_of(facts.metadata, options):
        return ready
    told = publishing.licence_of(api, base)
    found = replace(facts, license=told)
    problems = [one for one in ready.problems if one.code != "no-license"] if told else ready.problems
    return replace(ready, facts=found, problems=problems)


def _card(ready: _Ready, there: There | None, folder: Path) -> str:
    """Writes the card, and puts it among the files, the first of them."""
    part = card.Part(card_fields.fields(ready.facts), card_fields.settled(ready.facts), card_body.body(ready.facts))
    text = card.written(part, there.card if there else None)
    (folder / CARD).write_bytes(text.encode("utf-8"))
    weights = dict(ready.made.files)
    ready.made.files.clear()
    ready.made.files.update({CARD: folder / CARD, **weights})
    return text


def _document(
    path: Path | str, place: Place, ready: _Ready, rows: list[PushedFile], text: str, there: There | None
) -> Push:
    return Push(path=str(path), repo_id=place.repo, revision=place.revision, kind=ready.found.kind,
                architecture=ready.found.architecture, files=rows, card=text, fidelity=ready.made.fidelity,
                cleaned=ready.made.removed, problems=ready.problems, remote=there.remote if there else None, seconds=0.0)  # fmt: skip


def _sent(
    api: HfApi, place: Place, there: There, ready: _Ready, rows: list[PushedFile], done: Push, *, force: bool
) -> Push:
    """The commit, and what came of it. Once it is made, nothing that fails afterwards undoes it: that is told as a problem."""
    if not force:
        publishing.allow(place, there, rows)
    oid, url = publishing.commit(api, place, there, ready.made.files)
    problems = list(done.problems)
    verified: bool | None = None
    try:
        wrong = publishing.read_back(api, place, oid, ready.made.files)
        verified = not wrong
        problems += [
            warning("not-as-sent", name, "its header on the Hub is not the one that was sent") for name in wrong
        ]
    except AdapterhubError as error:
        problems.append(warning("not-read-back", place.repo, f"pushed, but not read back: {error.message}", error.mend))
    return done.model_copy(update={"commit": oid, "url": url, "verified": verified, "problems": problems})
