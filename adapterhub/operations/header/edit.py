"""`metadata`: the text fields of a safetensors file, shown, changed, cleaned and checked; its tensors are never touched."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adapterhub import files
from adapterhub.documents import Problem
from adapterhub.documents.header import Cleaning, FieldChange, FileStamp, HeaderMetadata, Redaction
from adapterhub.errors import UsageError
from adapterhub.files.beside import read_text
from adapterhub.files.header import HeaderText, read_header, with_metadata
from adapterhub.files.header_editing import Edit, edit_header
from adapterhub.files.journal import journal_of
from adapterhub.files.limits import LIMITS
from adapterhub.files.safetensors import PREFIX
from adapterhub.metadata import HASHED
from adapterhub.operations.header import thumbnail as pictures
from adapterhub.operations.header.cleaning import cleaned
from adapterhub.operations.header.lint import Facts, linted
from adapterhub.operations.problems import warning
from adapterhub.operations.recipe import FIELD as RECIPE

_LEGACY = "sshs_legacy_hash"
"""Kohya's older hash, of bytes that the `ss_*` fields push to and fro: untrue once one of them changes."""
_KEPT = {
    **dict.fromkeys((*sorted(HASHED), _LEGACY), "it is a hash of the file, and true as it is"),
    RECIPE: "it says how the file was made",
}
"""Fields that are not set by hand, and why."""


@dataclass(frozen=True)
class Wish:
    """How the fields are to be changed."""

    set: Mapping[str, str]
    unset: Sequence[str]
    clean_private: bool
    thumbnail: str | None

    def __bool__(self) -> bool:
        return bool(self.set or self.unset or self.clean_private or self.thumbnail)


@dataclass(frozen=True)
class Changed:
    """Fields that were changed, why, and what was private."""

    fields: Mapping[str, str]
    reasons: Mapping[str, str]
    findings: list[Redaction]


def metadata(
    path: Path | str,
    *,
    set: Mapping[str, str | Path] | None = None,  # noqa: A002 (--set)
    unset: Sequence[str] = (),
    clean_private: bool = False,
    lint: bool = False,
    hash: bool = False,  # noqa: A002 (--hash)
    thumbnail: Path | str | None = None,
    thumbnail_to: Path | str | None = None,
    dry_run: bool = False,
    force: bool = False,
) -> HeaderMetadata:
    """The text fields of the safetensors file at `path`, after they were changed.

    `set` gives fields their texts, or the files to take them from; `unset` takes some away, `clean_private` whatever tells about the
    machine or the person. `thumbnail` is a picture to put in, `thumbnail_to` a file to take it out to. `lint` holds the
    fields against ModelSpec's rules, with `hash` their hashes against the data, which is read for that.

    Where there is room, only the header is overwritten, in place: all links show it. Otherwise the file is written anew.
    """
    source = Path(path)
    wish = _wish(set or {}, unset, clean_private, thumbnail)
    if thumbnail_to is not None:
        target = Path(thumbnail_to)
        pictures.extract(source, wish.thumbnail or _told(source).metadata.get(pictures.FIELD), target, force=force)
    done, changed = _carried_out(source, wish, dry_run)
    told: dict[str, Any] = {"path": str(path), "extracted": None if thumbnail_to is None else str(thumbnail_to)}
    if clean_private:
        told["cleaning"] = Cleaning(findings=changed.findings)
    if lint:
        found = linted(changed.fields, _facts(source, hashed=hash))
        told |= {"valid": all(problem.severity != "error" for problem in found)}
        done["problems"] += found
    return HeaderMetadata(**done, **told, fields=dict(changed.fields), changes=_changes(changed))


def _wish(
    given: Mapping[str, str | Path], unset: Sequence[str], clean_private: bool, thumbnail: Path | str | None
) -> Wish:
    texts = {field: read_text(text, LIMITS) if isinstance(text, Path) else text for field, text in given.items()}
    for field, text in texts.items():
        if field in _KEPT:
            raise UsageError(f"{field} is not set by hand: {_KEPT[field]}", mend="--unset takes it away.")
        if not field:
            raise UsageError("a field without a name", mend="Give --set NAME=TEXT.")
        if not f"{field}{text}".isprintable():
            _require_unicode(field, text)
    if both := texts.keys() & {*unset}:
        raise UsageError(f"{min(both)} is to be set and taken away", mend="Give one of them.")
    if thumbnail is not None and pictures.FIELD in {*texts, *unset}:
        raise UsageError(f"{pictures.FIELD} is given twice", mend="Give --thumbnail alone.")
    return Wish(texts, unset, clean_private, None if thumbnail is None else pictures.rendered(Path(thumbnail)))


def _require_unicode(field: str, text: str) -> None:
    try:
        f"{field}{text}".encode()
    except UnicodeEncodeError:
        raise UsageError(f"{field!a} is to be set to what is no UTF-8", mend="Give it as UTF-8.") from None


def _told(path: Path) -> HeaderText:
    """The header; an edit of it that was cut off is finished first."""
    return edit_header(path, dict).new if os.path.lexists(journal_of(path)) else read_header(path)


def _carried_out(path: Path, wish: Wish, dry_run: bool) -> tuple[dict[str, Any], Changed]:
    """What is said of the file, and its fields."""
    if not wish or dry_run:
        return _forecast(_told(path), wish)
    made: list[Changed] = []

    def change(fields: Mapping[str, str]) -> Mapping[str, str]:
        made.append(changed(path, fields, wish))
        return made[-1].fields

    done = edit_header(path, change)
    told = _of(done.new, done.new.metadata)
    told |= {"finished": done.finished}
    if done.in_place is not None:
        told |= {"written": "in-place" if done.in_place else "rewritten", "before": FileStamp(**asdict(done.was)),
                 "after": FileStamp(**asdict(done.now))}  # fmt: skip
        told["problems"] += _links(done)
    return told, made[-1]


def _forecast(old: HeaderText, wish: Wish) -> tuple[dict[str, Any], Changed]:
    told = _of(old, old.metadata)
    if not wish:
        return told, Changed(old.metadata, {}, [])
    change = changed(old.path, old.metadata, wish)
    told = _of(old, change.fields) | {"dry_run": True}
    if change.fields != old.metadata:
        whole, fits = with_metadata(old, change.fields)
        header = len(whole) - PREFIX
        told |= {"written": "in-place" if fits else "rewritten", "header": header,
                 "spare": len(whole) - len(whole.rstrip(b" ")), "size": PREFIX + header + old.data_size}  # fmt: skip
    return told, change


def _of(header: HeaderText, fields: Mapping[str, str]) -> dict[str, Any]:
    told: dict[str, Any] = {"size": header.size, "header": len(header.raw), "spare": header.spare}
    told["problems"] = [
        Problem(severity="warning", code=one.code, where=one.where, message=one.message)
        for one in header.header.problems
    ]
    try:
        told["thumbnail"] = pictures.picture(fields[pictures.FIELD]).told if pictures.FIELD in fields else None
    except ValueError as error:
        told["problems"].append(warning("thumbnail", pictures.FIELD, f"is {error}"))
    return told


def changed(path: Path, fields: Mapping[str, str], wish: Wish) -> Changed:
    """The fields as they are wished for. UsageError for one that is to go and is not there."""
    if missing := [field for field in wish.unset if field not in fields]:
        raise UsageError(f"{path} has no field {missing[0]}", mend="adapterhub metadata lists those that it has.")
    now = {field: text for field, text in fields.items() if field not in wish.unset} | dict(wish.set)
    if wish.thumbnail is not None:
        now[pictures.FIELD] = wish.thumbnail
    reasons = dict.fromkeys(_different(fields, now), "asked")
    if wish.thumbnail is not None and pictures.FIELD in reasons:
        reasons[pictures.FIELD] = "thumbnail"
    findings: list[Redaction] = []
    if wish.clean_private:
        clean, findings = cleaned(now)
        reasons |= dict.fromkeys(_different(now, clean), "private")
        now = clean
    if _LEGACY in now and any(field.startswith("ss_") for field in reasons):
        del now[_LEGACY]
        reasons[_LEGACY] = "untrue"
    return Changed(now, {field: why for field, why in reasons.items() if fields.get(field) != now.get(field)}, findings)


def _different(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    return [field for field in {**one, **other} if one.get(field) != other.get(field)]


def _changes(changed: Changed) -> list[FieldChange]:
    return [
        FieldChange.model_validate(
            {"field": field, "action": "set" if field in changed.fields else "unset", "reason": reason}
        )
        for field, reason in changed.reasons.items()
    ]


def _links(done: Edit) -> list[Problem]:
    """What became of other names of the same file."""
    if done.links < 2:
        return []
    became = "show the change too" if done.in_place else "keep the file as it was"
    return [warning("hard-links", "", f"the file has {done.links} names; the others {became}")]


def _facts(path: Path, *, hashed: bool) -> Facts:
    from adapterhub.operations.inspect import inspect

    found = inspect(path)
    ranks = () if "lokr" in found.algorithms else map(int, filter(str.isdigit, found.ranks))  # whole factors have none
    return Facts(found.kind, found.architecture, frozenset(ranks), files.data_sha256(path) if hashed else None)
