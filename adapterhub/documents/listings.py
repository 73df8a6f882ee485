"""What adapterhub knows: layouts and architectures."""

from typing import Literal

from pydantic import Field

from adapterhub.adapter import Kind
from adapterhub.documents.base import Container, Document


class LayoutInfo(Document):
    """One layout: `adapterhub layouts`."""

    name: str = Field(description="what --to takes")
    kind: Kind = Field(description="what its files are for")
    summary: str = Field(description="what it is, in a line")
    container: Container | None = Field(default=None, description="how its bytes are stored when it is written")
    suffix: str = Field(
        description="how its files end when they are written; empty for a folder, or if it is only read"
    )
    reads: bool = Field(default=True, description="whether adapterhub reads it")
    writes: bool = Field(default=True, description="whether adapterhub writes it")
    tools: list[str] = Field(default_factory=list, description="what --for takes to choose it")
    holds: list[str] = Field(default_factory=list, description="the algorithms that it has names for")
    alpha: Literal["tensor", "metadata", "folded"] | None = Field(default=None, description="where it keeps alpha")


class ArchitectureInfo(Document):
    """One architecture: `adapterhub architectures`."""

    name: str = Field(description="what --architecture takes")
    title: str = Field(description="what people call it")
    modelspec: str | None = Field(default=None, description="its modelspec.architecture string")
    components: dict[str, int] = Field(description="modules by component")
    parameters: int = Field(description="how many numbers all components hold together")
