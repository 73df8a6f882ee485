"""linted: the fields of a header held against ModelSpec's rules, Kohya's types, and the tensors themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import adapterhub.architectures as architectures
from adapterhub.adapter import Kind
from adapterhub.documents import Problem
from adapterhub.metadata import ENDINGS, contradictions
from adapterhub.operations.header import rules, thumbnail
from adapterhub.operations.problems import error, warning

_SET = "adapterhub metadata --set"
_MENDED = {"hash_sha256": "adapterhub convert writes it, of the data."}
_DIGEST_OF_NOTHING = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
_LARGEST = 100_000
"""Bytes of a thumbnail above which it is not "very small"."""
_DESCRIBED = {"sshs_model_hash": "", f"{rules.PREFIX}hash_sha256": "0x"}
"""The fields that hold the SHA-256 of the data, and what stands before it."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the tensors say: `digest` is the SHA-256 of the data, None where it was not computed."""

    kind: Kind
    architecture: str | None = None
    ranks: frozenset[int] = frozenset()
    digest: str | None = None


def linted(metadata: Mapping[str, str], facts: Facts) -> list[Problem]:
    """Every rule that is broken, the errors first: a MUST that is missing, a value that its readers cannot read, what the
    tensors deny. What SHOULD be there and is not, and what nobody knows, are warnings.
    """
    checks = (_presence, _formats, _names, _architecture, _picture, _hashes, _contradictions, _kohya)
    found = [problem for check in checks for problem in check(metadata, facts)]
    return sorted(found, key=lambda problem: problem.severity != "error")


def _spec(metadata: Mapping[str, str]) -> dict[str, str]:
    start = rules.PREFIX
    return {name.removeprefix(start): text for name, text in metadata.items() if name.startswith(start)}


def _presence(metadata: Mapping[str, str], facts: Facts) -> Iterator[Problem]:
    spec = _spec(metadata)
    if not spec:
        yield error("modelspec-absent", "", "no field of ModelSpec is there",
                    "adapterhub convert writes what must be there; title and author are yours to set.")  # fmt: skip
        return
    must = (*rules.MUST, *(rules.MUST_OF_A_MODEL if facts.kind is Kind.CHECKPOINT else ()))
    for name in must:
        if name not in spec:
            yield error("modelspec-missing", rules.PREFIX + name, "must be there", f"{_SET} {rules.PREFIX}{name}=…")
    for name in rules.SHOULD:
        if name not in spec:
            yield warning(
                "modelspec-advised",
                rules.PREFIX + name,
                "should be there",
                _MENDED.get(name, f"{_SET} {rules.PREFIX}{name}=…"),
            )


def _formats(metadata: Mapping[str, str], facts: Facts) -> Iterator[Problem]:
    for name, text in _spec(metadata).items():
        rule = rules.FORMATS.get(name)
        if rule is not None and (wrong := rule(text)):
            yield error(
                "modelspec-format", rules.PREFIX + name, f"{text[:80]!r} is {wrong}", f"{_SET} {rules.PREFIX}{name}=…"
            )


def _names(metadata: Mapping[str, str], facts: Facts) -> Iterator[Problem]:
    for name in _spec(metadata):
        if name in rules.OF_TEXT_MODELS:
            yield warning("modelspec-other-kind", rules.PREFIX + name, "is for models of text")
        elif name not in rules.KNOWN and not name.startswith("hash_"):
            yield warning("modelspec-unknown-field", rules.PREFIX + name, "is no field of ModelSpec 1.0.1")


def _architecture(metadata: Mapping[str, str], facts: Facts) -> Iterator[Problem]:
    """The id is a model's that is known, and ends as those of the file's kind do: Forge compares it as a whole."""
    field = f"{rules.PREFIX}architecture"
    told = metadata.get(field)
    if told is None or rules.FORMATS["architecture"](told):
        return
    base, slash, kind = told.partition("/")
    if base not in {id_ for name in architectures.NAMES for id_ in architectures.get(name).told.modelspec}:
        yield warning("modelspec-unknown-architecture", field, f"{told!r} is no architecture that is known here")
    wanted = ENDINGS.get(facts.kind)
    if wanted is not None and slash + kind != wanted:
        yield error("modelspec-kind", field, f"{told!r} ends in {slash + kind!r}, and the file is of kind {facts.kind}",
                    f"{_SET} {field}={base}{wanted}")  # fmt: skip


def _picture(metadata: Mapping[str, str], facts: Facts) -> Iterator[Problem]:
    uri = metadata.get(thumbnail.FIELD)
    if uri is None:
        return
    mend = "adapterhub metadata --thumbnail PICTURE writes one that fits."
    try:
        told = thumbnail.picture(uri).told
    except ValueError as fault:
        yield error("modelspec-thumbnail", thumbnail.FIELD, f"is {fault}", mend)
        return
    if max(told.width, told.height) > thumbnail.SIDE or told.size > _LARGEST:
        yield warning("modelspec-thumbnail-large", thumbnail.FIELD,
                      f"is of {told.width} × {told.height} pixels and {told.size} bytes", mend)  # fmt: skip


def _hashes(metadata: Mapping[str, str], facts: Facts) -> Iterator[Problem]:
    for field, start in _DESCRIBED.items():
        told = metadata.get(field)
        digits = (told or "").removeprefix("0x").lower()
        if told is None or len(digits) != 64:  # another format is said, LyCORIS' own hash cannot be checked
            continue
        mend = f"adapterhub metadata --unset {field}"
        if digits == _DIGEST_OF_NOTHING:
            yield error("untrue-hash", field, "is the hash of no bytes at all", mend)
        elif facts.digest is not None and told.startswith(start) and digits != facts.digest:
            yield error("untrue-hash", field, f"is not the hash of the data, {start}{facts.digest}", mend)


def _contradictions(metadata: Mapping[str, str], facts: Facts) -> Iterator[Problem]:
    if facts.architecture is None or facts.architecture not in architectures.NAMES:
        return
    for field, message in contradictions(metadata, set(facts.ranks), architectures.get(facts.architecture)):
        yield error("metadata-contradicts", field, message, f"{_SET} {field}=…")


def _kohya(metadata: Mapping[str, str], facts: Facts) -> Iterator[Problem]:
    for field, rule in rules.KOHYA.items():
        text = metadata.get(field)
        if text is not None and text not in rules.NOTHING and (wrong := rule(text)):
            yield warning(
                "kohya-type", field, f"{text[:80]!r} is {wrong}", "Readers expect what Kohya's scripts write there."
            )
