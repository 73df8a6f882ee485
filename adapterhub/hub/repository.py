"""A model repository of the Hub at one commit: its files with sizes and digests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

from adapterhub.errors import RefusedInput
from adapterhub.hub.addresses import InRepository
from adapterhub.hub.errors import explained

if TYPE_CHECKING:
    from huggingface_hub import HfApi, ModelInfo

MOST_FILES = 20_000
TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """What the Hub says of a file before it is downloaded; `sha256` is known of what it keeps in LFS."""

    name: str
    size: int
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Repository:
    """The files of `repo` at `commit`; the id is that which the Hub calls it by now. `allow_http`: what is asked may be open."""

    repo: str
    commit: str
    files: Mapping[str, RemoteFile]
    allow_http: bool = False


def api() -> HfApi:
    """The Hub's client, which finds the token by itself."""
    from huggingface_hub import HfApi, constants

    return HfApi(endpoint=constants.ENDPOINT, library_name="adapterhub", library_version=version("adapterhub"))


def repository(place: InRepository, *, allow_http: bool = False) -> Repository:
    """What is there now: one request, which follows renames. Everything else is asked of the commit that it tells."""
    with explained(str(place)):
        found = api().model_info(place.repo, revision=place.revision, files_metadata=True, timeout=TIMEOUT)
    count = len(found.siblings or ())
    if not found.sha or count > MOST_FILES:
        raise RefusedInput(f"{place}: {count} files at {found.sha or 'no commit'}, which is not looked through")
    return Repository(found.id, found.sha, files_of(found), allow_http)


def files_of(found: ModelInfo) -> dict[str, RemoteFile]:
    """What the Hub told of each file that has a size."""
    return {
        one.rfilename: RemoteFile(
            one.rfilename, one.size, one.lfs.sha256.lower() if one.lfs and one.lfs.sha256 else None
        )
        for one in found.siblings or ()
        if one.size is not None and one.size >= 0
    }
