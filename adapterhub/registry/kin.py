"""`duplicates` and `similar`: the same again, in another place, layout, container or dtype, and relatives of one training."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from adapterhub.documents import Duplicates, Group, Member, Similar, Similarity
from adapterhub.errors import AdapterhubError, NotFound
from adapterhub.registry import hashing
from adapterhub.registry.database import reading, restored
from adapterhub.registry.reference import resolve
from adapterhub.sketch import DIMENSIONS

if TYPE_CHECKING:
    import numpy as np

CAST = 0.02
"""The relative distance of two sketches that a cast may make: bfloat16 makes 0.004 a factor, a resize far more."""
RELATED = 0.5
"""The cosine above which two adapters are called relatives: strangers' is 0 ± 0.06."""
FAINT = 0.25
"""The cosine below which `similar` says nothing: four times what strangers have by chance."""
ROUNDED = 2**-7
"""The relative difference of a module that casting its factors to bfloat16 makes, nearly always: 2⁻⁹ each."""
_ROWS = 1024
_MEMBER = "id, path, kind, architecture, layout, container, size, fingerprint"


def duplicates(*, db: Path | str | None = None, relatives: bool = True, confirm: bool = False) -> Duplicates:
    """Equal files; the same adapter in other files; likely casts of one; and, unless not asked for, near relatives.

    With `confirm` likely casts are compared module by module, as `diff` does.
    """
    with reading(db) as connection:
        files = list(_same_file(connection))
        adapters = list(_same_adapter(connection))
        sketches = _sketches(connection)
        casts, near = _by_sketch(sketches)
        return Duplicates(
            groups=[*files, *adapters, *_pairs(connection, casts, confirm), *(_clusters(connection, near) if relatives else ())],
            waiting=hashing.waiting(connection),
        )  # fmt: skip


def similar(ref: str, *, db: Path | str | None = None, limit: int = 20) -> Similar:
    """What does nearly the same as `ref`, or works in the same direction, the most similar first."""
    import numpy as np

    with reading(db) as connection:
        record = resolve(connection, ref)
        sketches = _sketches(connection, record)
        mine = next((place for place, one in enumerate(sketches.ids) if one == record), None)
        if mine is None:
            raise NotFound(f"{ref} has no sketch to compare", mend="adapterhub index reads it; whole models have none.")
        own = sketches.values[mine]
        with np.errstate(divide="ignore", invalid="ignore"):
            cosines = sketches.units @ sketches.units[mine]
            strengths = sketches.values @ own / float(own @ own)
        order = [int(place) for place in np.argsort(-np.abs(cosines)) if place != mine and abs(cosines[place]) >= FAINT]
        found = [Similarity(member=_member(connection, sketches.ids[place]), cosine=float(cosines[place]),
                            strength=float(strengths[place]), how=_how(sketches, mine, place)) for place in order[:limit]]  # fmt: skip
        return Similar(of=_member(connection, record), similar=found, waiting=hashing.waiting(connection))


class _Sketches(NamedTuple):
    """Sketches of records that can be compared, one of each fingerprint unless one record was asked for."""

    ids: list[int]
    families: list[tuple[str, str]]
    fingerprints: list[str]
    values: np.ndarray
    units: np.ndarray


def _sketches(connection: sqlite3.Connection, record: int | None = None) -> _Sketches:
    import numpy as np

    rows = connection.execute(
        "SELECT id, kind, architecture, fingerprint, sketch FROM records WHERE sketch IS NOT NULL AND missing IS NULL "
        "AND (? IS NULL OR (kind, architecture) IS (SELECT kind, architecture FROM records WHERE id = ?)) "
        f"{'GROUP BY fingerprint ' if record is None else ''}ORDER BY kind, architecture, id", (record, record),
    ).fetchall()  # fmt: skip
    values = np.frombuffer(b"".join(row["sketch"] for row in rows), "<f4").reshape(-1, DIMENSIONS).astype("f8")
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    units = np.divide(values, norms, out=np.zeros_like(values), where=norms > 0)
    return _Sketches([row["id"] for row in rows], [(row["kind"], row["architecture"] or "") for row in rows],
                     [row["fingerprint"] for row in rows], values, units)  # fmt: skip


class _Near(NamedTuple):
    one: int
    other: int
    cosine: float


def _by_sketch(sketches: _Sketches) -> tuple[list[_Near], list[_Near]]:
    """Pairs that a cast may have made, and those that are relatives, by number of record."""
    import numpy as np

    casts: list[_Near] = []
    near: list[_Near] = []
    for start, end in _families(sketches.families):
        for first in range(start, end, _ROWS):
            last = min(first + _ROWS, end)
            cosines = np.triu(sketches.units[first:last] @ sketches.units[first:end].T, 1)
            for row, column in zip(*np.nonzero(cosines >= RELATED), strict=True):
                one, other = first + int(row), first + int(column)
                pair = _Near(sketches.ids[one], sketches.ids[other], float(cosines[row, column]))
                (casts if _distance(sketches, one, other) <= CAST else near).append(pair)
    return casts, near


def _families(families: Sequence[tuple[str, str]]) -> Iterator[tuple[int, int]]:
    """The runs of records of one kind and architecture."""
    start = 0
    for place in range(1, len(families) + 1):
        if place == len(families) or families[place] != families[start]:
            yield start, place
            start = place


def _distance(sketches: _Sketches, one: int, other: int) -> float:
    import numpy as np

    a, b = sketches.values[one], sketches.values[other]
    larger = float(max(np.linalg.norm(a), np.linalg.norm(b)))
    return float(np.linalg.norm(a - b)) / larger if larger else 0.0


def _how(sketches: _Sketches, one: int, other: int) -> Literal["the same adapter", "likely the same, cast", "relative"]:
    if sketches.fingerprints[one] == sketches.fingerprints[other]:
        return "the same adapter"
    if _distance(sketches, one, other) <= CAST:
        return "likely the same, cast"
    return "relative"


def _same_file(connection: sqlite3.Connection) -> Iterator[Group]:
    rows = connection.execute(
        "SELECT sha256, id FROM records WHERE missing IS NULL AND sha256 IN (SELECT sha256 FROM records "
        "WHERE sha256 IS NOT NULL AND missing IS NULL GROUP BY sha256 HAVING count(*) > 1) ORDER BY sha256, id"
    )
    for digest, members in _grouped(rows):
        yield Group(how="file", members=[_member(connection, one) for one in members], sha256=digest)


def _same_adapter(connection: sqlite3.Connection) -> Iterator[Group]:
    """Of equal files one stands for all."""
    rows = connection.execute(
        "SELECT fingerprint, min(id) FROM records WHERE fingerprint IS NOT NULL AND missing IS NULL "
        "GROUP BY fingerprint, sha256 ORDER BY fingerprint, min(id)"
    )
    for _, members in _grouped(rows):
        if len(members) > 1:
            yield Group(how="adapter", members=[_member(connection, one) for one in members])


def _grouped(rows: Iterable[Sequence[object]]) -> Iterator[tuple[str, list[int]]]:
    found: dict[str, dict[int, None]] = defaultdict(dict)
    for key, record in rows:
        found[str(key)][int(str(record))] = None
    yield from ((key, list(members)) for key, members in found.items())


def _pairs(connection: sqlite3.Connection, near: Sequence[_Near], confirm: bool) -> Iterator[Group]:
    for pair in near:
        members = [_member(connection, pair.one), _member(connection, pair.other)]
        error = _difference(members) if confirm else None
        yield Group(how="cast", members=members, similarity=pair.cosine, max_error=error,
                    confirmed=error <= ROUNDED if error is not None else False if confirm else None)  # fmt: skip


def _difference(members: Sequence[Member]) -> float | None:
    """The largest relative difference of a module; None where they cannot be compared, or have other modules."""
    from adapterhub.operations.diff import diff

    try:
        found = diff(members[0].path, members[1].path)
    except AdapterhubError:
        return None
    return None if found.only_in_a or found.only_in_b else found.max_error


def _clusters(connection: sqlite3.Connection, near: Sequence[_Near]) -> Iterator[Group]:
    """Relatives of relatives are one group, with the smallest similarity that holds it together."""
    heads: dict[int, int] = {}

    def head(record: int) -> int:
        while heads.setdefault(record, record) != record:
            heads[record] = record = heads[heads[record]]
        return record

    weakest: dict[int, float] = {}
    for pair in sorted(near, key=lambda pair: -pair.cosine):
        one, other = head(pair.one), head(pair.other)
        if one != other:
            heads[other] = one
            weakest[one] = pair.cosine
    members: dict[int, list[int]] = defaultdict(list)
    for record in sorted(heads):
        members[head(record)].append(record)
    for first, found in members.items():
        yield Group(how="relatives", members=[_member(connection, one) for one in found], similarity=weakest[first])


def _member(connection: sqlite3.Connection, record: int) -> Member:
    row = connection.execute(f"SELECT {_MEMBER} FROM records WHERE id = ?", (record,)).fetchone()
    dtypes = connection.execute(
        "SELECT value FROM traits WHERE record_id = ? AND trait = 'dtype' ORDER BY value", (record,)
    )
    inode = connection.execute(
        "SELECT device, inode FROM files WHERE record_id = ? AND role = 'content' ORDER BY path LIMIT 1", (record,)
    ).fetchone()
    return Member(**dict(row) | {"path": restored(row["path"])}, dtypes=[value for (value,) in dtypes],
                  inode=f"{inode[0]}:{inode[1]}" if inode else None)  # fmt: skip
