"""What the registry knows, and what its commands did."""

from typing import Any, Literal

from pydantic import Field

from adapterhub.adapter import Kind
from adapterhub.documents.base import Container, Document, PathText, Problem
from adapterhub.documents.conversion import Recipe
from adapterhub.documents.inspection import Part, Token


class Told(Document):
    """What somebody says about a record."""

    value: Any = Field(description="a text, a number or a list of texts")
    origin: str = Field(description="who says so: user, a side-car's family, a part of the header, an application")


class RecordFile(Document):
    """A file on disk that belongs to a record."""

    path: PathText = Field(description="where it lies")
    role: Literal["content", "sidecar", "preview"] = Field(description="what it is for")
    size: int = Field(description="bytes")
    hashes: dict[str, str] = Field(default_factory=dict, description="its digests by name, in hexadecimal")


class Record(Document):
    """What the registry knows of one adapter or model: `adapterhub list`, `search`, `show`."""

    id: int = Field(description="its number in the registry")
    path: PathText = Field(description="the file, or the folder that is one adapter or model")
    name: str = Field(description="what it is called: its path without folder and suffix")
    application: str | None = Field(default=None, description="whose folder it was found in")
    kind: Kind = Field(description="what the file is for")
    container: Container | None = Field(default=None, description="how its bytes are stored")
    layout: str | None = Field(default=None, description="whose names it carries; null if none explains every key")
    architecture: str | None = Field(default=None, description="the model family that it fits")
    variant: str | None = Field(default=None, description="a flavour of the architecture")
    rank: int | None = Field(default=None, description="the largest rank of a module")
    tensors: int | None = Field(default=None, description="how many tensors it stores")
    parameters: int | None = Field(default=None, description="how many numbers they hold together")
    size: int = Field(description="bytes, of all its files")
    modified: str = Field(description="UTC, of its newest file")
    added: str = Field(description="UTC, when it came into the registry")
    missing: str | None = Field(default=None, description="UTC, since when it is gone from the disk")
    refused: str | None = Field(default=None, description="the rule that it breaks; then nothing more is known of it")
    reason: str | None = Field(default=None, description="why it was refused")
    sha256: str | None = Field(
        default=None, description="of its file; of several that of their list, as sha256sum prints it"
    )
    fingerprint: str | None = Field(default=None, description="a digest of what it does, whatever its layout")
    hashed: bool = Field(default=False, description="whether its files have been read whole since they last changed")
    words: list[str] = Field(default_factory=list, description="the tokens and trigger words that call it")
    tags: list[str] = Field(default_factory=list, description="the tags that it has")
    also: list[str] = Field(default_factory=list, description="other model families that it fits as well")
    evidence: list[str] = Field(default_factory=list, description="what the verdict rests on")
    algorithms: dict[str, int] = Field(default_factory=dict, description="modules by algorithm")
    components: dict[str, int] = Field(default_factory=dict, description="modules by component")
    ranks: dict[str, int] = Field(default_factory=dict, description="modules by rank")
    alphas: dict[str, int] = Field(default_factory=dict, description="modules by alpha")
    dtypes: dict[str, int] = Field(default_factory=dict, description="tensors by element type")
    tokens: list[Token] = Field(default_factory=list, description="the tokens of an embedding")
    vectors: int | None = Field(default=None, description="the vectors of an embedding, all tokens together")
    structure: dict[str, Any] | None = Field(default=None, description="the shape of a hypernetwork")
    parts: dict[str, Part] = Field(default_factory=dict, description="the components of a whole model")
    extras: dict[str, int] = Field(
        default_factory=dict, description="tensors of a whole model beside its weights, by class"
    )
    problems: list[Problem] = Field(default_factory=list, description="what is wrong or odd about it")
    readers: dict[str, str] | None = Field(
        default=None,
        description="what each program makes of it (loads, misread, partly, ignored, refused); where a model was named",
    )
    files: list[RecordFile] | None = Field(default=None, description="the files that it consists of; shown by show")
    facts: dict[str, list[Told]] | None = Field(
        default=None, description="what is said about it and by whom, who counts most first; shown by show"
    )
    metadata: dict[str, str] | None = Field(default=None, description="the text fields of its header; shown by show")


class Trouble(Document):
    """A path that could not be looked at, or not wholly."""

    path: PathText = Field(description="the file or folder")
    message: str = Field(description="why")


class Indexing(Document):
    """What the registry learned: `adapterhub index`."""

    db: PathText = Field(description="the registry")
    found: int = Field(description="adapters, models and refused files that lie under the paths")
    new: int = Field(description="those that were not known")
    changed: int = Field(description="those whose files had changed, or what lies beside them")
    unchanged: int = Field(description="those of which nothing was read")
    moved: int = Field(
        default=0, description="those that were known from another place, and keep what was said about them"
    )
    missing: int = Field(default=0, description="those that were known and are gone")
    refused: int = Field(description="those that are malformed or unsafe, new or changed")
    hashed: int = Field(default=0, description="those that were read whole")
    bytes: int = Field(default=0, description="how much was read for that")
    waiting: int = Field(default=0, description="those that are still to be read whole")
    asked: int = Field(default=0, description="hashes that others were asked for")
    told: int = Field(default=0, description="those of which others know something, now or from before")
    applications: list[str] = Field(default_factory=list, description="the applications whose folders these are")
    troubles: list[Trouble] = Field(default_factory=list, description="what could not be looked at")
    seconds: float = Field(description="wall time")


class Member(Document):
    """A record among others, in short."""

    id: int = Field(description="its number in the registry")
    path: PathText = Field(description="the file or folder")
    kind: Kind = Field(description="what the file is for")
    architecture: str | None = Field(default=None, description="the model family that it fits")
    layout: str | None = Field(default=None, description="whose names it carries")
    container: Container | None = Field(default=None, description="how its bytes are stored")
    dtypes: list[str] = Field(default_factory=list, description="the element types of its tensors")
    size: int = Field(description="bytes, of all its files")
    fingerprint: str | None = Field(default=None, description="a digest of what it does")
    inode: str | None = Field(default=None, description="device and inode: hard links have the same, and take no room")


class Group(Document):
    """Records that are the same in some way."""

    how: Literal["file", "adapter", "cast", "relatives"] = Field(
        description="file: equal bytes; adapter: the same values in another layout, container or metadata; cast: likely the same "
                    "in another dtype, which adapterhub diff confirms; relatives: similar changes, as epochs of one training have"
    )  # fmt: skip
    members: list[Member] = Field(description="the records; of equal files one stands for all in the other groups")
    sha256: str | None = Field(default=None, description="of equal files: their digest")
    similarity: float | None = Field(
        default=None,
        description="the cosine of their changes, as sketches tell it; of a group the smallest that joins it",
    )
    confirmed: bool | None = Field(
        default=None, description="of a cast: whether diff found it to be one; null if not asked"
    )
    max_error: float | None = Field(
        default=None, description="of a confirmed cast: the largest relative difference of ΔW"
    )


class Duplicates(Document):
    """What is there more than once: `adapterhub duplicates`."""

    groups: list[Group] = Field(description="equal files first, then the same adapters, likely casts, and relatives")
    waiting: int = Field(description="records that are still to be read whole, and are in no group")


class Similarity(Document):
    """How similar one record is to another."""

    member: Member = Field(description="the other record")
    cosine: float = Field(description="the cosine of the two changes, give or take 0.06")
    strength: float = Field(description="the strength at which the first comes nearest to the other")
    how: Literal["the same adapter", "likely the same, cast", "relative"] = Field(description="what that means")


class Similar(Document):
    """What is similar to a record: `adapterhub similar`."""

    of: Member = Field(description="the record that was asked for")
    similar: list[Similarity] = Field(description="the others, the most similar first")
    waiting: int = Field(description="records that are still to be read whole, and are not compared")


class Ancestor(Document):
    """A file in a lineage, in the registry or only named by a recipe."""

    key: str = Field(description="its sha256, or what else it is known by here")
    name: str = Field(description="what it is, or was, called")
    record: int | None = Field(default=None, description="its number in the registry; null for what is not in it")
    path: PathText | None = Field(default=None, description="where it lies, or was written")
    kind: Kind | None = Field(default=None, description="what the file is for")
    sha256: str | None = Field(default=None, description="its digest")
    fingerprint: str | None = Field(default=None, description="a digest of what it does")
    missing: bool = Field(default=False, description="whether it is gone from the disk")


class Step(Document):
    """That a file was made of another."""

    child: str = Field(description="the key of what was made")
    parent: str = Field(description="the key of what it was made of")
    command: str = Field(description="by what: a command of adapterhub, or a training or merge of another tool")
    version: str | None = Field(default=None, description="of adapterhub")
    parameters: dict[str, Any] = Field(default_factory=dict, description="with what")
    by: Literal["sha256", "fingerprint", "name"] = Field(
        description="how the parent was found: the file itself; the same adapter in another file; not found, only named"
    )


class Lineage(Document):
    """What a file came from and what came from it: `adapterhub lineage`."""

    of: str = Field(description="the key of the file that was asked for")
    nodes: list[Ancestor] = Field(description="every file that was met")
    steps: list[Step] = Field(description="what was made of what")


class Replay(Document):
    """A file that was made again: `adapterhub replay`."""

    recipe: Recipe = Field(description="how it was made")
    inputs: list[PathText] = Field(description="where its inputs lie now")
    target: PathText | None = Field(
        default=None, description="where it was made again; null where it was only compared"
    )
    wanted: str = Field(description="the sha256 that it had; of several files that of their list")
    found: str = Field(description="the sha256 that it has now")
    same: bool = Field(description="whether they are the same")
