"""Several files come into their places together: where one cannot, all is as it was; links where they can be made."""

import errno
import os
from pathlib import Path

import pytest

import adapterhub
from adapterhub.errors import AdapterhubError, OutputExists
from adapterhub.hub.placing import placed
from tests.hub.sources import INDEX, content_of, sharded

FOX = "alice/fox"


@pytest.fixture
def shards(hub, tmp_path):
    """A model of three files on the Hub, in the order in which they are put."""
    hub.repos[FOX] = content_of(sharded(tmp_path / "shards"))
    return sorted(hub.repos[FOX])


def failing(monkeypatch, name, at, error=errno.ENOSPC):
    """Makes the `at`-th call of that function of os fail, of those whose last argument is a file to be put in place."""
    real, seen = getattr(os, name), []

    def called(*arguments, **options):
        if not str(arguments[1]).endswith(".partial"):
            seen.append(arguments)
            if len(seen) == at:
                raise OSError(error, os.strerror(error))
        return real(*arguments, **options)

    monkeypatch.setattr(os, name, called)


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_where_one_cannot_be_replaced_all_are_as_they_were(hub, shards, tmp_path, monkeypatch, at, link):
    out = tmp_path / "out"
    out.mkdir()
    former = {name: f"mine: {name}".encode() for name in [*shards, "notes.txt"]}
    for name, data in former.items():
        (out / name).write_bytes(data)
    identities = {path.name: path.stat().st_ino for path in out.iterdir()}
    with monkeypatch.context() as patch:
        failing(patch, "replace", at)
        with pytest.raises(AdapterhubError):
            adapterhub.pull(FOX, out, force=True, link=link)
    assert content_of(out) == former
    assert {path.name: path.stat().st_ino for path in out.iterdir()} == identities
    adapterhub.pull(FOX, out, force=True, link=link)
    assert content_of(out) == hub.repos[FOX] | {"notes.txt": former["notes.txt"]}


@pytest.mark.parametrize("at", [1, 2, 3])
def test_where_one_cannot_be_put_none_is(hub, shards, tmp_path, monkeypatch, at):
    failing(monkeypatch, "link", at)
    with pytest.raises(AdapterhubError):
        adapterhub.pull(FOX, tmp_path / "a/b")
    assert not (tmp_path / "a").exists()


def test_one_that_is_new_among_those_that_are_replaced_is_taken_away(hub, shards, tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    (out / INDEX).write_bytes(b"mine")
    failing(monkeypatch, "replace", 3)
    with pytest.raises(AdapterhubError):
        adapterhub.pull(FOX, out, force=True)
    assert content_of(out) == {INDEX: b"mine"}


def test_what_another_put_there_meanwhile_stays(tmp_path, monkeypatch):
    for name in "ab":
        (tmp_path / name).write_bytes(name.encode())
    real = os.link

    def overtaken(source, target, **options):
        if Path(target).name == "2":
            Path(target).write_bytes(b"other")
        return real(source, target, **options)

    monkeypatch.setattr(os, "link", overtaken)
    with pytest.raises(OutputExists):
        placed({tmp_path / "out/1": tmp_path / "a", tmp_path / "out/2": tmp_path / "b"}, link=False, force=False)
    assert content_of(tmp_path / "out") == {"2": b"other"}


def refused(*arguments, **options):
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(("missing", "made"), [((), "hard"), (("link",), "symbolic"), (("link", "symlink"), "copy")])
def test_a_link_is_hard_or_symbolic_or_a_copy_by_what_the_system_makes(
    hub, shards, tmp_path, monkeypatch, missing, made, force
):
    out = tmp_path / "out"
    if force:
        out.mkdir()
        (out / INDEX).write_bytes(b"mine")
    adapterhub.pull(FOX, tmp_path / "cached")
    with monkeypatch.context() as patch:
        for name in missing:
            patch.setattr(os, name, refused)
        adapterhub.pull(FOX, out, link=True, force=force)
    kinds = {
        "symbolic" if path.is_symlink() else "hard" if path.stat().st_nlink > 1 else "copy" for path in out.iterdir()
    }
    assert (content_of(out), kinds) == (hub.repos[FOX], {made})


def test_a_link_to_another_disk_is_symbolic(hub, shards, tmp_path):
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second disk")
    import tempfile

    with tempfile.TemporaryDirectory(dir=memory) as out:
        adapterhub.pull(FOX, out, link=True)
        assert all(path.is_symlink() for path in Path(out).iterdir())
        assert content_of(Path(out)) == hub.repos[FOX]
        with pytest.raises(OutputExists):
            adapterhub.pull(FOX, out, link=True)
