"""What all documents have in common, and the words that they share."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

Container = Literal["safetensors", "safetensors-sharded", "torch-zip", "torch-legacy", "png", "webp", "directory"]
Action = Literal["copy", "rename", "reshape", "fold", "split", "join", "cast", "compute", "metadata", "drop"]
Exactness = Literal["bit-exact", "exact", "approximate", "partial"]


def _text(path: object) -> str:
    return str(path).encode("utf-8", "backslashreplace").decode()


PathText = Annotated[str, BeforeValidator(_text)]
"""A path as text; bytes that are no UTF-8 are shown as escapes, because JSON has no place for them."""


class Document(BaseModel):
    """What all documents have in common: they do not change, and hold what their schema says and nothing else."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)  # a command needs few of them

    @classmethod
    def read(cls, text: bytes) -> Self:
        """The document that somebody wrote as JSON. ValueError says in a line what is wrong with it first."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise ValueError(f"{where}: {first['msg']}" if where else first["msg"]) from None

    @classmethod
    def tried(cls, told: Mapping[str, Any]) -> Self | list[Mapping[str, Any]]:
        """The document of these values, or what pydantic says of each that is wrong."""
        try:
            return cls.model_validate(dict(told))
        except ValidationError as error:
            return list(error.errors(include_url=False))


class Problem(Document):
    """Something wrong or odd about a file."""

    severity: Literal["error", "warning"] = Field(description="error: the file does not do what it is for")
    code: str = Field(description="a short stable name of the problem, such as missing-alpha")
    where: PathText = Field(
        description="the tensor, module, metadata field or member concerned; empty for the whole file"
    )
    message: str = Field(description="what is wrong, in a sentence")
    mend: str | None = Field(default=None, description="what to do about it, where that is known")


class Fault(Document):
    """Why a command could not be carried out."""

    code: str = Field(description="a short stable name of the rule that was broken")
    message: str = Field(description="what is wrong and how to mend it")


class Failure(Document):
    """What stands in the array of results for a path that failed."""

    path: PathText = Field(description="the file or folder, as it was given")
    error: Fault = Field(description="why it failed")
