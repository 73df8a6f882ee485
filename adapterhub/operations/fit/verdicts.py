"""What each reader makes of a file, by its facts alone: a pure function, asked of thousands of records."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import adapterhub.layouts as layouts
from adapterhub.adapter import Kind
from adapterhub.documents.compatibility import Effect, Reason, Status, Verdict
from adapterhub.metadata import utf8
from adapterhub.operations.fit.facts import UNKNOWN, Facts, Piece
from adapterhub.operations.fit.rules import Reader, Rule, table

RENAMED = "renamed"
"""The mark of modules in a file that is not made yet."""
_EXAMPLES = 3
_SEVERITY: tuple[Effect, ...] = ("refused", "ignored", "misread")


@dataclass(frozen=True)
class Names:
    """What the commands that mend call the file and the model."""

    file: str = "FILE"
    base: str = "CKPT"


@dataclass
class _Tally:
    """The modules that one rule concerns."""

    rule: Rule
    pieces: list[Piece] = field(default_factory=list)

    @property
    def modules(self) -> int:
        return sum(piece.number for piece in self.pieces)


def readers(facts: Facts, names: Names = Names()) -> list[Verdict]:
    """What every reader makes of a file of these facts."""
    return [_verdict(reader, facts, names) for reader in table().readers]


def _verdict(reader: Reader, facts: Facts, names: Names) -> Verdict:
    tallies = _whole(reader, facts) or _by_module(reader, facts)
    tallies = sorted([*tallies, *_too_many_unread(reader, facts, tallies)],
                     key=lambda tally: _SEVERITY.index(tally.rule.effect))  # fmt: skip
    effects = {tally.rule.effect for tally in tallies}
    ignored = sum(tally.modules for tally in tallies if tally.rule.effect == "ignored")
    applied = 0 if "refused" in effects else facts.modules - ignored
    return Verdict(
        reader=reader.name, title=reader.title, status=_status(effects, applied), applied=applied,
        modules=facts.modules, reasons=[_reason(tally, reader, facts, names) for tally in tallies],
        mend=_command(_mend(reader, facts, tallies), reader, facts, names),
    )  # fmt: skip


def _mend(reader: Reader, facts: Facts, tallies: Iterable[_Tally]) -> str:
    """The heaviest that any reason calls for; none where one refuses for good. What is only to be renamed must also suit the
    reader in its own layout.
    """
    if any(tally.rule.effect == "refused" and not tally.rule.mend for tally in tallies):
        return ""
    mend = _heaviest(tallies)
    if mend != "for":
        return mend
    target, *_ = layouts.for_tool(reader.name, facts.kind)
    renamed = tuple(piece._replace(marks=piece.marks | {RENAMED}) for piece in facts.pieces)
    return max(mend, _heaviest(_by_module(reader, replace(facts, layout=target.name, pieces=renamed))), key=_weight)


def _heaviest(tallies: Iterable[_Tally]) -> str:
    return max((tally.rule.mend for tally in tallies), key=_weight, default="")


def _weight(mend: str) -> int:
    return ["", *table().mends].index(mend)


def _status(effects: set[Effect], applied: int) -> Status:
    if "ignored" in effects and "refused" not in effects:
        return "partly" if applied else "ignored"
    return next((effect for effect in _SEVERITY if effect in effects), "loads")


def _whole(reader: Reader, facts: Facts) -> list[_Tally]:
    """The reason why a reader has no use for any such file; none where its layout is one that it knows."""
    known = reader.layouts.get(facts.kind, frozenset())
    if facts.layout in known:
        return []
    if not known:
        elsewhere = _ELSEWHERE.get((facts.kind, reader.name), "")
        return [_Tally(Rule("kind", reader.otherwise, f"has no {facts.kind}s", elsewhere), [*facts.pieces])]
    mend = "for" if facts.architecture or facts.kind is Kind.HYPERNETWORK else ""
    layout = Rule("layout", reader.otherwise, reader.message, mend)
    return [_Tally(next((rule for rule in _concerning(reader, facts) if rule.whole), layout), [*facts.pieces])]


_ELSEWHERE = {
    (Kind.HYPERNETWORK, "forge"): "fold", (Kind.HYPERNETWORK, "invokeai"): "fold", (Kind.HYPERNETWORK, "diffusers"): "attach",
}  # fmt: skip
"""What to do with a kind that a reader has not."""
_ODD = "does not know this spelling of its names"


def _concerning(reader: Reader, facts: Facts) -> list[Rule]:
    return [rule for rule in table().rules if rule.concerns(reader, facts)]


def _by_module(reader: Reader, facts: Facts) -> list[_Tally]:
    """Every reason, module by module."""
    rules, odd = _concerning(reader, facts), Rule("odd-spelling", reader.otherwise, _ODD, "for")
    tallies: dict[int, _Tally] = {}
    for piece in facts.pieces:
        for rule in _reasons(rules, piece) if _is_spelled(reader, piece) else [odd]:
            tallies.setdefault(id(rule), _Tally(rule)).pieces.append(piece)
    return list(tallies.values())


def _reasons(rules: Iterable[Rule], piece: Piece) -> list[Rule]:
    """The first rule that loses the module, else all that misread it."""
    found = [rule for rule in rules if rule.condition.holds(piece)]
    return [rule for rule in found if rule.effect != "misread"][:1] or found


def _is_spelled(reader: Reader, piece: Piece) -> bool:
    return {mark.removeprefix("odd:") for mark in piece.marks if mark.startswith("odd:")} <= reader.spellings


def _too_many_unread(reader: Reader, facts: Facts, tallies: Iterable[_Tally]) -> list[_Tally]:
    """Forge loads nothing of a file of which it does not know more than a dozen keys."""
    if reader.most_unread is None or facts.layout not in reader.layouts.get(facts.kind, ()):
        return []
    unread = sum(_unread(tally.rule, piece) for tally in tallies for piece in tally.pieces)
    if unread <= reader.most_unread:
        return []
    message = f"loads nothing of a file of which it does not know more than {reader.most_unread} keys; here {unread}"
    return [_Tally(Rule("too-many-unread", "refused", message, "for"), [*facts.pieces])]


def _unread(rule: Rule, piece: Piece) -> int:
    if rule.effect == "misread":
        return rule.unread
    return piece.keys - (rule.names_known and "alpha-missing" not in piece.marks)


def _reason(tally: _Tally, reader: Reader, facts: Facts, names: Names) -> Reason:
    return Reason(
        code=tally.rule.code, effect=tally.rule.effect, message=tally.rule.message, modules=tally.modules,
        examples=[piece.name for piece in tally.pieces[:_EXAMPLES] if piece.path or piece.algorithm == UNKNOWN],
        mend=_command(tally.rule.mend, reader, facts, names),
    )  # fmt: skip


def _command(mend: str, reader: Reader, facts: Facts, names: Names) -> str | None:
    if not mend:
        return None
    target = f"{Path(names.file).stem}-{reader.name}{_suffix(reader, facts)}"
    paths = {"file": names.file, "base": names.base, "target": target}
    return table().mends[mend].format(reader=reader.name, **{name: _quoted(path) for name, path in paths.items()})


def _quoted(path: str) -> str:
    """A path as a shell must be given it; none is taken for an option. Bytes that are no UTF-8 are shown as escapes."""
    text = utf8(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def _suffix(reader: Reader, facts: Facts) -> str:
    """How the file ends that a reader wants; a folder's name as it is written."""
    if facts.kind is Kind.EMBEDDING:
        apart = reader.name == "diffusers" and len({piece.component for piece in facts.pieces}) > 1
        several = any("several-tokens" in piece.marks for piece in facts.pieces)
        return "/" if apart or several else ".safetensors"
    tools = layouts.TOOLS.get(facts.kind, {})
    if reader.name not in tools:
        return ".safetensors"
    wanted, *_ = layouts.for_tool(reader.name, facts.kind)
    return next(iter(wanted.containers), "")
