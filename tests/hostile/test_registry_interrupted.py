"""The registry's commands, killed at many points of their run: the database is sound, nothing torn has a name, and a second run
brings what an undisturbed one does.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import adapterhub
from tests.registry.libraries import content, rows

KILLED = """
import os, shutil, signal, sys, threading, time
import adapterhub
call, before, points = sys.argv[1], sys.argv[2], int(sys.argv[3])
def run(place):
    eval(call, {"adapterhub": adapterhub, "place": place})
shutil.copytree(before, "first")
run("first")
shutil.copytree(before, "whole")
started = time.perf_counter()
run("whole")
whole = time.perf_counter() - started
for point in range(points):
    shutil.copytree(before, f"{point}")
    child = os.fork()
    if not child:
        threading.Timer(whole * (point + 0.5) / points, os.kill, (os.getpid(), signal.SIGKILL)).start()
        run(f"{point}")
        time.sleep(60)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""A command in a process that is killed when a share of the time is over that it takes; everything is imported already."""
FILES = 200


def killed(tmp_path: Path, call: str, before: Path, points: int) -> list[Path]:
    """A copy of the folder `before` for each point, in which `call` was killed; `tmp_path / "whole"` is one that was not."""
    done = subprocess.run([sys.executable, "-c", KILLED, call, str(before), str(points)], capture_output=True, text=True,
                          cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])})  # fmt: skip
    assert done.stdout.split() == [str(-signal.SIGKILL)] * points, done.stderr
    return [tmp_path / str(point) for point in range(points)]


def again(call: str, place: Path) -> None:
    eval(call, {"adapterhub": adapterhub, "place": place})


def is_sound(db: Path) -> bool:
    connection = sqlite3.connect(db)
    try:
        return connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    finally:
        connection.close()


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tree")
    for number in range(FILES):
        path = folder / f"{number % 7}/{number}.safetensors"
        path.parent.mkdir(exist_ok=True)
        save_file({"emb_params": np.full((1, 768), number, "f2")}, path)
    return folder


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, tree: Path) -> Path:
    """A folder with a registry, an older backup of it, an export, and a lock file of the tree."""
    folder = tmp_path_factory.mktemp("registry")
    adapterhub.index(tree, db=folder / "r.db", jobs=1)
    adapterhub.export(folder / "e.jsonl", db=folder / "r.db")
    adapterhub.lock(*(f"#{number}" for number in range(1, 31)), target=folder / "l", db=folder / "r.db")
    adapterhub.backup(folder / "b.db", db=folder / "r.db")
    adapterhub.tag("#1", "later", db=folder / "r.db")
    rows(folder / "r.db", "PRAGMA wal_checkpoint(TRUNCATE)")
    return folder


def test_index_killed_at_fifty_points_goes_on_where_it_was(tmp_path, tree):
    (tmp_path / "before").mkdir()
    call = f"adapterhub.index({str(tree)!r}, db=f'{{place}}/r.db', jobs=1)"
    places = killed(tmp_path, call, tmp_path / "before", 50)
    wanted = content(tmp_path / "whole/r.db")
    assert len(wanted) == FILES
    for place in places:
        if (place / "r.db").exists():
            assert is_sound(place / "r.db")
        again(call, place)
        assert content(place / "r.db") == wanted
        assert adapterhub.doctor(db=place / "r.db").findings == []


POINTS = 10


def test_backup_killed_leaves_the_old_file_or_the_new_one(tmp_path, registry):
    call = "adapterhub.backup(f'{place}/b.db', db=f'{place}/r.db', force=True)"
    old, new = content(registry / "b.db"), content(registry / "r.db")
    for place in killed(tmp_path, call, registry, POINTS):
        assert content(place / "b.db") in (old, new)
        assert content(place / "r.db") == new
        again(call, place)
        assert content(place / "b.db") == new
        assert not [path.name for path in place.iterdir() if path.name.endswith(".partial")]


def test_restore_killed_leaves_the_registry_of_before_or_of_the_backup(tmp_path, registry):
    call = "adapterhub.restore(f'{place}/b.db', db=f'{place}/r.db')"
    old, new = content(registry / "r.db"), content(registry / "b.db")
    for place in killed(tmp_path, call, registry, POINTS):
        assert is_sound(place / "r.db")
        assert content(place / "r.db") in (old, new)
        again(call, place)
        assert content(place / "r.db.before-restore") == old
        assert content(place / "r.db") == new


def test_restore_over_a_damaged_registry_killed_never_loses_it(tmp_path, registry):
    (tmp_path / "before").mkdir()
    broken = (registry / "r.db").read_bytes()[:50_000]
    (tmp_path / "before/r.db").write_bytes(broken)
    (tmp_path / "before/b.db").write_bytes((registry / "b.db").read_bytes())
    call = "adapterhub.restore(f'{place}/b.db', db=f'{place}/r.db')"
    for place in killed(tmp_path, call, tmp_path / "before", POINTS):
        assert broken in [path.read_bytes() for path in place.glob("r.db*")]
        again(call, place)
        assert broken in [path.read_bytes() for path in place.glob("r.db.before-restore*")]
        assert content(place / "r.db") == content(registry / "b.db")


def test_import_killed_takes_all_or_nothing(tmp_path, registry):
    call = "adapterhub.import_(f'{place}/e.jsonl', db=f'{place}/n.db')"
    for place in killed(tmp_path, call, registry, POINTS):
        if (place / "n.db").exists():
            assert is_sound(place / "n.db")
            assert not adapterhub.doctor(db=place / "n.db").records % FILES
        again(call, place)
        assert len(adapterhub.list(db=place / "n.db")) == FILES


def test_lock_killed_leaves_the_old_file_or_the_new_one(tmp_path, registry):
    call = "adapterhub.lock(*(f'#{n}' for n in range(1, 101)), target=f'{place}/l', db=f'{place}/r.db', force=True)"
    old, new = (registry / "l").read_bytes(), None
    for place in killed(tmp_path, call, registry, POINTS):
        new = new or (tmp_path / "whole/l").read_bytes()
        assert (place / "l").read_bytes() in (old, new)
        again(call, place)
        assert (place / "l").read_bytes() == new


@pytest.mark.parametrize("link", [False, True])
def test_sync_killed_leaves_whole_files_only(tmp_path, registry, link):
    call = f"adapterhub.sync(f'{{place}}/l', target=f'{{place}}/out', link={link}, db=f'{{place}}/r.db')"
    wanted = {one["path"]: one["sha256"] for one in json.loads((registry / "l").read_text("utf-8"))["files"]}
    for place in killed(tmp_path, call, registry, POINTS):
        for path in (place / "out").rglob("*.safetensors"):
            assert hashlib.sha256(path.read_bytes()).hexdigest() == wanted[str(path.relative_to(place / "out"))]
        again(call, place)
        assert {path.name for path in (place / "out").rglob("*.safetensors")} == {Path(path).name for path in wanted}
