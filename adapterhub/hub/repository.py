"""A model repository of the Hub at one commit: its files with sizes and digests, and which of them is the adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

from adapterhub.errors import NotFound, RefusedInput, UsageError
from adapterhub.files.directories import DOCUMENTS, KNOWN, LONE, PIPELINE
from adapterhub.files.folder import WEIGHTS, listed
from adapterhub.hub.addresses import InRepository
from adapterhub.hub.errors import explained

if TYPE_CHECKING:
    from huggingface_hub import HfApi

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
    """The files of `repo` at `commit`; the id is that which the Hub calls it by now."""

    repo: str
    commit: str
    files: Mapping[str, RemoteFile]


@dataclass(frozen=True, slots=True)
class Chosen:
    """`weights` and `documents` of what is meant, by name; `whole` where it is a folder, `more` what only a pull takes."""

    weights: tuple[str, ...]
    documents: tuple[str, ...] = ()
    whole: bool = False
    more: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All files."""
        return (*self.weights, *self.documents, *self.more)


def api() -> HfApi:
    """The Hub's client, which finds the token by itself."""
    from huggingface_hub import HfApi, constants

    return HfApi(endpoint=constants.ENDPOINT, library_name="adapterhub", library_version=version("adapterhub"))


def repository(place: InRepository) -> Repository:
    """What is there now: one request, which follows renames. Everything else is asked of the commit that it tells."""
    with explained(str(place)):
        found = api().model_info(place.repo, revision=place.revision, files_metadata=True, timeout=TIMEOUT)
    siblings = found.siblings or []
    if not found.sha or len(siblings) > MOST_FILES:
        raise RefusedInput(f"{place}: {len(siblings)} files at {found.sha or 'no commit'}, which is not looked through")
    files = {
        one.rfilename: RemoteFile(
            one.rfilename, one.size, one.lfs.sha256.lower() if one.lfs and one.lfs.sha256 else None
        )
        for one in siblings
        if one.size is not None and one.size >= 0
    }
    return Repository(found.id, found.sha, files)


def choose(there: Repository, file: str | None) -> Chosen:
    """What is meant: `file`; or what is called as adapters are; or a pipeline; or the only file of weights at the top.

    NotFound where `file` is not there, UsageError with a list where nothing or several would do.
    """
    if file is not None:
        if file not in there.files:
            raise NotFound(f"{there.repo} has no file {file!a} at {there.commit[:8]}", mend=_choices(there))
        return Chosen((file,))
    top = [name for name in there.files if "/" not in name]
    documents = tuple(name for name in DOCUMENTS if name in top)
    for known in KNOWN:
        first, *others = (next((stem + end for end in WEIGHTS if stem + end in top), None) for stem in known.weights)
        if first and (known.needs is None or known.needs in top):
            return Chosen((first, *filter(None, others)), documents, whole=True)
    if PIPELINE in top:
        return Chosen((), (PIPELINE,), whole=True, more=_pipeline(there))
    for endings in LONE[:2]:
        if lone := [name for name in top if name.lower().endswith(endings) and not name.startswith(".")]:
            if len(lone) > 1:
                raise UsageError(f"{there.repo} holds several models", mend=_choices(there))
            return Chosen((lone[0],), documents)
    raise UsageError(f"{there.repo} holds no adapter and no model at its top", mend=_choices(there))


def _choices(there: Repository) -> str:
    every = (*LONE[0], *LONE[1], *LONE[2])
    weights = [name for name in there.files if name.lower().endswith(every)]
    return f"Say which with --file: {listed(weights or there.files) or 'there is none'}."


def _pipeline(there: Repository) -> tuple[str, ...]:
    """The files of a pipeline: of each folder without the other formats and variants of its weights."""
    return tuple(
        name for name in there.files
        if name.count("/") == 1 and not name.startswith(".") and _is_wanted(name, there.files)
    )  # fmt: skip


def _is_wanted(name: str, files: Mapping[str, RemoteFile]) -> bool:
    if name.endswith((".json", ".txt", ".model")):
        return ".fp16." not in name and ".non_ema." not in name
    beside = [other for other in files if other.startswith(name.partition("/")[0] + "/")]
    plain = [other for other in beside if other.endswith(".safetensors") and other.rpartition("/")[2].count(".") == 1]
    if plain:
        return name in plain
    return name.endswith(WEIGHTS)
