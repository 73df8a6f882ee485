"""The registry where it has to do with hostile names, full disks, broken and foreign databases, and with others at once."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import adapterhub
from adapterhub.registry.find import Filter
from tests.hostile.disks import mounted
from tests.registry.libraries import adapter, content, embedding, rows

ROOT = Path(__file__).parents[2]
NAMES = {
    "a line feed": "a\nb", "an escape sequence": "\x1b[2J\x1b[31mred", "a title": "\x1b]0;x\x07", "an override": "a\u202egnp",
    "half a character": os.fsdecode(b"\xff\xfe"), "SQL": "'; DROP TABLE records; --", "a pattern": "%_*?[a]", "an option": "--db",
    "a number": "#1", "a query": '" OR name:* NEAR(', "a markup": "[red]x", "a long one": "x" * 240, "C1": "\x9b31m",
}  # fmt: skip


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry of files with such names, in a folder with such a name, that have such fields and side-cars."""
    folder = tmp_path_factory.mktemp("odd")
    for number, name in enumerate(NAMES.values()):
        path = adapter(
            folder / f"lib\n\x1b[1m/{name}.safetensors",
            number % 3,
            ss_output_name="\x1b[2J\nx",
            ss_tag_frequency="\x9b",
        )
        path.with_name(f"{name}.txt").write_text("\x1b[2J words\r\n\x07", "utf-8")
    (folder / "lib\n\x1b[1m/broken\x1b[2J.safetensors").write_bytes(b"<html>")
    adapterhub.index(folder, db=folder / "r.db", jobs=1)
    adapterhub.tag("#1", "\x1b[31mtag\n", db=folder / "r.db")
    adapterhub.note("#1", "\x1b[2J note \x07\nmore", db=folder / "r.db")
    adapterhub.alias("#2", "\x1b]0;alias\x07", db=folder / "r.db")
    return folder


def is_printable(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


ASKED = {
    "list": [], "list --csv": [], "list --nl": [], "list --json": [], "search": ["x"], "show": ["#1"], "show --json": ["#2"],
    "verify": [], "verify --json": [], "doctor": [], "doctor --json": [], "duplicates": [], "similar": ["#1"], "lineage": ["#1"],
    "export": [], "index": [], "tag": ["#1", "\x1b[1m"], "note": ["#1", "\x07"], "rate": ["#1", "5"], "alias": ["#3", "\x1b"],
    "doctor --rebuild": [],
}  # fmt: skip


@pytest.mark.parametrize("command", ASKED)
def test_no_command_lets_a_name_act_on_the_terminal(odd, cli, command):
    name, *options = command.split()
    outcome = cli(name, *ASKED[command], *options, "--db", odd / "r.db")
    assert outcome.status in (0, 1), outcome
    assert is_printable(outcome.out)
    assert is_printable(outcome.err)


def test_what_is_damaged_refused_locked_or_gone_is_named_escaped(odd, tmp_path, cli):
    db = tmp_path / "\x1b[2J.db"
    assert cli("backup", db, "--db", odd / "r.db").status == 0
    gone = tmp_path / "lib\x1b[1m"
    adapter(gone / "a\n\x1b[2J.safetensors", 1)
    cli("index", gone, "--db", db)
    outcomes = [cli("lock", "-o", gone / "l\x07", "--db", db)]
    (gone / "a\n\x1b[2J.safetensors").unlink()
    outcomes += [cli("verify", "--db", db), cli("doctor", "--db", db), cli("sync", gone / "l\x07", "--db", db)]
    outcomes += [cli("show", "\x1b[2J", "--db", db), cli("import", db, "--db", db), cli("restore", gone, "--db", db)]
    outcomes += [cli("export", "-o", db, "--db", db), cli("restore", db, "--db", tmp_path / "n\x07.db")]
    assert [outcome.status for outcome in outcomes] == [0, 1, 0, 1, 1, 3, 2, 2, 0]
    assert all(is_printable(outcome.out + outcome.err) for outcome in outcomes)


TYPED = (
    "show=NAME", "search=NAME", "search=NAME --fts", "verify=NAME", "similar=NAME", "lineage=NAME", "list --tag=NAME", "list --token=NAME",
    "list --problem=NAME", "list --layout=NAME", "list --under=NAME", "tag #1=NAME", "note #1=NAME", "alias #1=NAME",
)  # fmt: skip


@pytest.mark.parametrize("what", NAMES)
def test_a_name_is_data_wherever_it_is_typed(odd, cli, what):
    for typed in TYPED:
        before, after = typed.split("=", 1)
        words = before.split()
        given = [f"{words.pop()}={NAMES[what]}"] if words[-1].startswith("--") else ["--", NAMES[what]]
        outcome = cli(*words, *after.split()[1:], "--db", odd / "r.db", *given)
        assert outcome.status in (0, 1, 2), outcome
        assert "internal" not in outcome.err
    assert rows(odd / "r.db", "SELECT count(*) FROM records") == [(len(NAMES) + 1,)]


def test_what_lies_below_a_folder_is_found_whatever_the_names(tmp_path):
    folder = tmp_path / os.fsdecode(b"\xff")
    embedding(folder / "a.safetensors")
    embedding(tmp_path / os.fsdecode(b"b/\xfe.safetensors"))
    embedding(tmp_path / "b0/c.safetensors")
    adapterhub.index(tmp_path, db=tmp_path / "r.db", jobs=1)
    for under, count in ((folder, 1), (tmp_path / "b", 1), (tmp_path, 3)):
        assert len(adapterhub.list(Filter(under=under), db=tmp_path / "r.db")) == count


@pytest.fixture
def library(tmp_path: Path) -> Path:
    for number in range(40):
        embedding(tmp_path / f"lib/{'x' * (number % 9)}{number}.safetensors", note="n" * 2_000)
    return tmp_path / "lib"


COMMANDS: dict[str, Callable[[Path, Path], list[Any]]] = {
    "index": lambda db, library: ["index", library],
    "tag": lambda db, library: ["tag", "#1", "t"],
    "list": lambda db, library: ["list"],
    "search": lambda db, library: ["search", "x"],
    "show": lambda db, library: ["show", "#1"],
    "verify": lambda db, library: ["verify"],
    "doctor": lambda db, library: ["doctor"],
    "rebuild": lambda db, library: ["doctor", "--rebuild"],
    "backup": lambda db, library: ["backup", db.with_name("b"), "--force"],
    "export": lambda db, library: ["export"],
    "duplicates": lambda db, library: ["duplicates"],
    "lineage": lambda db, library: ["lineage", "#1"],
    "remove": lambda db, library: ["remove", "#1"],
    "lock": lambda db, library: ["lock", "-o", db.with_name("l"), "--force"],
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    for number in range(12):
        embedding(folder / f"lib/{'y' * number}.safetensors")
    adapterhub.index(folder / "lib", db=folder / "r.db", jobs=1)
    rows(folder / "r.db", "PRAGMA wal_checkpoint(TRUNCATE)")
    return folder


@pytest.mark.parametrize("seed", range(12))
def test_a_corrupt_database_gives_answers_or_errors_but_no_accident(sound, tmp_path, cli, seed):
    """Pages are overwritten, zeroed, cut off or swapped."""
    random = np.random.default_rng(seed)
    db, whole = tmp_path / "r.db", bytearray((sound / "r.db").read_bytes())
    one, other = (4096 * int(page) for page in random.choice(len(whole) // 4096, 2, replace=False))
    match seed % 4:
        case 0:
            whole[one : one + 4096] = random.bytes(4096)
        case 1:
            whole[one : one + 4096] = bytes(4096)
        case 2:
            del whole[max(one, 4096) :]
        case 3:
            whole[one : one + 4096], whole[other : other + 4096] = whole[other : other + 4096], whole[one : one + 4096]
    for command in COMMANDS.values():
        db.write_bytes(whole)
        for end in ("-wal", "-shm"):
            db.with_name(f"r.db{end}").unlink(missing_ok=True)
        outcome = cli(*command(db, sound / "lib"), "--db", db)
        assert "internal" not in outcome.err, (command(db, sound), outcome.err)


FOREIGN = {
    "another's": "PRAGMA application_id = 7", "a later version's": "PRAGMA user_version = 99", "text": None, "a picture": None,
}  # fmt: skip


@pytest.mark.parametrize("what", FOREIGN)
def test_what_is_none_of_ours_is_refused_by_every_command_and_untouched(sound, tmp_path, cli, what):
    db = tmp_path / "r.db"
    db.write_bytes((sound / "r.db").read_bytes())
    if (statement := FOREIGN[what]) is not None:
        rows(db, statement)
        rows(db, "PRAGMA wal_checkpoint(TRUNCATE)")
    else:
        db.write_bytes(b"no database " * 1000 if what == "text" else b"\x89PNG\r\n\x1a\n" + bytes(5000))
    before = db.read_bytes()
    for command in COMMANDS.values():
        outcome = cli(*command(db, sound / "lib"), "--db", db)
        assert (outcome.status, outcome.out) == (3, ""), outcome
    assert db.read_bytes() == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 kB."""
    with mounted(tmp_path / "disk", "300k") as disk:
        yield disk


def test_on_a_full_disk_that_is_said_and_what_was_there_stays(small_disk, library, cli, sound):
    db = small_disk / "r.db"
    outcome = cli("index", library, "--db", db, "--jobs", 1)
    assert outcome.status == 5
    assert "full" in outcome.err
    for name in ("doctor", "list", "verify"):
        assert cli(name, "--db", db).status in (0, 1)
    assert cli("backup", small_disk / "b.db", "--db", sound / "r.db").status in (0, 5)
    assert cli("export", "-o", small_disk / "e", "--db", sound / "r.db").status in (0, 5)
    assert not [path for path in small_disk.iterdir() if path.name.endswith(".partial")]


def test_where_files_may_not_grow_that_is_said_and_the_registry_is_sound(tmp_path, library, sound):
    """`ulimit -f`: writes fail as on a full disk, for every file of a process."""
    db = tmp_path / "r.db"
    db.write_bytes((sound / "r.db").read_bytes())
    before = content(db)
    limit = 60_000

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    for arguments in (["index", library, "--jobs", "1"], ["backup", tmp_path / "b.db"], ["export", "-o", tmp_path / "e"],
                      ["doctor", "--rebuild"], ["tag", "#1", *map(str, range(9000))]):  # fmt: skip
        done = subprocess.run([sys.executable, "-m", "adapterhub", *map(str, arguments), "--db", str(db)], capture_output=True,
                              text=True, preexec_fn=limited, cwd=ROOT)  # fmt: skip
        assert done.returncode in (0, 5), done.stderr
        assert "Traceback" not in done.stderr
        assert "internal" not in done.stderr
    assert rows(db, "PRAGMA integrity_check") == [("ok",)]
    assert before.keys() <= content(db).keys()
    assert not (tmp_path / "b.db").exists()


def test_a_registry_that_cannot_be_written_is_read(sound, tmp_path, cli):
    """Read-only by the file system, where that can be mounted, so that it binds root as well."""
    folder = tmp_path / "ro"
    folder.mkdir()
    adapterhub.backup(folder / "r.db", db=sound / "r.db")
    if subprocess.run(["mount", "--bind", folder, folder], capture_output=True).returncode:
        pytest.skip("a file system can be mounted by root only")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
        for name, command in COMMANDS.items():
            arguments = command(tmp_path / "r.db", sound / "lib")
            outcome = cli(*arguments, "--db", folder / "r.db")
            changes = name in ("index", "tag", "remove", "rebuild")
            assert outcome.status in ((5,) if changes else (0, 1, 2)), (name, outcome)
            assert "internal" not in outcome.err
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_two_indexers_and_ten_readers_at_once_fail_nowhere_and_lose_nothing(tmp_path):
    for number in range(120):
        path = tmp_path / f"lib/{number % 5}/{number}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"emb_params": np.full((1, 768), number, "f2")}, path)
    db = tmp_path / "r.db"
    adapterhub.index(tmp_path / "lib/0", db=db, jobs=1)
    start = [sys.executable, "-c", _MANY, str(db), str(tmp_path / "lib")]
    running = [
        subprocess.Popen([*start, what], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for what in ("index", "index", "read")
    ]
    failures = [one.communicate(timeout=60)[1] for one in running]
    assert [one.returncode for one in running] == [0, 0, 0], failures
    assert len(content(db)) == 120
    assert rows(db, "SELECT count(*) FROM records WHERE hashed = 0 OR missing IS NOT NULL") == [(0,)]
    assert adapterhub.doctor(db=db).findings == []


_MANY = """
import sys, threading
import adapterhub
db, folder, what = sys.argv[1:]
failed = []
def read():
    try:
        for _ in range(15):
            adapterhub.list(db=db), adapterhub.search("1", db=db), adapterhub.show("#1", db=db)
    except BaseException as error:
        failed.append(error)
if what == "index":
    adapterhub.index(folder, db=db, jobs=1)
else:
    readers = [threading.Thread(target=read) for _ in range(10)]
    [one.start() for one in readers], [one.join() for one in readers]
if failed:
    raise failed[0]
"""
