"""How far two files do the same, whether a model descends from another, and which tokens an embedding is near."""

from typing import Literal

from pydantic import Field

from adapterhub.documents.base import Document, PathText


class ModuleDifference(Document):
    """How far two files differ in one module. Of whole models ΔW is the weight itself."""

    component: str = Field(description="the part of the model")
    module: str = Field(description="the canonical path inside the component")
    max_abs: float | None = Field(description="max|ΔW_b - ΔW_a|")
    relative: float | None = Field(description="the same over max|ΔW_a|")


class BlockDifference(Document):
    """How far the tensors of a block differ that two whole models have. Those that are neither identical nor recast, nor of
    another shape, changed. A relative change is ‖B - A‖ / ‖A‖ with Euclidean norms; tensors of another shape do not count.
    """

    name: str = Field(description="the beginning of the canonical path: down_blocks.0, text_model.encoder.layers.3")
    tensors: int = Field(description="how many tensors both have")
    identical: int = Field(description="tensors with the same numbers, bit for bit or in a wider dtype")
    recast: int = Field(description="tensors that are equal once one is rounded to the dtype of the other")
    changed: int = Field(description="tensors of other numbers")
    reshaped: int = Field(description="tensors of another shape")
    relative: float | None = Field(description="the relative change of all of them together")
    largest: float | None = Field(description="the largest relative change of one tensor")
    worst: str | None = Field(default=None, description="the tensor that changed by that much; null where none changed")


class ComponentDifference(BlockDifference):
    """How far two whole models differ in a component."""

    name: str = Field(description="the part of the model")
    only_in_a: int = Field(description="tensors that only the first has")
    only_in_b: int = Field(description="tensors that only the second has")
    blocks: list[BlockDifference] = Field(description="its blocks, in the order of the model")


class ExtraDifference(Document):
    """A tensor beside the weights of whole models that is not in both with the same bits."""

    name: str = Field(description="its name in a single file")
    extra: str = Field(description="its class: marker, foreign, ema, schedule …")
    fate: Literal["only_in_a", "only_in_b", "changed"] = Field(description="changed: both have it, with other bits")
    counts: bool = Field(
        description="whether the models differ by it: a marker that one lacks, other bits of what images may depend on"
    )


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
    summary: list[str] = Field(default_factory=list, description="of whole models: what that means, in sentences")
    components: list[ComponentDifference] = Field(
        default_factory=list, description="of whole models: every component and its blocks"
    )
    extras_in_a: dict[str, int] = Field(
        default_factory=dict, description="tensors of a whole model beside its weights, by class"
    )
    extras_in_b: dict[str, int] = Field(default_factory=dict, description="the same of the second")
    beside: list[ExtraDifference] = Field(
        default_factory=list, description="of whole models: what stands beside the weights and is not the same in both"
    )


class Spectrum(Document):
    """How the change of one weight is spread over its singular values. The share of ‖ΔW‖² in a few tells a change of low
    rank, as a LoRA makes it, from one that was trained in full.
    """

    component: str = Field(description="the part of the model")
    module: str = Field(description="the canonical path inside the component")
    full: int = Field(description="how many singular values it has")
    rank: int = Field(description="how many of them hold 99 % of ‖ΔW‖²")
    first_16: float = Field(description="the share of ‖ΔW‖² in the first 16")
    first_64: float = Field(description="the share of ‖ΔW‖² in the first 64")


class Descent(Document):
    """Whether a whole model descends from a base: `adapterhub validate --base`."""

    base: PathText = Field(description="the base, as it was given")
    verdict: Literal["same", "descends", "unrelated"] = Field(
        description="same: no weight changed but by a cast; unrelated: too far from the base to be trained from it"
    )
    merged_lora: bool = Field(description="whether the changes are of so low a rank that a LoRA was likely merged")
    equal: float = Field(
        description="the share of the tensors of both that are equal, after a cast where dtypes differ"
    )
    relative: float | None = Field(description="‖model - base‖ / ‖base‖ of all weights that both have")
    summary: list[str] = Field(description="what was found, in sentences")
    components: list[ComponentDifference] = Field(
        description="every component and its blocks: what `diff BASE MODEL` says of them"
    )
    spectra: list[Spectrum] = Field(description="a few attention weights that changed; none where none did")


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
