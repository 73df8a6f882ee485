"""What was found on the Hub, and what was pulled from there."""

from pydantic import Field

from adapterhub.adapter import Kind
from adapterhub.documents.base import Document, PathText
from adapterhub.documents.compatibility import Compatibility
from adapterhub.documents.inspection import Inspection


class PulledFile(Document):
    """One file of what was pulled."""

    name: str = Field(description="what it is called where it comes from")
    size: int | None = Field(description="its bytes; null where the server does not say before it is downloaded")
    sha256: str | None = Field(description="its digest: as the Hub tells it, and computed once it is here")
    path: PathText | None = Field(default=None, description="where it is, or would be put")
    known: list[PathText] = Field(default_factory=list, description="where the registry has the same file already")


class Pulled(Document):
    """What was pulled, or would be: `adapterhub pull`."""

    source: str = Field(description="the address, without what follows a question mark")
    repo: str | None = Field(
        default=None, description="the repository, by the name that it has now; null for a plain address"
    )
    revision: str | None = Field(default=None, description="the commit that was pulled")
    files: list[PulledFile] = Field(description="the files, the weights first")
    inspection: Inspection | None = Field(
        default=None, description="what it is, from the remote header; null where that was not read"
    )
    unread: str | None = Field(default=None, description="why the header was not read before downloading")
    fit: Compatibility | None = Field(default=None, description="how it fits the base model, where one was given")
    unfitted: str | None = Field(default=None, description="why it was not compared with the base model that was given")
    dry_run: bool = Field(default=False, description="whether nothing was downloaded")


class HubModel(Document):
    """One repository on the Hub: `adapterhub search --hub`."""

    repo: str = Field(description="its id, which pull takes")
    kind: Kind | None = Field(
        default=None, description="what it is for, where its names, its tags or its header tell; null: not known"
    )
    architecture: str | None = Field(default=None, description="the model family that it fits; null: not known")
    layout: str | None = Field(default=None, description="whose names it carries; null unless it was looked at")
    evidence: list[str] = Field(default_factory=list, description="what kind and architecture are known from")
    unread: str | None = Field(default=None, description="why it could not be looked at, where that was asked for")
    base_models: list[str] = Field(default_factory=list, description="what it says that it is for")
    relation: str | None = Field(default=None, description="adapter, finetune, merge or quantized, as the Hub has it")
    library: str | None = Field(default=None, description="the library that it says it is for")
    tags: list[str] = Field(
        default_factory=list, description="its tags, without those that the fields above are made of"
    )
    downloads: int | None = Field(default=None, description="in the last month")
    likes: int | None = Field(default=None, description="by how many it is liked")
    modified: str | None = Field(default=None, description="UTC, when it was last changed")
    gated: bool = Field(default=False, description="whether access has to be asked for")


class HubSearch(Document):
    """What was found on the Hub, in the Hub's order."""

    found: list[HubModel] = Field(description="the repositories")
