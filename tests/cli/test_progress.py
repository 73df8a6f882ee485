"""The line of progress on a real (pseudo-)terminal, and its absence everywhere else."""

import contextlib
import os
import pty
import re
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

import adapterhub
from adapterhub.cli import progress

CONVERT = """
import sys
from adapterhub.cli import progress, run
progress.PATIENCE = 0
sys.exit(run(sys.argv[1:]))
"""
FOREVER = """
import sys, time
import click
from adapterhub import cli
from adapterhub.cli import progress
from adapterhub.files.progress import tell

@click.command()
def write():
    tell(expected=10 << 20)
    while True:
        tell(1 << 10)
        time.sleep(0.12)

class Writing(cli.Commands):
    def get_command(self, ctx, cmd_name):
        return write

progress.PATIENCE = 0
cli.adapterhub = Writing("adapterhub")
sys.exit(cli.run(["write"]))
"""
INTERRUPTED = """
import os, signal, sys
import adapterhub
from adapterhub.cli import run
with adapterhub.watched(lambda written, expected: written and os.kill(os.getpid(), signal.SIGINT)):
    sys.exit(run(sys.argv[1:]))
"""
MIB = 1 << 20


@pytest.fixture
def kohya_pair(tmp_path):
    """Two LoRAs of rank 4 for the same layer."""
    head, rng = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q", np.random.default_rng(0)
    paths = [tmp_path / f"{name}.safetensors" for name in "ab"]
    for path in paths:
        down, up = (rng.standard_normal(shape).astype(np.float16) for shape in ((4, 320), (320, 4)))
        tensors = {
            f"{head}.lora_down.weight": down,
            f"{head}.lora_up.weight": up,
            f"{head}.alpha": np.array(4, np.float16),
        }
        save_file(tensors, path)
    return paths


def on_terminal(program, *arguments, until=None, environment=None):
    """(exit status, what a terminal was sent): once it has shown `until`, somebody presses Ctrl-C."""
    child, terminal = pty.fork()
    if not child:
        os.environ.update({"TERM": "xterm", "COLUMNS": "100", "NO_COLOR": "1"} | (environment or {}))
        os.execv(sys.executable, [sys.executable, "-c", program, *map(str, arguments)])
    seen = b""
    with contextlib.suppress(OSError):  # the other end is closed: EIO
        while chunk := os.read(terminal, 4096):
            seen += chunk
            if until and re.search(until, seen):
                os.write(terminal, b"\x03")
                until = None
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(terminal)
    return status, seen.decode()


def left(seen):
    """What the terminal still shows: the text behind the last time that a line was taken away."""
    return re.split(r"\x1b\[2K", seen)[-1].replace("\r", "")


@pytest.fixture
def large(tmp_path):
    """A LoRA of 9 MB, so that it is written in several steps."""
    head = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_{}"
    tensors = {}
    for name, width in (("attn1_to_q", 320), ("attn1_to_k", 320), ("attn2_to_k", 768)):
        tensors[head.format(name) + ".lora_down.weight"] = np.ones((2000, width), np.float16)
        tensors[head.format(name) + ".lora_up.weight"] = np.ones((320, 2000), np.float16)
        tensors[head.format(name) + ".alpha"] = np.float16(4)
    save_file({name: np.array(value) for name, value in tensors.items()}, tmp_path / "large.safetensors")
    return tmp_path / "large.safetensors"


def convert(large, name, *more):
    return ["convert", large, "--to", "diffusers", "-o", large.with_name(name), *more]


def test_a_terminal_shows_bytes_and_rate_and_nothing_of_it_is_left(large):
    status, seen = on_terminal(CONVERT, *convert(large, "out.safetensors"))
    assert status == 0
    assert re.search(r"working .* \d\.\d/9\.5 MB .* -?:--:--", seen)
    assert "\x1b[?25h" in seen  # the cursor is back
    assert left(seen).removeprefix("\x1b[?25h").startswith("from ")


def test_a_file_is_the_same_whether_somebody_watches_or_not(large):
    on_terminal(CONVERT, *convert(large, "watched.safetensors"))
    subprocess.run([sys.executable, "-c", CONVERT, *convert(large, "alone.safetensors")], check=True)
    assert large.with_name("watched.safetensors").read_bytes() == large.with_name("alone.safetensors").read_bytes()


def test_what_is_not_a_terminal_gets_nothing(large):
    done = subprocess.run([sys.executable, "-c", CONVERT, *convert(large, "out.safetensors")], capture_output=True)
    assert done.returncode == 0
    assert done.stderr == b""
    assert b"working" not in done.stdout


def test_a_terminal_that_can_do_nothing_gets_nothing(large):
    status, seen = on_terminal(CONVERT, *convert(large, "out.safetensors"), environment={"TERM": "dumb"})
    assert status == 0
    assert seen.startswith("from ")


def test_json_for_a_program_comes_without_progress(large):
    out = large.with_name("out.json")
    program = CONVERT.replace("sys.exit(", f"sys.stdout = open({str(out)!r}, 'w')\nsys.exit(")
    status, seen = on_terminal(program, *convert(large, "out.safetensors", "--json"))
    assert (status, seen) == (0, "")
    assert out.read_text("utf-8").startswith("{")


def test_an_interrupt_takes_the_line_away_and_exits_130():
    status, seen = on_terminal(FOREVER, until=rb"working .*/10\.5 MB [\d.]+ kB/s \d+:\d\d:\d\d")
    assert status == 130
    assert "\x1b[?25h" in seen
    assert left(seen) == "\nerror: interrupted\n"


def test_an_interrupted_conversion_leaves_no_file(large):
    done = subprocess.run([sys.executable, "-c", INTERRUPTED, *convert(large, "out.safetensors")], capture_output=True)
    assert (done.returncode, done.stderr) == (130, b"\nerror: interrupted\n")
    assert [path.name for path in large.parent.iterdir()] == [large.name]


def test_who_watches_is_told_every_byte_that_is_written(large, tmp_path):
    told = []
    target = tmp_path / "out.safetensors"
    with adapterhub.watched(lambda written, expected: told.append((written, expected))):
        adapterhub.convert(large, target, to="diffusers")
    assert sum(written for written, _ in told) == sum(expected for _, expected in told) == target.stat().st_size
    told.clear()
    adapterhub.convert(large, tmp_path / "again.safetensors", to="diffusers")
    assert told == []


def test_who_watches_is_told_of_what_is_computed_with(tmp_path, kohya_pair):
    told = []
    a, b = kohya_pair
    calls = {
        "resize": lambda out: adapterhub.resize(a, out, rank=1),
        "combine": lambda out: adapterhub.combine([a, b], out, rank=2),
    }
    for name, call in calls.items():
        told.clear()
        out = tmp_path / f"{name}.safetensors"
        with adapterhub.watched(lambda done, expected: told.append((done, expected))):
            call(out)
        assert sum(done for done, _ in told) == sum(expected for _, expected in told) > out.stat().st_size
        open_at_the_end = [sum(expected - done for done, expected in told[:count]) for count in range(1, len(told) + 1)]
        assert min(open_at_the_end) == open_at_the_end[-1] == 0


def test_what_is_written_quickly_shows_nothing(capsys, monkeypatch):
    monkeypatch.setattr(progress, "PATIENCE", 60)
    shown = progress._Line()
    shown(0, 2 * MIB)
    shown(MIB, 0)
    assert capsys.readouterr() == ("", "")
