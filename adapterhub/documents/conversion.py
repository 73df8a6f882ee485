"""What became of files that were written, tensor by tensor."""

from typing import Any, Literal

from pydantic import Field

from adapterhub.documents.base import Action, Document, Exactness, PathText, Problem

Command = Literal[
    "convert", "merge", "unmerge", "scale", "combine", "resize", "extract",
    "embedding merge", "embedding scale", "embedding trim", "hypernetwork merge", "hypernetwork scale",
]  # fmt: skip


class Source(Document):
    """The file that was read."""

    path: PathText = Field(description="the file or folder, as it was given")
    sha256: str | None = Field(default=None, description="its digest; null for a folder, and without the check")


class Target(Document):
    """The file that was written."""

    path: PathText = Field(description="the file or folder, as it was given")
    sha256: str | None = Field(
        default=None,
        description="its digest; null for a folder, where nothing was written, and without the check",
    )
    layout: str = Field(description="the layout that it was written in")


class LedgerEntry(Document):
    """What became of some source tensors; every source tensor stands in exactly one entry."""

    source: list[PathText] = Field(description="keys in the source; empty for one that only its configurations told")
    target: list[PathText] = Field(description="keys in the target; empty for a drop")
    action: Action = Field(description="what was done")
    reason: str | None = Field(default=None, description="why; always given for a drop")


class Approximation(Document):
    """A module whose change was approximated by one of a lower rank."""

    module: str = Field(description="component and canonical path")
    rank: int = Field(description="the rank that it has now")
    error: float = Field(
        description="‖ΔW_out - ΔW_in‖ / ‖ΔW_in‖ (Frobenius), measured on the written file; foretold where none was written"
    )
    captured: float = Field(description="the share of ‖ΔW_in‖² that is kept: 1 - error²")


class Forecast(Document):
    """What a command would take, as a sample of its work foretells."""

    memory: int = Field(description="bytes of memory at the peak")
    seconds: float = Field(description="wall time")


class Ingredient(Document):
    """A file or folder that another was made of."""

    name: str = Field(description="what it was called, without its folder")
    sha256: str | None = Field(default=None, description="its digest; of several files that of their list")
    fingerprint: str | None = Field(default=None, description="a digest of what it does, whatever its layout")


class Recipe(Document):
    """How a file was made: the metadata field adapterhub.recipe, and what the registry keeps."""

    command: str = Field(description="the command that wrote it")
    version: str = Field(description="of adapterhub")
    parameters: dict[str, Any] = Field(
        default_factory=dict, description='what it was called with; of a path the number of the input, as {"input": 0}'
    )
    inputs: list[Ingredient] = Field(default_factory=list, description="what it was made of")
    output: str = Field(
        default="",
        description="what it was called, without its folder, a folder with a slash behind it; not in the metadata",
    )


class Conversion(Document):
    """What a command did that wrote a file, tensor by tensor, and its proof: `adapterhub convert` and the like."""

    command: Command = Field(default="convert", description="the command that wrote the target")
    source: Source = Field(description="what was read")
    inputs: list[Source] = Field(
        default_factory=list, description="everything that was read, in order, where that is more than the source"
    )
    target: Target = Field(description="what was written")
    exactness: Exactness = Field(description="how far the target does what the source did")
    max_error: float | None = Field(
        default=None,
        description="max|ΔW_out - ΔW_in| / max|ΔW_in|, the worst module, measured on the written file; null if not measured. "
                    "Of hypernetworks made of others: the largest difference in what they add to random contexts, over the "
                    "largest that one of the sources adds",
    )  # fmt: skip
    relative_error: float | None = Field(
        default=None,
        description="‖ΔW_out - ΔW_in‖ / ‖ΔW_in‖ (Frobenius) over all modules together; null where nothing was approximated",
    )
    approximations: list[Approximation] = Field(
        default_factory=list,
        description="the modules that have a lower rank than their change, each with what that costs",
    )
    modules: int = Field(description="how many modules (tokens, nets) were compared, or would be")
    entries: list[LedgerEntry] = Field(description="the ledger; of several sources each key stands behind its file")
    summary: dict[Action, int] = Field(description="source tensors by action")
    problems: list[Problem] = Field(default_factory=list, description="what was odd about the source, or was mended")
    size: int = Field(default=0, description="the bytes of its tensor files, written or to be written")
    forecast: Forecast | None = Field(
        default=None, description="what writing it would take, where nothing was written because that was asked for"
    )
    undo: Source | None = Field(
        default=None,
        description="of a merged model: the file that restores its base; after a restoration the one that was read",
    )
    recipe: Recipe | None = Field(
        default=None, description="how to make it again, as the registry keeps it; null where nothing was written"
    )
    dry_run: bool = Field(default=False, description="whether nothing was written because that was asked for")
    seconds: float = Field(description="wall time")
