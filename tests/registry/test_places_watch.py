"""Watching, with files that really change."""

import threading
from contextlib import closing

import pytest

from adapterhub.errors import UsageError
from adapterhub.registry.places import watch
from tests.registry.trees import plant

PATIENCE = 15
"""Seconds until a test gives up; a change takes some hundredths."""


class Watching:
    """A watch on a thread of its own, and what it told."""

    def __init__(self, *paths):
        self.stop, self.told, self.arrived = threading.Event(), set(), threading.Condition()
        self.batches = watch(paths, self.stop, debounce=50)
        self.thread = threading.Thread(target=self._listen)

    def _listen(self):
        for batch in self.batches:
            with self.arrived:
                self.told |= batch
                self.arrived.notify_all()

    def tells(self, path, act):
        """Does `act` again until `path` is told: when a watch has begun, nobody says."""
        with self.arrived:
            for _ in range(PATIENCE * 10):
                act()
                if self.arrived.wait_for(lambda: path in self.told, 0.1):
                    return True
        return False

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()


def test_models_side_cars_and_folders_are_told_and_nothing_else(tmp_path):
    plant(tmp_path, "deep/")
    told = [tmp_path / name for name in ("a.safetensors", "deep/a.civitai.info", "a.preview.png", "deep/a.txt")]
    quiet = ["a.safetensors.partial", "a.py", ".hidden.pt", ".git/a.pt", "models--a--b/blobs/a.pt"]
    with Watching(tmp_path) as watching:
        plant(tmp_path, *quiet)
        for path in told:
            assert watching.tells(path, lambda path=path: path.write_bytes(b"abc"))
        (tmp_path / "gone").mkdir()
        assert watching.tells(told[0], told[0].unlink if told[0].exists() else None)
        assert not {tmp_path / name for name in quiet} & watching.told


def test_what_goes_and_a_folder_that_is_moved_in_are_told(tmp_path):
    plant(tmp_path, "watched/a.pt", "watched/sub/", "elsewhere/b/c.pt")
    with Watching(tmp_path / "watched") as watching:
        assert watching.tells(tmp_path / "watched/d.pt", (tmp_path / "watched/d.pt").touch)
        (tmp_path / "watched/a.pt").unlink()
        assert watching.tells(tmp_path / "watched/a.pt", lambda: None)
        (tmp_path / "elsewhere/b").rename(tmp_path / "watched/b")
        assert watching.tells(tmp_path / "watched/b", lambda: None)


def test_of_an_application_only_its_places_are_watched(tmp_path):
    plant(tmp_path, "folder_paths.py", "comfy/", "models/loras/", "models/vae/")
    path = tmp_path / "models/loras/a.pt"
    with Watching(tmp_path) as watching:
        plant(tmp_path, "models/vae/v.pt")
        assert watching.tells(path, lambda: plant(tmp_path, "models/loras/a.pt"))
        assert all(told.is_relative_to(tmp_path / "models/loras") for told in watching.told)


def test_it_ends_when_it_is_told_to(tmp_path):
    stop = threading.Event()
    stop.set()
    assert list(watch([tmp_path], stop)) == []


@pytest.mark.parametrize("paths", [[], ["gone"]])
def test_what_is_not_there_cannot_be_watched(tmp_path, paths):
    with closing(watch([tmp_path / path for path in paths])) as batches, pytest.raises(UsageError):
        next(batches)
