"""What keeps a registry and the files in it: verify, doctor, backup, export, lock and their answers."""

from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from adapterhub.adapter import Kind
from adapterhub.documents.base import Document, PathText
from adapterhub.documents.record import Record, RecordFile, Told

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Damage(Document):
    """A file that is not what was recorded."""

    record: int = Field(description="the number of its record")
    path: PathText = Field(description="the file")
    what: Literal["missing", "rotten", "truncated", "replaced", "changed", "unreadable"] = Field(
        description="rotten: other bytes under the same size and time, which no program does on purpose; truncated: shorter; "
                    "replaced: another file has its name; changed: written to since"
    )  # fmt: skip
    message: str = Field(description="what was expected, and what is there")
    sha256: str = Field(description="the digest that was recorded")
    found: str | None = Field(default=None, description="the digest of what is there")


class Verification(Document):
    """Files read again and compared with what was recorded: `adapterhub verify`."""

    checked: int = Field(description="files that were looked at; hard links each")
    bytes: int = Field(description="how much was read: what several names share is read once")
    damages: list[Damage] = Field(description="what is not as it was recorded")
    waiting: int = Field(description="records that are still to be read whole, and cannot be compared with anything")
    seconds: float = Field(description="wall time")


class Finding(Document):
    """Something about a registry that its owner should know."""

    severity: Literal["error", "warning", "note"] = Field(description="error: the registry itself is not sound")
    code: str = Field(description="a short stable name, such as missing-files")
    message: str = Field(description="what was found, in a sentence")
    count: int = Field(default=1, description="how often")
    examples: list[str] = Field(default_factory=list, description="a few of them")
    mend: str | None = Field(default=None, description="the command that mends it, or what else to do")


class Diagnosis(Document):
    """The state of a registry: `adapterhub doctor`."""

    db: PathText = Field(description="the registry")
    exists: bool = Field(description="whether there is one")
    version: int | None = Field(default=None, description="of its tables")
    sqlite: str = Field(description="the version of SQLite that looked")
    records: int = Field(default=0, description="how many adapters and models it knows")
    rebuilt: int = Field(default=0, description="records whose derived rows were made again")
    findings: list[Finding] = Field(description="the gravest first")


class Copied(Document):
    """A registry that was copied: `adapterhub backup`, `adapterhub restore`."""

    source: PathText = Field(description="what was copied")
    target: PathText = Field(description="where it is now")
    records: int = Field(description="how many records it has")
    size: int = Field(description="bytes of the target")
    replaced: PathText | None = Field(default=None, description="where that is kept which was there before")


class ExportedFile(RecordFile):
    """A file of a record, as `adapterhub export` writes it."""

    raw: str | None = Field(default=None, description="the path in base64, where it is no UTF-8")
    mtime_ns: int = Field(default=0, ge=-(2**63), lt=2**63, description="when it was last changed, in nanoseconds")


class Said(Told):
    """What somebody says about a record, as the registry can hold it."""

    value: str | bool | int | float | list[str] = Field(description="a text, a number, or a list of texts")


class ExportedRecord(Record):
    """A line of an export: a record with all that is known of it."""

    type: Literal["record"] = Field(default="record", description="what the line is")
    raw: str | None = Field(default=None, description="the path in base64, where it is no UTF-8")
    sketch: str | None = Field(
        default=None, description="what a few fixed directions see of its change: float32 in base64"
    )
    files: list[ExportedFile] | None = Field(default=None, description="the files that it consists of")  # type: ignore[assignment]
    facts: dict[str, list[Said]] | None = Field(  # type: ignore[assignment]
        default=None, description="what is said about it and by whom, who counts most first"
    )


class ExportedParent(Document):
    """What something was made of."""

    name: str = Field(description="what it was called")
    sha256: str | None = Field(default=None, description="its digest")
    fingerprint: str | None = Field(default=None, description="the digest of what it does")


class ExportedRecipe(Document):
    """A line of an export: how a file was made."""

    type: Literal["recipe"] = Field(default="recipe", description="what the line is")
    sha256: str = Field(description="the digest of the file that was made")
    name: str = Field(description="what it was called")
    command: str = Field(description="by what it was made")
    version: str | None = Field(default=None, description="of adapterhub")
    parameters: dict[str, Any] = Field(default_factory=dict, description="with what")
    path: PathText | None = Field(default=None, description="where it was written")
    raw: str | None = Field(default=None, description="the path in base64, where it is no UTF-8")
    recorded: str = Field(description="UTC, when that was noted")
    parents: list[ExportedParent] = Field(default_factory=list, description="of what, in their order")


class ExportHead(Document):
    """The first line of an export."""

    type: Literal["export"] = Field(default="export", description="what the line is")
    version: Literal[1] = Field(default=1, description="of the form of the lines")


class Exported(Document):
    """What was written to a file: `adapterhub export -o FILE`."""

    target: PathText = Field(description="the file")
    records: int = Field(description="how many records it holds")
    recipes: int = Field(default=0, description="how many recipes it holds")


class Imported(Document):
    """What another registry told this one: `adapterhub import`."""

    db: PathText = Field(description="the registry")
    added: int = Field(default=0, description="records that were not known")
    merged: int = Field(default=0, description="records that were, by path or sha256: what people said of both is kept")
    recipes: int = Field(default=0, description="recipes that were not known")


def _inside(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\0" in path or "\\" in path or ":" in parts[0]:
        raise ValueError("a path that leaves the folder of the lock file")
    return str(PurePosixPath(path))


class Locked(Document):
    """A file that a project needs."""

    path: Annotated[str, AfterValidator(_inside)] = Field(
        description="where it lies, from the lock file's folder, with slashes"
    )
    sha256: Digest = Field(description="its digest")
    size: int = Field(ge=0, description="bytes")
    name: str = Field(description="what the adapter or model is called")
    kind: Kind = Field(description="what it is for")
    architecture: str | None = Field(default=None, description="the model family that it fits")
    layout: str | None = Field(default=None, description="whose names it carries")
    fingerprint: str | None = Field(default=None, description="a digest of what the adapter does, whatever its layout")
    sources: dict[str, str] = Field(
        default_factory=dict, description="where it can be had: source, civitai_version, repository …"
    )


class Lock(Document):
    """The files of a project, exactly: `adapterhub lock`."""

    version: Literal[1] = Field(default=1, description="of the form of this file")
    files: list[Locked] = Field(description="by path")

    @model_validator(mode="after")
    def _each_path_once(self) -> "Lock":
        paths = [file.path for file in self.files]
        if len({*paths}) < len(paths):
            raise ValueError("a path that is given twice")
        return self


class Synced(Document):
    """What became of a file of a lock file."""

    path: str = Field(description="as the lock file has it")
    state: Literal["there", "restored", "missing", "different"] = Field(
        description="different: something else has its name, and is left alone; missing: it is in no file that the registry knows"
    )
    source: PathText | None = Field(default=None, description="the file that it was restored from")
    sources: dict[str, str] = Field(default_factory=dict, description="where it could be had")


class Sync(Document):
    """Whether the files of a lock file are there: `adapterhub sync`."""

    folder: PathText = Field(description="where they belong")
    files: list[Synced] = Field(description="each of them")


class SidecarChange(Document):
    """What a side-car says otherwise now."""

    field: str = Field(description="what it is about")
    before: Any = Field(default=None, description="what it said; null for nothing")
    after: Any = Field(description="what it says")


class SidecarGap(Document):
    """What a side-car has no place for."""

    field: str = Field(description="what it is about")
    reason: str = Field(description="why")


class SidecarExport(Document):
    """A side-car that was written, or would be: `adapterhub export --sidecar`."""

    model: PathText = Field(description="the file that it lies beside")
    family: str = Field(description="whose side-car it is")
    sidecar: PathText | None = Field(default=None, description="where it lies")
    created: bool = Field(default=False, description="whether there was none")
    written: bool = Field(
        default=False, description="whether it was written; false where nothing changed, or nothing was to be written"
    )
    changes: list[SidecarChange] = Field(default_factory=list, description="what it says otherwise")
    left_out: list[SidecarGap] = Field(default_factory=list, description="what it has no place for")
    error: str | None = Field(default=None, description="why it could not be written")
