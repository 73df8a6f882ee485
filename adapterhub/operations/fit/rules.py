"""The rules of the readers, as `readers.toml` has them."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from adapterhub.documents.compatibility import Effect
from adapterhub.operations.fit.facts import Facts, Piece

_FILE = Path(__file__).with_name("readers.toml")
Words = frozenset[str]
_ANY: Words = frozenset()


@dataclass(frozen=True)
class Reader:
    """One program: the `layouts` of each kind that it knows, the odd `spellings` of modules that it reads, and what becomes of
    the rest. `most_unread` is the number of unread keys above which it loads nothing.
    """

    name: str
    title: str
    layouts: Mapping[str, Words]
    spellings: Words
    otherwise: Effect
    message: str
    most_unread: int | None


@dataclass(frozen=True)
class Condition:
    """Holds for a module that has one of the `algorithms` and `components`, all of `marks`, none of `lacks`, and a path that
    `path` matches whole; what is empty is not asked.
    """

    algorithms: Words = _ANY
    components: Words = _ANY
    marks: Words = _ANY
    lacks: Words = _ANY
    path: re.Pattern[str] | None = None

    def holds(self, piece: Piece) -> bool:
        """Whether it holds, as far as that is known: of modules without a path nothing is said by path or by lack."""
        return (
            _allows(self.algorithms, piece.algorithm)
            and _allows(self.components, piece.component)
            and self.marks <= piece.marks
            and (not self.lacks or (bool(piece.path) and self.lacks.isdisjoint(piece.marks)))
            and (self.path is None or (bool(piece.path) and self.path.fullmatch(piece.path) is not None))
        )


@dataclass(frozen=True)
class Rule:
    """One row: what `readers` do with the modules of files of a `kind`, of one of the `layouts` and `architectures`, for which
    `condition` holds. Where any module fulfils one of `unless`, the rule does not apply to the file. `unread` keys of each
    module are left, though it is applied.
    """

    code: str
    effect: Effect
    message: str
    mend: str = ""
    kind: str = ""
    readers: Words = _ANY
    layouts: Words = _ANY
    architectures: Words = _ANY
    condition: Condition = field(default_factory=Condition)
    unless: tuple[Condition, ...] = ()
    unread: int = 0

    def concerns(self, reader: Reader, facts: Facts) -> bool:
        """Whether the rule is about such files at all."""
        return (
            reader.name in self.readers
            and self.kind == facts.kind
            and _allows(self.layouts, facts.layout)
            and _allows(self.architectures, facts.architecture)
            and not (self.unless and self._is_excused(facts))
        )

    @property
    def whole(self) -> bool:
        """Whether it is about all files of its layouts, whatever is in them."""
        return bool(self.layouts) and self.condition == Condition()

    @property
    def names_known(self) -> bool:
        """Whether the reader knows the modules, but not what is in them: then it reads their alphas all the same."""
        return bool(self.condition.algorithms or self.condition.marks)

    def _is_excused(self, facts: Facts) -> bool:
        return any(not piece.path or any(one.holds(piece) for one in self.unless) for piece in facts.pieces)


def _allows(wanted: Words, found: str | None) -> bool:
    return not wanted or found in wanted


@dataclass(frozen=True)
class Table:
    """All readers and rules, in the order in which they are asked, and the commands that mend, from the lightest."""

    readers: tuple[Reader, ...]
    rules: tuple[Rule, ...]
    mends: Mapping[str, str]


@cache
def table() -> Table:
    """The table of the package."""
    told = tomllib.loads(_FILE.read_text("utf-8"))
    readers = tuple(_reader(name, row) for name, row in told["readers"].items())
    return Table(readers, tuple(map(_rule, told["rules"])), told["mends"])


def _reader(name: str, row: Mapping[str, Any]) -> Reader:
    layouts = {kind: frozenset(names.split()) for kind, names in row["layouts"].items()}
    return Reader(name, row["title"], layouts, _words(row, "spellings"), row["otherwise"], row["message"],
                  row.get("most_unread"))  # fmt: skip


def _rule(row: Mapping[str, Any]) -> Rule:
    return Rule(
        row["code"], row["effect"], row["message"], row["mend"], row["kind"], _words(row, "readers"), _words(row, "layouts"),
        _words(row, "architectures"), _condition(row), tuple(map(_condition, row.get("unless", ()))), row.get("unread", 0),
    )  # fmt: skip


def _condition(row: Mapping[str, Any]) -> Condition:
    path = re.compile(row["path"]) if "path" in row else None
    return Condition(
        _words(row, "algorithms"), _words(row, "components"), _words(row, "marks"), _words(row, "lacks"), path
    )


def _words(row: Mapping[str, Any], name: str) -> Words:
    return frozenset(row.get(name, "").split())
