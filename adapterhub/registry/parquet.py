"""Records as a Parquet table: the columns of a record; what is a list or has parts is JSON in a column."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, BinaryIO

from adapterhub.errors import UsageError

TEXTS = ("path", "name", "application", "kind", "container", "layout", "architecture", "variant", "modified", "added", "missing",
         "refused", "reason", "sha256", "fingerprint", "sketch")  # fmt: skip
NUMBERS = ("id", "rank", "tensors", "parameters", "size", "vectors")
LISTS = ("words", "tags")
PARTS = ("algorithms", "components", "ranks", "dtypes", "tokens", "problems", "files", "facts", "metadata")
"""Columns of JSON."""
_AT_ONCE = 1_000
"""Rows of a row group, which is what is in memory."""


def write(out: BinaryIO, records: Iterable[dict[str, Any]]) -> int:
    """Writes the records as `export.records` gives them; gives how many there were. UsageError where pyarrow is absent."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise UsageError("Parquet needs pyarrow, which is not installed",
                         mend="pip install 'adapterhub[parquet]', or --format jsonl.") from None  # fmt: skip
    schema = pa.schema([
        *((name, pa.int64()) for name in NUMBERS), *((name, pa.string()) for name in (*TEXTS, *PARTS)),
        *((name, pa.list_(pa.string())) for name in LISTS), ("hashed", pa.bool_()),
    ])  # fmt: skip
    left, count = iter(records), 0
    with parquet.ParquetWriter(out, schema, compression="zstd") as table:
        while rows := list(islice(left, _AT_ONCE)):
            table.write_table(pa.table(_columns(rows, schema.names), schema=schema))
            count += len(rows)
    return count


def _columns(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, list[Any]]:
    return {name: [_cell(row.get(name), name) for row in rows] for name in names}


def _cell(value: Any, name: str) -> Any:
    return json.dumps(value) if name in PARTS and value is not None else value
