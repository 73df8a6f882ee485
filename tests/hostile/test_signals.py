"""Commands that are asked to end from outside, as Ctrl-C does it: nothing half written stays, and the status tells which signal."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from adapterhub import cli

ENDING = {signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGINT: 130}
"""The status that a shell gives each."""
SLOW = """
import sys, time
import adapterhub
from adapterhub.cli import main

def slow(written, expected):
    if written:
        print("writing", flush=True)
        time.sleep(60)

with adapterhub.watched(slow):
    main()
"""
ON_TERMINAL = """
import fcntl, os, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
"""
"""Standard input becomes the terminal whose end this process is told."""
INDEXING = """
import sys, time
from adapterhub.cli import main
from adapterhub.registry import workers

def slow(work, batch):
    print("reading", flush=True)
    time.sleep(2)
    return work(batch)

workers._worked = slow
workers.carried_out.__kwdefaults__["few"] = 1
main()
"""


def started(program: str, *arguments: object, before: str = "", until: str = "ing\n") -> subprocess.Popen[str]:
    """A command line in a process group of its own, at its first word on standard output."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    process = subprocess.Popen(
        ["sh", "-c", f'{before} exec "$@"', "sh", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert until in process.stdout.readline()
    return process


@pytest.mark.parametrize("number", ENDING)
@pytest.mark.parametrize("to", ["diffusers", "peft"])
def test_a_conversion_that_is_asked_to_end_leaves_nothing(style: Path, number: signal.Signals, to: str) -> None:
    target = style.with_name("out" if to == "peft" else "out.safetensors")
    process = started(SLOW, "convert", style, "--to", to, "-o", target)
    assert len(list(style.parent.iterdir())) == 2, "it does not write beside the target"
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert [path.name for path in style.parent.iterdir()] == [style.name]
    told = "interrupted" if number == signal.SIGINT else f"interrupted by {number.name}"
    assert (process.returncode, said) == (ENDING[number], f"\nerror: {told}\n")


def test_what_is_to_outlive_its_terminal_does(style: Path) -> None:
    target = style.with_name("out.safetensors")
    program = SLOW.replace("60", "0.5")
    process = started(program, "convert", style, "--to", "diffusers", "-o", target, before="trap '' HUP;")
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=30)
    assert (process.returncode, target.is_file()) == (0, True)


@pytest.mark.parametrize("number", ENDING)
def test_the_processes_that_read_for_an_index_end_with_it(style: Path, tmp_path: Path, number: signal.Signals) -> None:
    for name in "abcd":
        (tmp_path / f"{name}.safetensors").write_bytes(style.read_bytes())
    process = started(INDEXING, "index", tmp_path, "--db", tmp_path / "r.db", "--jobs", "2")
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, "Traceback" in said) == (ENDING[number], False), said


@pytest.mark.parametrize("number", ENDING)
def test_who_watches_folders_ends_with_the_status_of_the_signal(style: Path, number: signal.Signals) -> None:
    process = started(
        "from adapterhub.cli import main; main()", "watch", style.parent, "--db", style.with_name("r.db"), until="new"
    )
    time.sleep(1)  # until the library that watches has begun
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == ENDING[number]


def test_a_terminal_that_is_gone_is_no_second_error(style: Path) -> None:
    terminal, side = os.openpty()
    target = style.with_name("out.safetensors")
    process = subprocess.Popen(
        [sys.executable, "-c", ON_TERMINAL + SLOW, "convert", style, "--to", "diffusers", "-o", target], stdin=side, stderr=side,
        stdout=subprocess.PIPE, text=True, env={**os.environ, "TERM": "dumb"},
    )  # fmt: skip
    os.close(side)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    os.close(terminal)
    assert process.wait(30) == 129
    assert [path.name for path in style.parent.iterdir()] == [style.name]


def test_a_command_line_within_a_program_leaves_its_signals_alone(style: Path) -> None:
    before = {number: signal.getsignal(number) for number in ENDING}
    assert cli.run(["inspect", str(style)]) == 0
    assert {number: signal.getsignal(number) for number in ENDING} == before
