"""The text fields in the header of a safetensors file, and what was done to them."""

from typing import Literal

from pydantic import Field

from adapterhub.documents.base import Document, PathText, Problem

Private = Literal["local-path", "secret", "e-mail", "url-with-credentials", "machine"]


class Redaction(Document):
    """What was private in a field; what it was is not repeated."""

    field: str = Field(description="the metadata field")
    what: Private = Field(description="what stood there; machine: a host, a user, or the number of a session")
    count: int = Field(description="how many of them")
    removed: bool = Field(description="whether the whole field is gone")
    now: str | None = Field(default=None, description="how the field begins now; null where it is gone")


class Cleaning(Document):
    """What told about the machine or the person, and was removed or shortened."""

    findings: list[Redaction] = Field(description="field by field")


class FieldChange(Document):
    """A field that is no longer as it was."""

    field: str = Field(description="the metadata field")
    action: Literal["set", "unset"] = Field(description="set: it is new, or has another text; unset: it is gone")
    reason: Literal["asked", "private", "untrue", "thumbnail"] = Field(
        description="untrue: a hash that covers the fields and is no longer theirs"
    )


class Thumbnail(Document):
    """The picture that travels in the header."""

    media_type: str = Field(description="image/jpeg, image/png, image/webp or image/gif")
    width: int = Field(description="pixels")
    height: int = Field(description="pixels")
    size: int = Field(description="bytes of the picture itself")


class FileStamp(Document):
    """What tells one state of a file from another."""

    device: int = Field(description="the file system that it lies on")
    inode: int = Field(description="its number there, the same for all of its names")
    size: int = Field(description="bytes")
    mtime_ns: int = Field(description="when it was last changed, in nanoseconds")


class HeaderMetadata(Document):
    """The text fields of a safetensors file, as they are now, and what was done to them: `adapterhub metadata`."""

    path: PathText = Field(description="the file, as it was given")
    size: int = Field(description="bytes of the file")
    header: int = Field(description="bytes of the header, padding included, without the 8 that count it")
    spare: int = Field(description="bytes of padding: so much can be added in place")
    fields: dict[str, str] = Field(description="the text fields, in their order")
    thumbnail: Thumbnail | None = Field(default=None, description="the picture in modelspec.thumbnail, if it is one")
    written: Literal["in-place", "rewritten"] | None = Field(
        default=None, description="how the file was changed: only its header, or to a new file; null: it was not"
    )
    dry_run: bool = Field(
        default=False, description="whether nothing was written because only a forecast was asked for"
    )
    finished: bool = Field(default=False, description="whether an earlier edit that was cut off was finished first")
    changes: list[FieldChange] = Field(default_factory=list, description="what is no longer as it was")
    cleaning: Cleaning | None = Field(default=None, description="what was private; null if not asked")
    problems: list[Problem] = Field(
        default_factory=list, description="what is odd; with --lint every rule that is broken"
    )
    valid: bool | None = Field(default=None, description="whether no problem is an error; null without --lint")
    extracted: PathText | None = Field(default=None, description="where the thumbnail was written")
    before: FileStamp | None = Field(default=None, description="the file before it was written")
    after: FileStamp | None = Field(default=None, description="the file afterwards")
