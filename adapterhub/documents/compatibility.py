"""Whether an adapter fits a model, and what each reader makes of its file."""

from typing import Literal

from pydantic import Field

from adapterhub.adapter import Kind
from adapterhub.documents.base import Document, PathText, Problem

Status = Literal["loads", "misread", "partly", "ignored", "refused"]
Effect = Literal["misread", "ignored", "refused"]


class Reason(Document):
    """Why a reader does not do all that the file says."""

    code: str = Field(description="a short stable name of the rule, such as attention-names")
    effect: Effect = Field(
        description="misread: applied otherwise; ignored: left out; refused: nothing of the file is loaded"
    )
    message: str = Field(description="what the reader does, in a sentence")
    modules: int = Field(description="how many modules it concerns")
    examples: list[str] = Field(default_factory=list, description="the first of them")
    mend: str | None = Field(default=None, description="the command that mends it, where there is one")


class Verdict(Document):
    """What one reader makes of a file."""

    reader: str = Field(description="what --for takes")
    title: str = Field(description="the program and the version whose rules these are")
    status: Status = Field(
        description=(
            "loads: all of it; misread: all of it, some otherwise than meant; partly; ignored: nothing, and no error; "
            "refused: an error"
        )
    )
    applied: int = Field(description="how many modules it applies")
    modules: int = Field(description="how many modules the file has")
    reasons: list[Reason] = Field(default_factory=list, description="why it is not all of them, or not as meant")
    mend: str | None = Field(default=None, description="the command that mends the worst of it")


class Misfit(Document):
    """A module that cannot go into the model."""

    module: str = Field(description="component.module")
    reason: str = Field(description="why")


class ModelFit(Document):
    """Whether an adapter fits a model, by names and shapes."""

    path: PathText = Field(description="the model, as it was given")
    architecture: str = Field(description="its model family")
    variants: list[str] = Field(default_factory=list, description="its flavours, such as inpainting or v-prediction")
    same_architecture: bool = Field(description="whether the adapter is for this family")
    present: int = Field(description="modules of the adapter that the model has, in fitting shapes")
    modules: int = Field(description="modules of the adapter")
    absent: list[str] = Field(default_factory=list, description="modules of the adapter that the model lacks")
    misfits: list[Misfit] = Field(default_factory=list, description="modules that it has in another shape or form")
    lacking: list[str] = Field(default_factory=list, description="components of the adapter that the model lacks whole")
    problems: list[Problem] = Field(default_factory=list, description="what differs without being in the way")


class Compatibility(Document):
    """Whether an adapter will load, and where: `adapterhub compatible`."""

    path: PathText = Field(description="the adapter, as it was given")
    kind: Kind = Field(description="what the adapter is")
    layout: str | None = Field(default=None, description="whose names it carries; null if none explains every key")
    architecture: str | None = Field(default=None, description="the model family that it is for")
    fits: bool = Field(
        description="whether all of it goes into the model; without a model, whether any reader loads all of it"
    )
    model: ModelFit | None = Field(default=None, description="the fit to the model, where one was given")
    readers: list[Verdict] = Field(description="what each reader makes of the file")
    problems: list[Problem] = Field(default_factory=list, description="what is wrong or odd about the adapter")
