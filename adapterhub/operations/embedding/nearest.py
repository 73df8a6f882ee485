"""The tokens that the vectors of an embedding lie nearest to, in the text encoder that they are for.

Only numpy is needed: the table of tokens goes by in blocks, 150 MB of them for SD 1, and is never held.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from adapterhub import files
from adapterhub.adapter import Adapter, Kind, Role
from adapterhub.documents import Nearest, NearToken, NearVector, TokenTable
from adapterhub.errors import NotAnAdapter, RefusedInput, UsageError
from adapterhub.files import Package
from adapterhub.operations.embedding.vocabulary import named, vocabulary
from adapterhub.operations.source import open_adapter
from adapterhub.tensors import FLOATS, Buffer, LazyTensor, from_bytes, length, values

if TYPE_CHECKING:
    import numpy as np

_PLACE = "token_embedding.weight"
"""How the name of a token table ends in CLIP, of transformers and of OpenCLIP, in whatever file it lies."""
_BLOCK = 2 << 20
"""Bytes of the table that are looked at together."""


class Table(NamedTuple):
    """The rows of the tokens of a text encoder, where they lie in its model, and the folder of its tokenizer."""

    rows: LazyTensor
    place: str
    tokenizer: Path


class Vector(NamedTuple):
    """One vector of an embedding, counted from 1."""

    token: str
    component: str
    number: int
    values: np.ndarray


class Near(NamedTuple):
    """A token by its number, in the order of which the nearest comes first."""

    farness: float  # minus the cosine
    number: int
    distance: float


def nearest(
    source: Path | str,
    *,
    base: Path | str | None = None,
    tokenizer: Path | str | None = None,
    text_encoder: Path | str | None = None,
    top: int = 10,
) -> Nearest:
    """Finds for each vector of the embedding at `source` the `top` tokens of the largest cosine, ties by the token's number.

    `base` is a diffusers folder; or `tokenizer` is a folder with vocab.json or tokenizer.json, and `text_encoder` a folder or
    file that holds the token embedding: a text encoder, or a whole model. Computed in float64. A vector that is zero or not
    finite has no direction, and nothing is nearest to it.

    Raises UsageError where neither is given, RefusedInput where no text encoder there has tokens of that width.
    """
    if (base is None) == (text_encoder is None) or (tokenizer is None) != (text_encoder is None):
        raise UsageError(
            "say what tokens there are", mend="Give --base DIR, or --tokenizer DIR and --text-encoder PATH."
        )
    if top < 1:
        raise UsageError("--top is at least 1")
    model = Path(base if base is not None else str(text_encoder))
    with open_adapter(Path(source), kinds=frozenset({Kind.EMBEDDING})) as opened, files.read(model) as package:
        tables = _tables(package, model, Path(tokenizer) if tokenizer is not None else None)
        wanted: dict[int, list[Vector]] = {}
        for vector in _vectors(opened.adapter):
            wanted.setdefault(_table_for(vector, tables, model), []).append(vector)
        shown, found = [], []
        for number, vectors in wanted.items():
            table, of_table = _searched(tables[number], vectors, top)
            shown.append(table)
            found += of_table
        package.ensure_unchanged()
    return Nearest(path=str(source), model=str(model), tables=shown, vectors=found)


def _tables(package: Package, model: Path, tokenizer: Path | None) -> list[Table]:
    """The token tables of `model`. In a folder of a diffusers model each text encoder has its tokenizer beside it."""
    found = []
    for name, file in package.files.items():
        component = name.partition("/")[0] if "/" in name else "text_encoder"
        own = model / component.replace("text_encoder", "tokenizer")
        found += [Table(tensor, place, tokenizer or own) for place, tensor in file.tensors.items()
                  if place.endswith(_PLACE) and len(tensor.shape) == 2 and tensor.dtype in FLOATS]  # fmt: skip
    if not found:
        raise NotAnAdapter(
            f"{model} holds no {_PLACE}", mend="Give a diffusers folder, a text encoder, or a whole model."
        )
    return found


def _vectors(adapter: Adapter) -> Iterator[Vector]:
    """Those that stand for tokens: output vectors are added to what the text encoder gives, and are like no token."""
    import numpy as np

    for key, tensor in adapter.tensors.items():
        if key.role is Role.VECTORS:
            for number, row in enumerate(np.atleast_2d(values(tensor).astype("f8")), 1):
                yield Vector(key.module, key.component, number, row)


def _table_for(vector: Vector, tables: list[Table], model: Path) -> int:
    """The place in `tables` of the first with vectors as wide."""
    width = len(vector.values)
    for number, table in enumerate(tables):
        if table.rows.shape[1] == width:
            return number
    others = " and ".join(str(table.rows.shape[1]) for table in tables)
    raise RefusedInput(f"{vector.token} has vectors of {width} for {vector.component}, and the tokens of {model} are of {others}",
                       mend="Give the model that the embedding is for: adapterhub inspect names its architecture.")  # fmt: skip


def _searched(table: Table, vectors: list[Vector], top: int) -> tuple[TokenTable, list[NearVector]]:
    """What is nearest to each vector, in one pass over the table."""
    import numpy as np

    names = vocabulary(table.tokenizer)
    best: list[list[Near]] = [[] for _ in vectors]
    lengths = []
    for first, rows in _blocks(table.rows):
        lengths.append(_dots(rows, rows) ** 0.5)
        for place, vector in enumerate(vectors):
            best[place] = sorted([*best[place], *_near(rows, lengths[-1], vector.values, first, top)])[:top]
    told = TokenTable(place=table.place, tokens=table.rows.shape[0], width=table.rows.shape[1],
                      median_length=float(np.median(np.concatenate(lengths))))  # fmt: skip
    return told, [_shown(vector, found, names) for vector, found in zip(vectors, best, strict=True)]


def _blocks(table: LazyTensor) -> Iterator[tuple[int, np.ndarray]]:
    """Whole rows in float64, as many as _BLOCK bytes hold, each time with the number of the first."""
    width = table.shape[1]
    of_row = length(table.dtype, (width,))
    pending, first = bytearray(), 0
    for chunk in _pieces(table):
        pending += chunk
        count = len(pending) // of_row
        if count:
            yield first, values(from_bytes(table.dtype, (count, width), bytes(pending[: count * of_row]))).astype("f8")
            del pending[: count * of_row]
            first += count


def _pieces(table: LazyTensor) -> Iterator[Buffer]:
    for chunk in table.chunks():
        view = memoryview(chunk).cast("B")
        for start in range(0, len(view), _BLOCK):
            yield view[start : start + _BLOCK]


def _near(rows: np.ndarray, lengths: np.ndarray, vector: np.ndarray, first: int, top: int) -> Iterator[Near]:
    """The nearest of some rows, the first of which is the token `first`; none to what has no direction."""
    import numpy as np

    if not np.isfinite(vector).all() or not vector.any():
        return
    product = lengths * float(_dots(vector[None], vector[None])[0]) ** 0.5
    directed = (product > 0) & (product < np.inf)
    cosines = np.divide(_dots(rows, vector), product, out=np.full(len(rows), -np.inf), where=directed)
    for row in np.argsort(-cosines, kind="stable")[:top]:
        if np.isfinite(cosines[row]):
            yield Near(-min(1.0, float(cosines[row])), first + int(row), float(np.linalg.norm(rows[row] - vector)))


def _dots(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The product of each row with its other, or with the one: added in one order, so that equal rows come out equal."""
    import numpy as np

    products: np.ndarray = np.einsum("tw,tw->t" if others.ndim == 2 else "tw,w->t", rows, others)
    return products


def _shown(vector: Vector, found: list[Near], names: dict[int, str]) -> NearVector:
    import numpy as np

    return NearVector(
        token=vector.token,
        component=vector.component,
        vector=vector.number,
        length=float(np.linalg.norm(vector.values)),
        nearest=[_token(near, names.get(near.number)) for near in found],
    )


def _token(near: Near, name: str | None) -> NearToken:
    text, ends_word = named(name) if name is not None else (None, False)
    return NearToken(token=text, id=near.number, ends_word=ends_word, cosine=-near.farness, distance=near.distance)
