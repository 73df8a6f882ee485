"""How far two files do the same, and which tokens an embedding is near."""

from pydantic import Field

from adapterhub.documents.base import Document, PathText


class ModuleDifference(Document):
    """How far two files differ in one module."""

    component: str = Field(description="the part of the model")
    module: str = Field(description="the canonical path inside the component")
    max_abs: float | None = Field(description="max|ΔW_b - ΔW_a|")
    relative: float | None = Field(description="the same over max|ΔW_a|")


class Difference(Document):
    """How far two files do the same: `adapterhub diff`."""

    a: PathText = Field(description="the first file or folder, as it was given")
    b: PathText = Field(description="the second file or folder, as it was given")
    equal: bool = Field(description="whether both change the same modules, and none by more than the tolerance")
    max_abs: float | None = Field(description="max|ΔW_b - ΔW_a|, the worst module")
    max_error: float | None = Field(description="max|ΔW_b - ΔW_a| / max|ΔW_a|, the worst module")
    modules: int = Field(description="how many modules both change")
    only_in_a: list[str] = Field(default_factory=list, description="component.module that only the first changes")
    only_in_b: list[str] = Field(default_factory=list, description="component.module that only the second changes")
    differences: list[ModuleDifference] = Field(
        default_factory=list, description="the modules that differ, worst first"
    )


class TokenTable(Document):
    """The tokens that a text encoder knows."""

    place: str = Field(description="the key of their vectors in the model")
    tokens: int = Field(description="how many there are")
    width: int = Field(description="the length of a vector in numbers")
    median_length: float | None = Field(description="the median of the vectors' Euclidean lengths")


class NearToken(Document):
    """A token near a vector."""

    token: str | None = Field(description="its text; null where the tokenizer has no name for it")
    id: int = Field(description="its number")
    ends_word: bool = Field(description="whether a word ends with it")
    cosine: float = Field(description="the cosine of the angle between both")
    distance: float | None = Field(description="the Euclidean distance between both")


class NearVector(Document):
    """One vector of an embedding, and the tokens nearest to it."""

    token: str = Field(description="the text that calls the embedding")
    component: str = Field(description="the part of the model that the vector is for")
    vector: int = Field(description="which of the vectors it is, from 1")
    length: float | None = Field(description="its Euclidean length")
    nearest: list[NearToken] = Field(
        default_factory=list, description="the nearest first; empty where it is zero or not finite"
    )


class Nearest(Document):
    """What the vectors of an embedding are like: `adapterhub embedding nearest`."""

    path: PathText = Field(description="the file or folder, as it was given")
    model: PathText = Field(description="where the tokens' own vectors come from, as it was given")
    tables: list[TokenTable] = Field(description="the tokens of each text encoder concerned")
    vectors: list[NearVector] = Field(description="the vectors of the embedding, by text encoder")
