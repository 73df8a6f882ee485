"""What a walk finds in folders that no application made."""

import os
import socket
import string
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapterhub.registry.places import Found, Trouble, walk
from adapterhub.registry.places.names import shards, without_previews
from tests.registry.trees import files, found, link, names, plant, troubles


@pytest.mark.parametrize("ending", "safetensors sft pti pt pth ckpt bin pkl pickle SAFETENSORS Pt".split())
def test_a_file_of_weights_is_found_by_its_ending(tmp_path, ending):
    path = plant(tmp_path, f"a.{ending}") / f"a.{ending}"
    [thing] = found(tmp_path)
    status = path.stat()
    assert thing == Found(path, ((path, status.st_dev, status.st_ino, 3, status.st_mtime_ns),))


@pytest.mark.parametrize("name", [
    "a.txt", "a.json", "a.png", "a.webp", "safetensors", ".safetensors", ".hidden.safetensors", "._a.safetensors",
    "a.safetensors.partial", "a.safetensors.json", "a.gguf", "a.pt.bak", "a\n.zip",
])  # fmt: skip
def test_other_files_are_none(tmp_path, name):
    assert found(plant(tmp_path, name)) == []


def test_things_come_in_the_order_of_names_files_before_folders(tmp_path):
    plant(tmp_path, "b/z.pt", "b/a.pt", "a/c.pt", "c.pt", "a/B/x.pt", "A.pt")
    assert names(found(tmp_path), tmp_path) == ["A.pt", "c.pt", "a/c.pt", "a/B/x.pt", "b/a.pt", "b/z.pt"]


def test_what_training_leaves_is_found_too(tmp_path):
    leftovers = ["optimizer.pt", "random_states_0.pkl", "scheduler.pt", "training_args.bin"]
    assert names(found(plant(tmp_path, *leftovers)), tmp_path) == leftovers


@pytest.mark.parametrize("folder", [
    ".git", "__pycache__", "node_modules", ".venv/lib/site-packages", ".Trash-1000/files", ".local/share/Trash/files",
    "$RECYCLE.BIN", ".cache/huggingface/download", "models--a--b/blobs", "models--a--b/.no_exist/1", ".locks",
    "datasets--a--b/snapshots/1", "models/.download_cache",
])  # fmt: skip
def test_folders_that_never_hold_models_are_skipped(tmp_path, folder):
    assert found(plant(tmp_path, f"{folder}/a.pt")) == []
    assert names(found(tmp_path / folder), tmp_path / folder) == ["a.pt"]  # but not one that is given


def test_an_environment_of_python_is_told_by_its_configuration(tmp_path):
    plant(tmp_path, "venv/pyvenv.cfg", "venv/share/a.pt", "env/pyvenv.cfg", "env/a.pt", "not/venv/b.pt")
    assert names(found(tmp_path), tmp_path) == ["not/venv/b.pt"]


class TestPictures:
    def test_they_count_where_embeddings_are_kept_and_below(self, tmp_path):
        plant(tmp_path, "Embeddings/a.png", "Embeddings/deep/b.WEBP", "textual_inversion/c.webp", "pictures/d.png")
        assert names(found(tmp_path), tmp_path) == [
            "Embeddings/a.png",
            "Embeddings/deep/b.WEBP",
            "textual_inversion/c.webp",
        ]

    def test_beside_models_they_count_too_but_for_previews(self, tmp_path):
        plant(tmp_path, "a/a.pt", "a/A.PNG", "a/b.preview.png", "a/c.png", "pictures/d.png")
        assert names(found(tmp_path), tmp_path) == ["a/a.pt", "a/A.PNG", "a/c.png"]

    def test_in_an_application_one_that_shows_a_model_does_not(self, tmp_path):
        plant(tmp_path, "models/Stable-diffusion/x", "modules/a", "webui.py")
        plant(tmp_path, "embeddings/a.pt", "embeddings/A.PNG", "embeddings/b.preview.png", "embeddings/c.png")
        assert names(found(tmp_path), tmp_path) == ["embeddings/a.pt", "embeddings/c.png"]

    def test_one_that_is_given_counts_wherever_it_is(self, tmp_path):
        path = plant(tmp_path, "a.png", "a.pt") / "a.png"
        assert [thing.path for thing in found(path)] == [path]

    @given(st.lists(st.text(string.ascii_letters, min_size=1, max_size=3), max_size=5))
    def test_previews_ignore_case(self, stems):
        pictures = [f"{stem}.png" for stem in stems]
        assert without_previews(pictures, [f"{stem.swapcase()}.pt" for stem in stems]) == []
        assert without_previews(pictures, ["another.pt"]) == pictures


class TestShards:
    def test_an_index_is_one_thing_with_the_shards_that_it_joins(self, tmp_path):
        parts = ["m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors"]
        plant(tmp_path, "m.safetensors.index.json", *parts, "n-00001-of-00002.safetensors")
        index, other = found(tmp_path)
        assert index.path == tmp_path / "m.safetensors.index.json"
        assert files(index) == ["m.safetensors.index.json", *parts]
        assert other.path == tmp_path / "n-00001-of-00002.safetensors"

    @pytest.mark.parametrize(("index", "shard"), [
        ("m.safetensors.index.json", "m-00001-of-00001.safetensors"),
        ("m.bin.index.json", "m-00001-of-00001.bin"),
        ("m.safetensors.index.fp16.json", "m.fp16-00001-of-00001.safetensors"),
        ("m.fp16.safetensors.index.json", "m-00001-of-00001.fp16.safetensors"),
        ("m.safetensors.fp16.index.json", "m.fp16-00001-of-00001.safetensors"),
    ])  # fmt: skip
    def test_variants_stand_where_each_library_puts_them(self, index, shard):
        assert shards([shard, "m-00001-of-00001.pt"], [index]) == {index: [shard]}

    def test_an_index_that_is_given_brings_its_shards(self, tmp_path):
        plant(tmp_path, "m.bin.index.json", "m-00001-of-00001.bin")
        [thing] = found(tmp_path / "m.bin.index.json", tmp_path)
        assert files(thing) == ["m.bin.index.json", "m-00001-of-00001.bin"]


class TestLinks:
    def test_loops_end_and_every_folder_is_entered_once(self, tmp_path):
        plant(tmp_path, "a/b/x.pt")
        link(tmp_path / "a/b/up", tmp_path / "a")
        link(tmp_path / "a/self", ".")
        link(tmp_path / "0", "a/b")
        assert names(found(tmp_path), tmp_path) == ["a/b/x.pt"]

    def test_a_folder_outside_is_followed(self, tmp_path):
        plant(tmp_path / "far", "a.pt", "deep/b.pt")
        link(tmp_path / "near/models", tmp_path / "far")
        plant(tmp_path, "near/z.pt")
        assert names(found(tmp_path / "near"), tmp_path) == ["near/z.pt", "near/models/a.pt", "near/models/deep/b.pt"]

    def test_a_link_to_a_file_that_is_met_itself_adds_nothing(self, tmp_path):
        plant(tmp_path / "in", "z/a.pt")
        plant(tmp_path, "out.pt", "hidden/.b.pt")
        link(tmp_path / "in/a.pt", "z/a.pt")
        link(tmp_path / "in/twice.pt", "a.pt")
        link(tmp_path / "in/c.pt", "../out.pt")
        link(tmp_path / "in/d.pt", "../hidden/.b.pt")
        assert names(found(tmp_path / "in"), tmp_path) == ["in/d.pt", "in/z/a.pt", "in/c.pt"]

    def test_a_linked_picture_counts_where_it_is_linked(self, tmp_path):
        plant(tmp_path, "pictures/a.png")
        link(tmp_path / "embeddings/a.png", "../pictures/a.png")
        assert names(found(tmp_path), tmp_path) == ["embeddings/a.png"]

    def test_hard_links_are_each_found_with_the_same_inode(self, tmp_path):
        plant(tmp_path, "a.pt")
        os.link(tmp_path / "a.pt", tmp_path / "b.pt")
        first, second = found(tmp_path)
        assert (first.path.name, second.path.name) == ("a.pt", "b.pt")
        assert first.files[0][1:] == second.files[0][1:]

    def test_a_link_to_nothing_or_to_itself_is_told(self, tmp_path):
        link(tmp_path / "a.pt", "gone.pt")
        link(tmp_path / "b", "gone")
        link(tmp_path / "c.pt", "c.pt")
        told = {thing.path.name: thing.reason for thing in troubles(tmp_path)}
        assert told == {
            "a.pt": "a link to nothing",
            "b": "a link to nothing",
            "c.pt": "Too many levels of symbolic links",
        }


class TestWhatIsGiven:
    def test_a_path_that_is_not_there_is_told(self, tmp_path):
        assert list(walk([tmp_path / "gone.pt"])) == [Trouble(tmp_path / "gone.pt", "No such file or directory")]

    def test_a_file_counts_whatever_its_name_and_once(self, tmp_path):
        plant(tmp_path, "a.dat", "b.pt")
        assert names(found(tmp_path / "a.dat", tmp_path / "b.pt", tmp_path), tmp_path) == ["a.dat", "b.pt"]

    def test_a_folder_in_another_is_walked_once(self, tmp_path):
        plant(tmp_path, "a/b/x.pt", "a/y.pt")
        assert names(found(tmp_path, tmp_path / "a/b", tmp_path), tmp_path) == ["a/y.pt", "a/b/x.pt"]

    def test_relative_paths_become_absolute(self, tmp_path, monkeypatch):
        monkeypatch.chdir(plant(tmp_path, "a.pt"))
        assert [thing.path for thing in found(".")] == [tmp_path / "a.pt"]


def dig(folder, name, depth):
    """Makes folders of one `name` in each other, where no path could; the descriptor of the last."""
    here = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    return here


class TestHostile:
    @pytest.mark.parametrize("name", [
        b"caf\xe9.pt", b"two\nlines.pt", b"\x1b[31mred.pt", b"-rf.pt", "\u202egnp.pt".encode(), b"a" * 252 + b".pt", b"CON.pt",
    ])  # fmt: skip
    def test_a_name_of_any_bytes_is_found_as_it_is(self, tmp_path, name):
        path = tmp_path / os.fsdecode(name)
        path.touch()
        assert [thing.path for thing in found(tmp_path)] == [path]

    def test_what_is_no_file_is_told_and_not_opened(self, tmp_path):
        os.mkfifo(tmp_path / "fifo.pt")
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(os.path.relpath(tmp_path / "socket.pt"))
            told = {thing.path.name: thing.reason for thing in troubles(tmp_path)}
        assert told == dict.fromkeys(("fifo.pt", "socket.pt"), "neither a file nor a folder: not opened")

    def test_a_folder_that_goes_meanwhile_is_told(self, tmp_path):
        plant(tmp_path, "a.pt", "b/c.pt")
        things = walk([tmp_path])
        next(things)
        (tmp_path / "b/c.pt").unlink()
        (tmp_path / "b").rmdir()
        assert list(things) == [Trouble(tmp_path / "b", "No such file or directory")]

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_a_folder_that_may_not_be_read_is_told(self, tmp_path):
        plant(tmp_path, "a/b.pt")
        (tmp_path / "a").chmod(0)
        assert troubles(tmp_path) == [Trouble(tmp_path / "a", "Permission denied")]
        (tmp_path / "a").chmod(0o700)

    def test_a_path_longer_than_the_system_takes_is_told(self, tmp_path):
        os.close(dig(tmp_path, "d" * 250, 20))
        [told] = troubles(tmp_path)
        assert told.reason == "File name too long"

    def test_many_folders_deep_need_no_recursion(self, tmp_path):
        bottom = dig(tmp_path, "d", 1_100)
        os.close(os.open("a.pt", os.O_CREAT, dir_fd=bottom))
        os.close(bottom)
        assert len(found(tmp_path)) == 1
        subprocess.run(["rm", "-r", tmp_path / "d"], check=True)  # too deep for pytest


@given(st.dictionaries(
    st.lists(st.sampled_from("abc"), max_size=3).map("/".join), st.sets(st.sampled_from(["x.pt", "y.bin", "z.txt"])), max_size=6
))  # fmt: skip
def test_every_model_is_found_once_under_its_own_name(tmp_path_factory, tree):
    root = tmp_path_factory.mktemp("tree")
    for folder, held in tree.items():
        plant(root / folder, *held)
        link(root / folder / "loop", root) if held and not (root / folder / "loop").exists() else None
    wanted = [root / folder / name for folder, held in tree.items() for name in held if name != "z.txt"]
    assert sorted(thing.path for thing in found(root)) == sorted(wanted)


def test_a_walk_is_lazy_and_asks_for_each_file_once(tmp_path, monkeypatch):
    plant(tmp_path, *(f"{folder}/{number}.pt" for folder in range(20) for number in range(20)))
    asked = []
    real = os.stat

    def counting(path, *arguments, **options):
        asked.append(path)
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", counting)
    things = walk([tmp_path])
    next(things)
    first = len(asked)
    list(things)
    assert first < 50
    assert len(asked) < 400 + 2 * 21 + 50
