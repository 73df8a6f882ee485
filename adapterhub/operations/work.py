"""What a kind of adapter has to answer for the commands: `operations/KIND/work.py`, imported when a file of it is met."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypedDict, cast

from adapterhub.adapter import Adapter, Kind, Module
from adapterhub.documents import LedgerEntry, Problem
from adapterhub.files import Package
from adapterhub.layouts.base import Encoded, Form, Layout, Reading
from adapterhub.layouts.identity import Identity

if TYPE_CHECKING:
    from adapterhub.operations.base import Base
    from adapterhub.operations.source import Source


NOT_ASKED_FOR = "only the embeddings were asked for"
UNWANTED = "another component was asked for"
PRUNED = "a leftover of training, pruned"
AVERAGED = "its moving average was asked for"
OTHER_VAE = "another VAE was given"
MADE_ANEW = "every reader makes it anew"
UNCHECKED = "a safety checker makes no images, and no single file has one"
BESIDE = "it stands beside the weights, where no program looks for any"
SAME_IN_BOTH = "the same in both models"
SAME_ROUNDED = "the same in both models but for rounding"
NOT_EXTRACTED = "no part of the difference that was asked for"
NO_LOSS = frozenset(
    {
        NOT_ASKED_FOR,
        UNWANTED,
        PRUNED,
        AVERAGED,
        OTHER_VAE,
        MADE_ANEW,
        UNCHECKED,
        BESIDE,
        SAME_IN_BOTH,
        SAME_ROUNDED,
        NOT_EXTRACTED,
    }
)
"""Why a tensor is dropped that nobody will miss."""
SAME_IDS = "to I64: the same position ids 0, 1, 2 …"
"""Why something was cast that is the same numbers."""


@dataclass(frozen=True)
class WholeOptions:
    """What can be asked for of a whole model."""

    prune: bool = False
    """Leave out what only training needs: moving averages, optimizer, schedule."""
    ema: bool = False
    """The moving averages instead of the weights."""
    vae: Path | None = None
    """A file whose VAE is to be taken."""
    vae_dtype: str | None = None
    """Another dtype for the VAE, as `dtype`."""
    only: str | None = None
    """One component alone."""
    shard_size: int | None = None
    """The most bytes of a file in a folder."""
    tokenizer: Path | None = None
    """A folder to take the tokenizers from."""
    config: Path | None = None
    """The folder of a pipeline to take configurations from."""
    verify: bool = False
    """Read every byte back and compare."""

    @property
    def changes(self) -> bool:
        """Whether something is asked for that makes sense in the model's own layout."""
        return self.ema or self.prune or bool(self.vae or self.vae_dtype or self.only or self.shard_size)


ORDINARY = WholeOptions()
"""Nothing special is asked for."""


class WholeArguments(TypedDict, total=False):
    """What `convert` takes for whole models: see WholeOptions."""

    prune: bool
    ema: bool
    vae: Path | str | None
    vae_dtype: str | None
    only: str | None
    shard_size: int | None
    tokenizer: Path | str | None
    config: Path | str | None
    verify: bool


_PATHS = frozenset({"vae", "tokenizer", "config"})


def whole_options(given: WholeArguments) -> WholeOptions:
    """The arguments with paths as such."""
    fields = {
        name: Path(value) if isinstance(value, str) and name in _PATHS else value for name, value in given.items()
    }
    return replace(ORDINARY, **fields)  # type: ignore[arg-type] # the names and types are the same


@dataclass(frozen=True)
class Request:
    """What is to be made of `source`: `layout` and `form`; `dtype` has safetensors' name; `fit` allows a least-squares fit of
    what cannot be folded.
    """

    source: Path
    layout: Layout
    form: Form
    algorithm: str | None = None
    rank: int | None = None
    dtype: str | None = None
    token: str | None = None
    fit: bool = False
    allow_loss: bool = False
    whole: WholeOptions = ORDINARY


class Cut(NamedTuple):
    """The rank that a module has now, and the relative error that this is to leave; `cancelled` is a sum of nothing but rounding."""

    rank: int
    error: float
    cancelled: bool = False

    def __str__(self) -> str:
        if self.cancelled:
            return "the sum is zero within rounding"
        return f"rank {self.rank}, relative error {self.error:.3g}"


@dataclass(frozen=True)
class Made:
    """The adapter in its new form, what it is written as, and what became of every tensor.

    `source` is what the written file is compared with, `error` the largest relative error that was made on purpose, `cuts` are
    the modules of lower rank; `told` are problems that are known when all is written, `mended` what was done to those of the source, by code.
    """

    source: Adapter
    adapter: Adapter
    encoded: Encoded
    entries: list[LedgerEntry]
    approximate: bool = False
    error: float = 0.0
    problems: list[Problem] = field(default_factory=list)
    told: Callable[[], list[Problem]] = list
    mended: Mapping[str, str] = field(default_factory=dict)
    cuts: Mapping[Module, Cut] = field(default_factory=dict)


class Work(Protocol):
    """The answers of one kind."""

    def examine(self, package: Package, identity: Identity, reading: Reading) -> tuple[dict[str, Any], list[Problem]]:
        """Fields of `inspect`, and what is wrong or odd as far as the header tells."""

    def value_faults(
        self, package: Package, identity: Identity, reading: Reading, base: Path | None
    ) -> Iterator[Problem]:
        """What is wrong with the values, or with the file on a base model; reads every tensor."""

    def make(self, opened: Source, request: Request, base: Base) -> Made:
        """Every step of a conversion, each telling the ledger."""


def of(kind: Kind) -> Work:
    """The work of a kind that has layouts."""
    return cast(Work, import_module(f"adapterhub.operations.{kind}.work"))
