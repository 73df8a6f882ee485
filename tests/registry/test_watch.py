"""watch: the registry follows what happens in folders."""

from __future__ import annotations

import threading
from pathlib import Path

import adapterhub
from tests.registry.libraries import adapter

PATIENCE = 30.0


def test_what_comes_and_goes_is_followed_until_it_is_stopped(tmp_path: Path) -> None:
    library, db, stop = tmp_path / "library", tmp_path / "r.db", threading.Event()
    adapter(library / "first.safetensors", 1)
    seen, came, went = [], threading.Event(), threading.Event()

    def follow() -> None:
        for done in adapterhub.watch(library, db=db, stop=stop):
            seen.append(done)
            names = {one.name for one in adapterhub.list(db=db)}
            (came if "second" in names else threading.Event()).set()
            (went if "first" not in names else threading.Event()).set()

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        while not seen and thread.is_alive():
            stop.wait(0.05)
        stop.wait(0.5)  # until the folder is being watched
        adapter(library / "deep" / "second.safetensors", 2)
        assert came.wait(PATIENCE)
        (library / "first.safetensors").unlink()
        assert went.wait(PATIENCE)
    finally:
        stop.set()
        thread.join(PATIENCE)
    assert not thread.is_alive()
    assert seen[0].new == 1
    assert adapterhub.show("second", db=db).hashed
