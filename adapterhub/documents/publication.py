"""What was put on the Hub, or would be."""

from typing import Literal

from pydantic import Field

from adapterhub.adapter import Kind
from adapterhub.documents.base import Document, Exactness, PathText, Problem
from adapterhub.documents.header import Redaction


class Fidelity(Document):
    """How far a file that was made for the Hub does what its source did."""

    layout: str = Field(description="the layout that it was written in")
    exactness: Exactness = Field(description="bit-exact, exact, approximate or partial, as in a conversion")
    max_error: float | None = Field(default=None, description="max|ΔW_out - ΔW_in| / max|ΔW_in|; null if not measured")
    modules: int = Field(description="how many modules (tokens, nets) were compared")


class PushedFile(Document):
    """A file of the repository that the push is about."""

    name: str = Field(description="its name in the repository")
    size: int = Field(description="bytes")
    sha256: str | None = Field(description="its digest; null of a file to delete that the Hub keeps in git")
    action: Literal["add", "replace", "same", "delete"] | None = Field(
        default=None,
        description="same: it is there already; delete: a former shard or index of what is pushed, which readers would take "
        "instead of it; null where the repository was not asked",
    )


class Remote(Document):
    """The repository before the push."""

    exists: bool = Field(description="whether it was there")
    private: bool | None = Field(
        default=None, description="whether others could not see it; null where it was not there"
    )
    commit: str | None = Field(default=None, description="the commit that the push builds on; null where there is none")
    files: int = Field(default=0, description="how many files it had")


class Push(Document):
    """What was put on the Hub, or would be: `adapterhub push`."""

    path: PathText = Field(description="the file or folder, as it was given")
    repo_id: str = Field(description="the repository")
    revision: str = Field(description="the branch that it went to, or that the pull request is for")
    kind: Kind = Field(description="what the file is for")
    architecture: str | None = Field(default=None, description="the model family that it fits")
    files: list[PushedFile] = Field(description="every file, the card included")
    card: str = Field(description="the text of README.md")
    fidelity: list[Fidelity] = Field(default_factory=list, description="the proof of each conversion")
    cleaned: list[Redaction] = Field(
        default_factory=list,
        description="what was private in headers and configurations, and is not in what was pushed",
    )
    problems: list[Problem] = Field(default_factory=list, description="what is odd, and what the card lacks")
    remote: Remote | None = Field(default=None, description="the repository before; null where it was not asked")
    url: str | None = Field(default=None, description="the page of the commit or of the pull request")
    commit: str | None = Field(
        default=None, description="the commit that holds the files; null where nothing was pushed"
    )
    verified: bool | None = Field(
        default=None,
        description="whether every safetensors header, read back, is the one that was sent; null: not read back",
    )
    dry_run: bool = Field(default=False, description="whether nothing was pushed because that was asked for")
    seconds: float = Field(description="wall time")
