"""A writer that is killed, out of space, out of rights or not alone: the target is whole, old, or not there."""

import errno
import fcntl
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapterhub import files
from adapterhub.errors import MachineFailure, MalformedFile, OutputExists
from adapterhub.files import File, Package
from adapterhub.tensors import LazyTensor, from_bytes

WRITER = """
import sys
from pathlib import Path
from adapterhub import files
from adapterhub.files import File, Package
from adapterhub.tensors import from_bytes
target, value, size, container = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
tensors = {f"t{i}": from_bytes("U8", (size,), bytes([value]) * size) for i in range(8)}
kind = "safetensors" if container == "directory" else container
package = Package.new({"pytorch_lora_weights.safetensors": File(tensors, container=kind)}, container=container)
print("ready", flush=True)
while True:
    files.write(package, target, force=True)
"""
CONTAINERS = {"out.safetensors": "safetensors", "out": "directory", "out.pt": "torch-zip"}
"""What is written under each name."""


def package(value: int, size: int = 10, container: str = "safetensors") -> Package:
    tensors = {f"t{i}": from_bytes("U8", (size,), bytes([value]) * size) for i in range(8)}
    kind = "safetensors" if container == "directory" else container
    return Package.new({"pytorch_lora_weights.safetensors": File(tensors, container=kind)}, container=container)


def start(target: Path, value: int, size: int) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(target), str(value), str(size), CONTAINERS[target.name]],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def value_of(target: Path) -> int:
    """The value that all tensors at `target` hold; anything torn is refused on the way, or seen here."""
    with files.read(target) as found:
        values = {value for tensor in found.only.tensors.values() for chunk in tensor.chunks() for value in set(chunk)}
        assert len(found.only.tensors) == 8
    (value,) = values
    return value


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_writer_killed_at_any_moment_leaves_the_old_or_the_new_and_nothing_beside_it_after_the_next_run(
    tmp_path: Path, name: str
) -> None:
    target = tmp_path / name
    container = CONTAINERS[name]
    files.write(package(0, container=container), target)
    chance = random.Random(8)
    left_behind = 0
    for value in range(1, 13):
        process = start(target, value, 300_000)
        time.sleep(chance.uniform(0, 0.06))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        left_behind += len(list(tmp_path.iterdir())) - 1
        assert value_of(target) <= value
        files.write(package(0, container=container), target, force=True)
        assert [path.name for path in tmp_path.iterdir()] == [name]
        assert value_of(target) == 0
    assert left_behind, "no kill came while a file was being written"


def test_a_writer_killed_before_there_was_a_target_leaves_none(tmp_path: Path) -> None:
    def chunks() -> Iterator[bytes]:
        yield bytes(8)
        os.kill(os.getpid(), signal.SIGKILL)

    target = tmp_path / "out.safetensors"
    child = os.fork()
    if not child:
        files.write(Package.new({"x": File({"x": LazyTensor("U8", (16,), chunks)})}), target)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".out.safetensors.")
    files.write(package(1), target)
    assert [path.name for path in tmp_path.iterdir()] == ["out.safetensors"]


def test_what_another_writer_is_still_writing_is_not_removed(tmp_path: Path) -> None:
    theirs, dead = tmp_path / ".out.00000000.partial", tmp_path / ".out.11111111.partial"
    other = tmp_path / ".outer.00000000.partial"
    for path in (theirs, dead, other):
        path.write_text("x")
    with theirs.open() as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        files.write(package(1), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == [theirs.name, other.name, "out"]


@pytest.mark.parametrize("container", CONTAINERS.values())
def test_of_many_writers_of_one_new_target_one_wins_whole(tmp_path: Path, container: str) -> None:
    target, outcomes = tmp_path / "out", []

    def attempt(value: int) -> None:
        try:
            files.write(package(value, 100_000, container), target)
            outcomes.append("written")
        except OutputExists:
            outcomes.append("exists")

    threads = [threading.Thread(target=attempt, args=[value]) for value in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["exists"] * 5 + ["written"]
    assert value_of(target) in range(6)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_of_two_writers_that_replace_a_target_the_last_one_wins_whole(tmp_path: Path) -> None:
    target = tmp_path / "out.safetensors"
    processes = [start(target, value, 100_000) for value in (1, 2)]
    try:
        deadline, seen = time.monotonic() + 20, set()
        while seen != {1, 2} and time.monotonic() < deadline:
            if target.exists():
                seen.add(value_of(target))
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert seen == {1, 2}


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("name", CONTAINERS)
def test_without_space_nothing_is_written_and_the_old_file_stays(tmp_path: Path, old: bool, name: str) -> None:
    target = tmp_path / name
    container = CONTAINERS[name]
    if old:
        files.write(package(3, container=container), target)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(MachineFailure, match=f"cannot write {target}: File too large") as caught:
            files.write(package(1, 100_000, container), target, force=old)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.EFBIG
    assert [path.name for path in tmp_path.iterdir()] == ([name] if old else [])
    assert not old or value_of(target) == 3


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True)
    if done.returncode:
        pytest.skip("no right to mount a small disk")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_full_disk_is_a_failure_of_the_machine(small_disk: Path, name: str) -> None:
    target, container = small_disk / name, CONTAINERS[name]
    files.write(package(3, container=container), target)
    with pytest.raises(MachineFailure, match="No space left on device"):
        files.write(package(1, 300_000, container), target, force=True)
    assert value_of(target) == 3
    assert [path.name for path in small_disk.iterdir()] == [name]


def test_a_folder_without_write_permission_is_a_failure_of_the_machine(tmp_path: Path) -> None:
    if not os.getuid():
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(MachineFailure, match="Permission denied"):
            files.write(package(1), tmp_path / "out.safetensors")
    finally:
        tmp_path.chmod(0o700)
    assert list(tmp_path.iterdir()) == []


def test_a_file_without_read_permission_is_a_failure_of_the_machine(tmp_path: Path) -> None:
    if not os.getuid():
        pytest.skip("root may read everything")
    files.write(package(1), tmp_path / "in.safetensors")
    (tmp_path / "in.safetensors").chmod(0)
    with pytest.raises(MachineFailure, match="Permission denied"):
        files.read(tmp_path / "in.safetensors")


def test_a_source_that_shrinks_while_it_is_copied_leaves_no_file(tmp_path: Path) -> None:
    source, target = tmp_path / "in.safetensors", tmp_path / "out.safetensors"
    files.write(package(1, 100_000), source)
    with files.read(source) as found:
        os.truncate(source, source.stat().st_size - 1)
        with pytest.raises(MalformedFile, match="changed while"):
            files.write(found, target)
    assert [path.name for path in tmp_path.iterdir()] == ["in.safetensors"]
