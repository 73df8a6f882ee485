"""The safetensors format: 8 bytes that count the header, the header in JSON, and the bytes of all tensors, seamless.

Source: https://github.com/huggingface/safetensors (README, "Format"; `Dtype` and `Metadata::validate` of 0.8).
Reading here is stricter where the reference is laxer than its own text: repeated names, white space before the header.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from adapterhub.errors import MalformedFile, UsageError
from adapterhub.files import foreign, strict_json, suspicions
from adapterhub.files.limits import FORMAT_HEADER_BYTES, Limits
from adapterhub.files.package import Problem
from adapterhub.files.plain_header import METADATA, Columns, Row, Tensors, plain
from adapterhub.tensors import DTYPE_BITS, Chunks, LazyTensor, length

PREFIX = 8
"""Bytes that hold the length of the header, little-endian."""
FIELDS = ("dtype", "shape", "data_offsets")
SPARE = 1024
"""Spaces after a header that we write, at least: room to edit metadata in place."""
_DAMAGED = "The file is damaged: get it again, or write it again with the tool that made it."
_HUGE = 1 << 63
_SPARE_VALUES = 100_000
"""Values that a header may have beside its tensors; brackets that stand in texts count too."""
_ORDER = {dtype: -place for place, dtype in enumerate(DTYPE_BITS)}


@dataclass(frozen=True, slots=True)
class Header:
    """What a header says; tensors in the order of their bytes."""

    columns: Columns
    metadata: dict[str, str]
    problems: list[Problem]

    def tensors(self, chunks: Callable[[int, int], Chunks], start: int) -> dict[str, LazyTensor]:
        """The tensors, whose bytes `chunks(start + begin, size)` stands for."""
        return {
            name: LazyTensor(dtype, shape, chunks(start + begin, end - begin))
            for begin, end, name, dtype, shape in zip(*self.columns, strict=True)
        }


def header_length(head: bytes, size: int, path: Path | str, limits: Limits) -> int:
    """How long the header is, of a file of `size` bytes that begins with `head` (SNIFFED bytes, or all there are)."""
    count = int.from_bytes(head[:PREFIX], "little")
    if size < PREFIX or not 0 < count <= min(size - PREFIX, FORMAT_HEADER_BYTES):
        _refuse_head(head, size, count, path)
    if count > limits.header:
        raise MalformedFile(
            path, "header-too-large", f"a header of {count} bytes, above the limit of {limits.header}",
            mend="If you trust the file, raise the limit for this run.",
        )  # fmt: skip
    return count


def parse_header(raw: bytes, data_size: int, path: Path | str, limits: Limits) -> Header:
    """The header `raw`, before `data_size` bytes of tensors. MalformedFile where it breaks a rule."""
    text = _text(raw, path)
    found = plain(text, limits)
    if found is not None:
        with suppress(MalformedFile):  # which rule was broken is said by everything that stands there
            return _header(*found, data_size, path, limits)
    return _header(None, text, data_size, path, limits)


def _header(known: Tensors | None, text: str, data_size: int, path: Path | str, limits: Limits) -> Header:
    """The header of which `known` have been read and `text` is left."""
    problems: list[Problem] = []
    unknown: list[str] = []
    try:
        _require_few(text, len(known.columns.names) if known else 0, path, limits)
        document = strict_json.unique(_pairs(text, path, problems))
        metadata = _metadata(document.pop(METADATA, ()), path, limits, problems)
        if len(document) > (0 if known else limits.tensors):  # only metadata stands beside what is known
            _refuse(path, "too-many-tensors", f"{len(document)} tensors, above the limit of {limits.tensors}")
        columns = known.columns if known else Columns.of(_rows(document, path, limits, unknown))
        if known is None:
            strict_json.require_unique(columns.names)
    except strict_json.RepeatedName as error:
        _refuse(path, "duplicate-name", f"{shown(error.name)} stands twice in the header")
    except RecursionError:
        _refuse(path, "header-not-json", "the header is nested too deeply")
    if known is None or known.size != data_size:
        columns = _seamless(columns, data_size, path)
    if unknown:
        message = f"fields that safetensors does not know: {', '.join(unknown[:8])}"
        problems.append(Problem("warning", "unknown-field", "header", message))
    problems += known.odd if known else suspicions.of_names(columns.names)
    problems += suspicions.of_metadata(metadata)
    return Header(columns, metadata, problems)


def in_order(tensors: Mapping[str, LazyTensor]) -> list[tuple[str, LazyTensor]]:
    """Tensors as safetensors writes them: dtypes from the widest down, then names. UsageError for a dtype it lacks."""
    if strays := [name for name, tensor in tensors.items() if tensor.dtype not in _ORDER]:
        raise UsageError(
            f"safetensors has no {tensors[strays[0]].dtype}, which {len(strays)} tensors have: {shown(strays[0])}",
            mend="Write a file of torch, or give these tensors another dtype first.",
        )
    return sorted(tensors.items(), key=lambda item: (_ORDER[item[1].dtype], item[0]))


def render_header(tensors: Iterable[tuple[str, LazyTensor]], metadata: Mapping[str, str]) -> bytes:
    """Length and header for `tensors` in the order of their bytes: compact, metadata first and sorted, padded.

    Spaces follow, at least SPARE of them, up to a multiple of 8 bytes. ValueError for what the format cannot hold.
    """
    document: dict[str, Any] = {METADATA: dict(sorted(metadata.items()))} if metadata else {}
    if not all(isinstance(text, str) for text in metadata.values()):
        raise ValueError("safetensors metadata holds strings only")
    end = 0
    for name, tensor in tensors:
        if name == METADATA:
            raise ValueError(f"no tensor can be named {METADATA}")
        begin, end = end, end + length(tensor.dtype, tensor.shape)
        document[name] = dict(zip(FIELDS, (tensor.dtype, list(tensor.shape), [begin, end]), strict=True))
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    count = -(-(len(text) + SPARE) // 8) * 8
    if count > FORMAT_HEADER_BYTES:
        raise ValueError(f"a header of {count} bytes, above the format's {FORMAT_HEADER_BYTES}")
    return count.to_bytes(PREFIX, "little") + text.ljust(count)


def shown(name: str) -> str:
    """A name from a file, escaped and cut for a message."""
    return ascii(name if len(name) <= 120 else f"{name[:120]}…")


def _refuse(path: Path | str, rule: str, message: str, mend: str = _DAMAGED) -> NoReturn:
    raise MalformedFile(path, rule, message, mend=mend)


def _refuse_head(head: bytes, size: int, count: int, path: Path | str) -> NoReturn:
    if not size:
        _refuse(path, "empty", "the file is empty", "Get it again.")
    if kind := foreign.recognise(head):
        _refuse(path, kind.rule, kind.message, kind.mend)
    if size < PREFIX:
        _refuse(path, "too-short", f"{size} bytes; a safetensors file has at least 8")
    if count > FORMAT_HEADER_BYTES and head[PREFIX : PREFIX + 1] != b"{":
        _refuse(path, "header-length", "no file of a kind that is known here", "Give a file of a model or an adapter.")
    if count > FORMAT_HEADER_BYTES:
        _refuse(path, "header-length", f"no safetensors file: a header of {count} bytes, above the format's 100 MB")
    if count:
        _refuse(path, "header-cut", f"the header has {count} bytes, and the file only {size - PREFIX} after its length")
    _refuse(path, "header-length", "the header has 0 bytes")


def _text(raw: bytes, path: Path | str) -> str:
    if raw[:1] != b"{":
        _refuse(path, "header-start", f"the header begins with {raw[:4]!r}, not with {{")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        _refuse(path, "header-not-utf8", f"the header is not UTF-8 at byte {PREFIX + error.start}")


def _require_few(text: str, known: int, path: Path | str, limits: Limits) -> None:
    """Refuses a header that could make many more objects, lists and texts than tensors do: 3 and 5 for each, and `known`
    have been read already.
    """
    if len(text) + 10 * known <= _SPARE_VALUES:  # no more of anything than characters
        return
    if text.count("[") + text.count("{") + 3 * known > 4 * limits.tensors + _SPARE_VALUES:
        _refuse(path, "header-values", f"more lists and objects than {limits.tensors} tensors need")
    if text.count('"') - text.count(r"\"") + text.count(r'\\"') + 10 * known > 10 * limits.tensors + _SPARE_VALUES:
        _refuse(path, "header-values", f"more texts than {limits.tensors} tensors need")


def _pairs(text: str, path: Path | str, problems: list[Problem]) -> tuple[tuple[str, Any], ...]:
    pairs: tuple[tuple[str, Any], ...]
    try:
        pairs, end = strict_json.header(text)
    except ValueError as error:
        _refuse(path, "header-not-json", f"the header is not JSON of integers and strings: {error}")
    if rest := text[end:].strip(" "):
        if rest.strip(" \t\n\r"):
            _refuse(path, "header-trailing", f"{shown(rest[:40])} follows the header's JSON")
        problems.append(Problem("warning", "odd-padding", "header", "the header is padded by other than spaces"))
    if r"\u" in text:
        _require_unicode(pairs, path)
    return pairs


def _require_unicode(pairs: Any, path: Path | str) -> None:
    try:
        strict_json.require_unicode(pairs)
    except UnicodeEncodeError as error:
        _refuse(path, "lone-surrogate", f"{error.object[error.start]!a} stands alone: half a character")


def _metadata(value: Any, path: Path | str, limits: Limits, problems: list[Problem]) -> dict[str, str]:
    if value is None:
        problems.append(Problem("warning", "metadata-null", METADATA, "the metadata is null instead of absent"))
        return {}
    if not isinstance(value, tuple):
        _refuse(path, "metadata", f"{METADATA} is no object")
    metadata = strict_json.unique(value)
    if bad := [shown(key) for key, text in metadata.items() if not isinstance(text, str)]:
        _refuse(path, "metadata", f"metadata fields that are no strings: {', '.join(bad[:8])}")
    if sum(map(len, metadata)) + sum(map(len, metadata.values())) > limits.metadata:
        _refuse(path, "metadata-too-large", f"more than {limits.metadata} characters of metadata")
    return metadata


def _rows(document: dict[str, Any], path: Path | str, limits: Limits, unknown: list[str]) -> list[Row]:
    """One pass over all entries; a reader's time goes here, so what is wrong with an entry is asked afterwards."""
    rows: list[Row] = []
    bits_of, most_axes = DTYPE_BITS, limits.rank
    for name, entry in document.items():
        try:
            pairs = entry if entry.__class__ is tuple and len(entry) == 3 else _in_order(entry, name, unknown)
            (first, dtype), (second, shape), (third, offsets) = pairs
            if first != "dtype" or second != "shape" or third != "data_offsets":
                (_, dtype), (_, shape), (_, offsets) = _in_order(entry, name, unknown)
            begin, end = offsets
            bits = bits_of[dtype]
            if shape.__class__ is not list or len(shape) > most_axes:
                raise ValueError
            for extent in shape:
                if extent.__class__ is not int or extent < 0:
                    raise ValueError
                bits *= extent
            if bits != (end - begin) * 8 or begin.__class__ is not int or end.__class__ is not int:
                raise ValueError
            if not bits and _overflows(dtype, shape):
                raise ValueError
        except (TypeError, ValueError, KeyError) as error:
            _refuse_entry(name, entry, path, limits, error)
        rows.append((begin, end, name, dtype, tuple(shape)))
    return rows


def _in_order(entry: Any, name: str, unknown: list[str]) -> list[tuple[str, Any]]:
    """The three fields of an entry, which may stand in any order, with others; these are noted in `unknown`."""
    if not isinstance(entry, tuple):
        raise TypeError
    fields = strict_json.plain(entry)
    unknown += [f"{shown(field)} of {shown(name)}" for field in fields if field not in FIELDS]
    return [(field, fields[field]) for field in FIELDS]


def _overflows(dtype: str, shape: list[int]) -> bool:
    """Whether a size is beyond what a machine counts with, even if a 0 among the axes makes it 0."""
    return DTYPE_BITS[dtype] * math.prod(filter(None, shape)) >= _HUGE


def _refuse_entry(name: str, entry: Any, path: Path | str, limits: Limits, error: Exception) -> NoReturn:
    """Says what is wrong with an entry that the fast pass did not accept."""
    if isinstance(error, strict_json.RepeatedName):
        _refuse(path, "duplicate-name", f"{shown(error.name)} stands twice in {shown(name)}")
    where = f"tensor {shown(name)}"
    if not isinstance(entry, tuple):
        _refuse(path, "entry", f"{where} is no object")
    fields = dict(entry)
    if missing := [field for field in FIELDS if field not in fields]:
        _refuse(path, "entry", f"{where} has no {', '.join(missing)}")
    dtype, shape, offsets = (fields[field] for field in FIELDS)
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        _refuse(path, "unknown-dtype", f"{where} has the dtype {shown(str(dtype))}", "Known: " + ", ".join(DTYPE_BITS))
    if not _integers(shape):
        _refuse(path, "shape", f"{where} has a shape that is no list of integers from 0 to 2⁶³")
    if len(shape) > limits.rank:
        _refuse(path, "rank", f"{where} has {len(shape)} axes, above the limit of {limits.rank}")
    if _overflows(dtype, shape):
        _refuse(path, "shape", f"{where} has a shape {shape} whose size overflows")
    if not _integers(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        _refuse(path, "offsets", f"{where} has data_offsets that are no two integers in order")
    bits = math.prod(shape) * DTYPE_BITS[dtype]
    if bits % 8:
        _refuse(path, "packed", f"{where}: {dtype} of shape {shape} ends inside a byte")
    _refuse(path, "length", f"{where}: {dtype} of shape {shape} takes {bits // 8} bytes, not {offsets[1] - offsets[0]}")


def _integers(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < _HUGE for item in value)


def _seamless(columns: Columns, data_size: int, path: Path | str) -> Columns:
    """The tensors in the order of their bytes, which follow each other from the first of the data to the last."""
    if columns.begins != [0, *columns.ends][: len(columns.names)]:
        columns = Columns.of(sorted(zip(*columns, strict=True)))
    ends = [0, *columns.ends]
    for begin, end, name in zip(columns.begins, ends, columns.names, strict=False):
        if begin != end:
            rule = "hole" if begin > end else "overlap"
            _refuse(path, rule, f"tensor {shown(name)} begins at byte {begin} of the data, not at {end}: a {rule}")
    if ends[-1] != data_size:
        which = "missing" if ends[-1] > data_size else "too many"
        _refuse(path, "data-size", f"{data_size} bytes of data, not {ends[-1]}: {abs(ends[-1] - data_size)} {which}")
    return columns
