"""What a kind of adapter has to answer for the commands: `operations/KIND/work.py`, imported when a file of it is met."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from adapterhub.adapter import Adapter, Kind
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
NO_LOSS = frozenset({NOT_ASKED_FOR, UNWANTED, PRUNED, AVERAGED, OTHER_VAE, MADE_ANEW})
"""Why a tensor is dropped that nobody will miss: that was asked for."""


@dataclass(frozen=True)
class WholeOptions:
    """What can be asked for of a whole model: the moving averages instead of the weights, no leftovers of training, the VAE
    of another file, its dtype, one component only, shards of so many bytes, tokenizers and configurations from folders.
    """

    ema: bool = False
    prune: bool = False
    vae: Path | None = None
    vae_dtype: str | None = None
    only: str | None = None
    shard_size: int | None = None
    tokenizer: Path | None = None
    config: Path | None = None
    verify: bool = False


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
    whole: WholeOptions = WholeOptions()


@dataclass(frozen=True)
class Made:
    """The adapter in its new form, what it is written as, and what became of every tensor.

    `source` is what the written file is compared with, `error` the largest relative error that was made on purpose;
    `told` are problems that are known when all is written.
    """

    source: Adapter
    adapter: Adapter
    encoded: Encoded
    entries: list[LedgerEntry]
    approximate: bool = False
    error: float = 0.0
    problems: list[Problem] = field(default_factory=list)
    told: Callable[[], list[Problem]] = list


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
