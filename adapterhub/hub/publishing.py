"""The repository before, the commit, and what is there afterwards: all through the Hub's own client.

One `create_commit` holds everything, built on the commit that was looked at: it is there whole, or not at all. What the
repository has is not sent again (the client compares digests). Source: huggingface_hub `hf_api.py`, `_commit_api.py`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterhub.documents.publication import PushedFile, Remote
from adapterhub.errors import AdapterhubError, MachineFailure, NotFound, RefusedInput, UsageError
from adapterhub.files import sha256
from adapterhub.hub.addresses import endpoint
from adapterhub.hub.card import LONGEST
from adapterhub.hub.errors import explained
from adapterhub.hub.repository import RemoteFile, files_of
from adapterhub.hub.transport import patient

if TYPE_CHECKING:
    from collections.abc import Iterator

    from huggingface_hub import HfApi

TIMEOUT = 30.0
CARD = "README.md"
_MAIN = "main"
_WEIGHTS = re.compile(r"(?P<stem>.+?)((-\d{5}-of-\d{5})?\.safetensors|\.safetensors\.index\.json)")
"""A file of weights, a shard of such, and the index of all shards, whose names begin alike. Source: huggingface_hub
`serialization/_base.py`.
"""


@dataclass(frozen=True)
class There:
    """What the repository holds: its files, the digest of each, the git blob's of those that are not in LFS."""

    remote: Remote
    files: Mapping[str, RemoteFile] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    card: str | None = None
    branch: bool = False
    """Whether the branch is there."""


@dataclass(frozen=True)
class Place:
    """Where it goes."""

    repo: str
    revision: str = _MAIN
    create_pr: bool = False
    private: bool = False
    message: str = ""

    def __str__(self) -> str:
        return f"hf://{self.repo}" + (f"@{self.revision}" if self.revision != _MAIN else "")


def client(token: str | None) -> HfApi:
    """The Hub's client, which finds the token by itself if none is given."""
    from huggingface_hub import HfApi

    return HfApi(endpoint=endpoint(), token=token, library_name="adapterhub", library_version=version("adapterhub"))


def check_id(repo: str) -> None:
    """UsageError where this is no USER/NAME."""
    from huggingface_hub.utils._validators import validate_repo_id

    with explained(f"{repo[:200]!a}"):
        validate_repo_id(repo)
    if "/" not in repo:
        raise UsageError(f"{repo} is no id of a repository: USER/NAME", mend="Say whose it is, as alice/fox-lora.")


def look(api: HfApi, place: Place) -> There:
    """What is there now. A repository that is not there is no error, nor is a branch: both are made."""
    try:
        return _seen(api, place, place.revision)
    except NotFound as missing:
        if place.revision == _MAIN or not _exists(api, place):
            return There(Remote(exists=False))
        if place.create_pr:
            raise missing
        found = _seen(api, place, _MAIN)
        return replace(found, branch=False)


def _exists(api: HfApi, place: Place) -> bool:
    try:
        _info(api, place, _MAIN)
    except NotFound:
        return False
    return True


def _info(api: HfApi, place: Place, revision: str) -> Any:
    with explained(str(place)):
        return api.model_info(place.repo, revision=revision, files_metadata=True, timeout=TIMEOUT)


def _seen(api: HfApi, place: Place, revision: str) -> There:
    found = _info(api, place, revision)
    siblings = found.siblings or []
    files = files_of(found)
    digests = {one.rfilename: (one.lfs.sha256 if one.lfs else one.blob_id) or "" for one in siblings}
    remote = Remote(exists=True, private=found.private, commit=found.sha, files=len(siblings))
    card = _card(api, place, found.sha, files[CARD].size if CARD in files else None)
    return There(remote, files, digests, card, branch=True)


def _card(api: HfApi, place: Place, commit: str, size: int | None) -> str | None:
    """The card that is there."""
    if size is None:
        return None
    _require_short(place, size)
    with explained(f"README.md of {place}"):
        path = Path(api.hf_hub_download(place.repo, CARD, revision=commit))
    _require_short(place, path.stat().st_size)
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        raise UsageError(
            f"{place}: README.md is no UTF-8 and cannot be kept", mend="Mend it on the Hub, or delete it there."
        ) from None


def _require_short(place: Place, size: int) -> None:
    if size > LONGEST:
        raise RefusedInput(f"{place}: README.md has {size} bytes, more than a card can have")


def licence_of(api: HfApi, base: str) -> dict[str, str]:
    """What the base's card says of its licence; nothing where it cannot be asked."""
    with suppress(AdapterhubError), explained(base):
        card = api.model_info(base, timeout=TIMEOUT).card_data
        told = {name: getattr(card, name, None) for name in ("license", "license_name", "license_link")}
        return {name: text for name, text in told.items() if isinstance(text, str) and text}
    return {}


def listed(files: Mapping[str, Path], there: There | None) -> list[PushedFile]:
    """Each file, and what becomes of it; and what is deleted because it would be read in place of one."""
    rows = [PushedFile(name=one.name, size=one.size, sha256=one.sha256, action="delete") for one in stale(files, there)]
    for name, path in files.items():
        digest = sha256(path)
        rows.append(
            PushedFile(name=name, size=path.stat().st_size, sha256=digest, action=_action(name, path, digest, there))
        )
    return rows


def stale(files: Iterable[str], there: There | None) -> list[RemoteFile]:
    """What readers would take instead of one of `files`: the shards and the index of a model that comes in one file, and the single
    file, or shards of another count, of one that comes in shards. Nothing else is ever deleted.
    """
    sent = set(files)
    stems = {found["stem"] for name in sent if (found := _WEIGHTS.fullmatch(name))}
    every = there.files.values() if there else ()
    return [
        one for one in every
        if one.name not in sent and (found := _WEIGHTS.fullmatch(one.name)) and found["stem"] in stems
    ]  # fmt: skip


def _action(name: str, path: Path, digest: str, there: There | None) -> Any:
    if there is None:
        return None
    if name not in there.digests:
        return "add"
    known = there.digests[name]
    return "same" if known == digest or (there.files[name].sha256 is None and known == _git(path)) else "replace"


def _git(path: Path) -> str:
    """The id of the file as git has it: of those that the Hub does not keep in LFS."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        for piece in iter(lambda: file.read(1 << 20), b""):
            digest.update(piece)
    return digest.hexdigest()


def allow(place: Place, there: There, rows: Iterable[PushedFile]) -> None:
    """Raises what speaks against it, before anything is sent."""
    if place.private and there.remote.private is False:
        raise UsageError(f"{place} is there and public", mend="Make it private on its page, or leave out --private.")
    replaced = [row.name for row in rows if row.action in ("replace", "delete") and row.name != CARD]
    if replaced and not place.create_pr:
        raise UsageError(
            f"{place} has other files called {', '.join(replaced[:8])}",
            mend="--force replaces them (its history keeps the old ones), --create-pr proposes to.",
        )


def commit(api: HfApi, place: Place, there: There, files: Mapping[str, Path]) -> tuple[str, str]:
    """Makes the repository and the branch if they are not there, and commits: the id of the commit, and its page or that of
    the pull request.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    with _sent(place):
        if not there.remote.exists:
            api.create_repo(place.repo, private=place.private or None, exist_ok=True)
        if not there.branch and place.revision != _MAIN:
            api.create_branch(place.repo, branch=place.revision, exist_ok=True)
    operations: list[Any] = [
        *(CommitOperationAdd(path_in_repo=name, path_or_fileobj=path) for name, path in files.items()),
        *(CommitOperationDelete(path_in_repo=one.name) for one in stale(files, there)),
    ]
    try:
        with _sent(place):
            done = api.create_commit(
                place.repo, operations, commit_message=place.message, revision=place.revision,
                create_pr=place.create_pr or None, parent_commit=there.remote.commit,
            )  # fmt: skip
    except MachineFailure:
        landed = None if place.create_pr else _landed(api, place, files)
        if landed is None:
            raise
        return landed, f"{api.endpoint}/{place.repo}/commit/{landed}"
    return done.oid, done.pr_url or str(done.commit_url)


@contextmanager
def _sent(place: Place) -> Iterator[None]:
    """What goes wrong while something is sent. The client says in a ValueError what it finds wrong in a card or an answer."""
    try:
        with patient(), explained(str(place)):
            yield
    except (ValueError, RuntimeError) as error:
        said = " ".join(str(error).split())[:500]
        raise RefusedInput(f"{place} was not written: {said}", mend="Nothing was changed there.") from error


def _landed(api: HfApi, place: Place, files: Mapping[str, Path]) -> str | None:
    """The commit that holds all files, though the answer to it was lost."""
    with suppress(AdapterhubError):
        found = _seen(api, place, place.revision)
        rows = listed(files, found)
        return found.remote.commit if all(row.action == "same" for row in rows) else None
    return None


def read_back(api: HfApi, place: Place, commit: str, files: Mapping[str, Path]) -> list[str]:
    """The safetensors files whose header on the Hub is not the one that was sent."""
    return [name for name, path in files.items() if name.endswith(".safetensors")
            and _remote_header(api, place, name, commit) != _header(path)]  # fmt: skip


def _remote_header(api: HfApi, place: Place, name: str, commit: str) -> tuple[dict[str, str], dict[str, Any]]:
    with patient(), explained(f"{name} of {place}"):
        found = api.parse_safetensors_file_metadata(place.repo, name, revision=commit)
    tensors = {
        tensor: (told.dtype, list(told.shape), list(told.data_offsets)) for tensor, told in found.tensors.items()
    }
    return found.metadata, tensors


def _header(path: Path) -> tuple[dict[str, str], dict[str, Any]]:
    with path.open("rb") as file:
        told = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    fields = told.pop("__metadata__", {})
    return fields, {name: (one["dtype"], one["shape"], one["data_offsets"]) for name, one in told.items()}
