"""An edit of a header that is cut off, at any byte: the old header, the new one, or one that the next edit finishes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import adapterhub
from adapterhub.errors import AdapterhubError, MalformedFile, UsageError
from adapterhub.files.journal import _MAGIC, journal_of

WRITER = """
import sys
import adapterhub
for value in range(10**9):
    adapterhub.metadata(sys.argv[1], set={"value": str(value % 7) * 100_000})
    if value == 2:
        print("ready", flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "x.safetensors"
    save_file({"t": np.arange(100, dtype="u1")}, found, metadata={"value": "-" * 100_000, "room": "x" * 400})
    adapterhub.metadata(found, unset=["room"])
    return found


def headers(path: Path) -> tuple[bytes, bytes]:
    """That of now, and the one of an edit that would be in place; the file is as it was afterwards."""
    old = path.read_bytes()
    assert adapterhub.metadata(path, set={"value": "+" * 100_000}).written == "in-place"
    new = path.read_bytes()
    path.write_bytes(old)
    end = 8 + int.from_bytes(old[:8], "little")
    return old[:end], new[:end]


def torn(path: Path, at: int) -> tuple[bytes, bytes]:
    """The file as a power cut leaves it that lets the first `at` bytes through."""
    old, new = headers(path)
    journal_of(path).write_bytes(_MAGIC + old + new)
    with path.open("r+b") as stream:
        stream.write(new[:at])
    return old, new


@pytest.mark.parametrize("share", [0, 0.0001, 0.3, 0.7, 1])
def test_what_was_torn_is_finished_and_what_had_not_begun_has_not_happened(path, share):
    rest = path.read_bytes()
    old, new = torn(path, int(share * len(headers(path)[0])))
    there = path.read_bytes()[: len(old)]
    adapterhub.metadata(path)
    found = path.read_bytes()
    assert found[: len(old)] == (old if there == old else new)
    assert found[len(old) :] == rest[len(old) :]
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_pages_may_arrive_in_any_order(path):
    old, new = torn(path, 0)
    with path.open("r+b") as stream:
        for page in random.Random(1).sample(range(len(old) // 4096), 9):
            stream.seek(page * 4096)
            stream.write(new[page * 4096 : (page + 1) * 4096])
    assert adapterhub.metadata(path, set={"also": "this"}).finished
    assert adapterhub.metadata(path).fields == {"value": "+" * 100_000, "also": "this"}


def test_other_commands_say_how_a_torn_header_is_mended(path):
    old, new = torn(path, 0)
    at = len(old) // 2
    with path.open("r+b") as stream:  # no JSON of either
        stream.write(new[:10] + b"\xff" + new[11:at])
    with pytest.raises(MalformedFile, match="adapterhub metadata"):
        adapterhub.inspect(path)


@pytest.mark.parametrize(
    "content", [b"", _MAGIC, _MAGIC + bytes(16), b"x" * 100, _MAGIC + b"\xff" * 8 + b"{}" + b"\xff" * 8 + b"{}"]
)
def test_a_journal_that_was_not_whole_is_thrown_away(path, content):
    before = path.read_bytes()
    journal_of(path).write_bytes(content)
    assert adapterhub.metadata(path).finished is False
    assert path.read_bytes() == before
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_a_journal_of_another_file_changes_nothing(path):
    old, new = headers(path)
    journal_of(path).write_bytes(_MAGIC + old.replace(b"-", b"o") + new.replace(b"+", b"n"))
    before = path.read_bytes()
    adapterhub.metadata(path)
    assert path.read_bytes() == before
    assert [one.name for one in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda journal: journal.symlink_to("/dev/zero")])
def test_a_journal_that_is_no_file_neither_hangs_nor_hurts(path, make):
    before = path.read_bytes()
    make(journal_of(path))
    try:
        adapterhub.metadata(path, set={"a": "b"})
    except AdapterhubError:
        assert path.read_bytes() == before


def test_a_second_edit_at_the_same_time_is_refused(path):
    import fcntl

    with path.open("r+b") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="another process"):
            adapterhub.metadata(path, set={"a": "b"})


def test_an_editor_killed_at_any_moment_leaves_a_file_that_the_next_command_reads(path):
    end = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    data = path.read_bytes()[end:]
    chance, left = random.Random(7), 0
    for _ in range(16):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(chance.uniform(0, 0.06))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        left += len([*path.parent.iterdir()]) - 1
        value = adapterhub.metadata(path).fields["value"]
        assert value == value[0] * 100_000
        assert path.read_bytes()[end:] == data
        assert json.loads(path.read_bytes()[8:end])["t"]["data_offsets"] == [0, 100]
        assert [one.name for one in path.parent.iterdir()] == [path.name]
    assert left, "no kill came while a header was being written"


def test_an_edit_without_room_on_the_disk_leaves_the_file_as_it_was(path):
    before = path.read_bytes()
    program = (
        "import resource, sys, adapterhub, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) // 2},) * 2)\n"
        "from adapterhub.cli import run\n"
        "sys.exit(run(['metadata', sys.argv[1], '--set', 'a=b']))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True)
    assert (done.returncode, path.read_bytes() == before) == (5, True), done.stderr
    assert [one.name for one in path.parent.iterdir()] == [path.name]
