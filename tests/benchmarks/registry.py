"""The registry: a library of 10,000 adapters with true headers, questions to up to a million rows, and hashing beside hashlib."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from adapterhub.registry.database import writing
from adapterhub.registry.find import Filter, hits, listed
from tests.benchmarks.cost import Row, adapterhub, cost, typical
from tests.benchmarks.library import library, name

COUNT = 10_000
ROWS = (10_000, 100_000, 1_000_000)
_HASHED, _FILES = 448 << 20, 8
_LOOK = 0.05
"""Seconds between two looks at how much memory processes take."""

_BARE = """
import hashlib, sys
from blake3 import blake3
from zlib_ng.zlib_ng import crc32
for path in sys.argv[2:]:
    digests, check = [hashlib.sha256()] + [hashlib.sha256(), blake3()] * (sys.argv[1] == "all"), 0
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(1 << 20):
            for digest in digests:
                digest.update(piece)
            check = crc32(piece, check) if sys.argv[1] == "all" else 0
"""
"""What hashlib and its like reach in a bare loop: "all" that a file of safetensors has, or one SHA-256."""


def registry(folder: Path) -> Iterator[Row]:
    """Identification, an unchanged rerun, questions, growth, hashing."""
    yield from _indexing(folder)
    yield from _growth(folder)
    yield from _hashing(folder)


def _indexing(folder: Path) -> Iterator[Row]:
    root, db = folder / "library", str(folder / "r.db")
    library(root, COUNT)
    command = adapterhub("index", str(root), "--no-hash", "--db", db)
    first, memory = _watched(command)
    again = cost(*command)
    yield Row(f"index, {COUNT} headers, 2 cores: identified", COUNT / first, 400, "files/s", True)
    yield Row("the same, memory of all its processes", memory, 250, "MB")
    yield Row("index again, nothing changed", again.wall, 1.5, "s")
    yield Row("its memory", again.peak, 250, "MB")
    word = name(4321).partition("_")[0]
    for arguments in (
        ("list",),
        ("list", "--kind", "lora", "--rank", "16", "--json", "--limit", "100"),
        ("search", word[:5]),
        ("search", word),
    ):
        found = typical(*adapterhub(*arguments, "--db", db))
        yield Row(f"{' '.join(arguments)}, {COUNT} rows", found.cpu, 0.2, "CPU-s")
    shutil.rmtree(root)


def _watched(command: tuple[str, ...]) -> tuple[float, float]:
    """Seconds of wall time, and MB of memory of the process and all that it started, pages that they share counted once."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(map(_proportional, _session(process.pid))))
        time.sleep(_LOOK)
    assert process.returncode == 0
    return time.perf_counter() - start, peak / 1e3


def _session(leader: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.getsid(int(entry.name)) == leader:
                found.append(int(entry.name))
        except ProcessLookupError:
            continue
    return found


def _proportional(process: int) -> int:
    """Kilobytes of its memory, of shared pages its share."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text("ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def _growth(folder: Path) -> Iterator[Row]:
    """How long questions take, with ten times as many rows each time."""
    for count in ROWS:
        db = folder / f"{count}.db"
        _fill(db, count)
        word = name(count // 2)
        questions = {
            "list": lambda db=db: listed(Filter(), db=db, limit=100),
            "list by kind, rank": lambda db=db: listed(Filter(kind="lora", rank=16), db=db, limit=100),
            "list by tag of a few": lambda db=db: listed(Filter(tag="rare"), db=db, limit=100),
            "search a name": lambda db=db, word=word: hits(word, Filter(), db=db, limit=100),
            "search a word of many": lambda db=db: hits("common", Filter(), db=db, limit=100),
        }
        times = {question: _milliseconds(asked) for question, asked in questions.items()}
        print(f"  {count:>9,} rows: " + " · ".join(f"{question} {took:.1f} ms" for question, took in times.items()))
        if count == ROWS[-1]:
            for question, took in times.items():
                yield Row(f"{question}, {count:,} rows", took, 20, "ms")
        for path in folder.glob(f"{count}.db*"):
            path.unlink()


def _milliseconds(asked: object) -> float:
    took = []
    for _ in range(5):
        start = time.perf_counter()
        assert len(list(asked())) > 0  # type: ignore[operator]
        took.append(time.perf_counter() - start)
    return 1e3 * median(took)


def _fill(db: Path, count: int) -> None:
    """Rows as `index` would write them, without the files."""
    with writing(db) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN")
        kinds = ("lora",) * 8 + ("embedding", "checkpoint")
        connection.executemany(
            "INSERT INTO records (id, path, folder, name, kind, container, layout, architecture, rank, tensors, parameters, size, "
            "modified, added) VALUES (?, ?, ?, ?, ?, 'safetensors', 'kohya', ?, ?, 792, 1000, ?, '2026-01-01T00:00:00Z', '2026-01-02T00:00:00Z')",
            ((n, f"/library/{n // 500}/{name(n)}.safetensors", f"/library/{n // 500}", name(n), kinds[n % 10],
              ("sd1", "sdxl")[n % 3 == 0], (4, 8, 16, 32)[n % 4], 1000 + n) for n in range(1, count + 1)),
        )  # fmt: skip
        connection.executemany(
            "INSERT INTO traits VALUES (?, ?, ?)",
            (row for n in range(1, count + 1) for row in _traits(n, count)),
        )
        connection.executemany(
            "INSERT INTO texts VALUES (?, ?, ?, ?, '', ?, '')",
            ((n, name(n), name(n * 7).partition("_")[0], "rare" if n % (count // 100) == 0 else "",
              f"a {'common' if n % 10 == 0 else 'plain'} style") for n in range(1, count + 1)),
        )  # fmt: skip
        connection.execute("COMMIT")
        connection.execute("ANALYZE")


def _traits(n: int, count: int) -> Iterator[tuple[str, str, int]]:
    yield "rank", str((4, 8, 16, 32)[n % 4]), n
    yield "algorithm", "lora", n
    if n % (count // 100) == 0:
        yield "tag", "rare", n


def _hashing(folder: Path) -> Iterator[Row]:
    """Digests of files that are no adapter, beside the same of the libraries in a bare loop, each on both cores."""
    root = folder / "large"
    root.mkdir()
    header = b'{"x":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}'
    for number in range(_FILES):
        head = header % ((_HASHED,) * 2)
        head += b" " * (-len(head) % 8)
        with (root / f"{number}.safetensors").open("wb") as file:
            file.write(len(head).to_bytes(8, "little") + head)
            block = os.urandom(1 << 20)
            for _ in range(_HASHED >> 20):
                file.write(block)
    paths = sorted(map(str, root.iterdir()))
    db = str(folder / "h.db")
    cost(*adapterhub("index", str(root), "--no-hash", "--db", db))
    alone, single = _bare("all", paths), _bare("one", paths)
    ours = cost(*adapterhub("index", str(root), "--db", db)).wall
    size = _FILES * _HASHED / 1e9
    print(
        f"  hashing {size:.1f} GB on both cores: {ours:.2f} s · the same digests in a bare loop {alone:.2f} s · one SHA-256 {single:.2f} s"
    )
    yield Row("index, all digests, in shares of the libraries' own speed", alone / ours, 0.8, "×", True)
    with sqlite3.connect(db) as connection:
        assert connection.execute("SELECT count(*) FROM records WHERE hashed").fetchone() == (_FILES,)
    shutil.rmtree(root)


def _bare(which: str, paths: list[str]) -> float:
    """Seconds for two processes."""
    start = time.perf_counter()
    both = [subprocess.Popen([sys.executable, "-c", _BARE, which, *paths[half::2]]) for half in (0, 1)]
    assert [process.wait() for process in both] == [0, 0]
    return time.perf_counter() - start
