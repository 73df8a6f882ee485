"""What one process takes, and how a run of several is told."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

RUNS = 5
ROOM = 15 << 30
"""Bytes for a whole SDXL and what it becomes, or for what diffusers takes of memory for it."""
_TAKEN_BACK = 3.0
"""Seconds after which a virtual machine's host has taken back the memory that was freed."""


class Cost(NamedTuple):
    """Seconds of processor, seconds of wall time, MB of memory at its peak."""

    cpu: float
    wall: float
    peak: float


class Row(NamedTuple):
    """One line of the report: a figure and the limit that it has to keep (`at_least` turns the comparison round)."""

    name: str
    figure: float
    limit: float
    unit: str
    at_least: bool = False

    @property
    def kept(self) -> bool:
        return self.figure >= self.limit if self.at_least else self.figure <= self.limit

    def __str__(self) -> str:
        sign, mark = "≥" if self.at_least else "≤", "" if self.kept else "   ABOVE" if not self.at_least else "   BELOW"
        return f"{self.name:64} {self.figure:8.2f} {sign} {self.limit:g} {self.unit}{mark}"


def cost(*command: str) -> Cost:
    """Run `command` to its end and say what it took; its output is dropped."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit status {process.returncode}")
    return Cost(usage.ru_utime + usage.ru_stime, time.perf_counter() - start, usage.ru_maxrss / _per_megabyte())


def best(target: Path, *command: str, runs: int) -> Cost:
    """The quickest of some runs that write `target`, each of which finds nothing there and memory that is as new to it as to the
    other commands that it is compared with: what was freed just now is twice as quick to write as what the host must give anew.
    """
    found = []
    for _ in range(runs):
        remove(target)
        os.sync()  # what is still written out takes the disk from what is measured
        time.sleep(_TAKEN_BACK)
        found.append(cost(*command))
    return min(found, key=lambda one: one.wall)


def warm(*paths: Path) -> None:
    """Has files, and those in folders, in the system's cache."""
    for path in paths:
        for file in path.rglob("*") if path.is_dir() else (path,):
            if file.is_file():
                cost("cat", str(file))


def available() -> int:
    """Bytes of memory that a process could take, so far as Linux says; files that are cached count."""
    told = Path("/proc/meminfo")
    lines = told.read_text().splitlines() if told.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), 0)


def remove(target: Path) -> None:
    """A file or a folder, if it is there."""
    if target.is_dir():
        shutil.rmtree(target)
    target.unlink(missing_ok=True)


def typical(*command: str, runs: int = RUNS) -> Cost:
    """The medians of `runs` runs."""
    return Cost(*map(median, zip(*(cost(*command) for _ in range(runs)), strict=True)))


def adapterhub(*arguments: str) -> tuple[str, ...]:
    """The command line of adapterhub in this interpreter."""
    return (sys.executable, "-m", "adapterhub", *arguments)


def made(what: str, path: Path, *arguments: str) -> str:
    """A file of full size at `path`."""
    cost(sys.executable, "-m", "tests.benchmarks.files", what, str(path), *arguments)
    return str(path)


def _per_megabyte() -> float:
    """ru_maxrss counts kilobytes, on macOS bytes."""
    return 1e6 if sys.platform == "darwin" else 1e3
