"""What one process takes, and how a run of several is told."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from statistics import median
from typing import NamedTuple

RUNS = 5


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


def typical(*command: str, runs: int = RUNS) -> Cost:
    """The medians of `runs` runs."""
    return Cost(*map(median, zip(*(cost(*command) for _ in range(runs)), strict=True)))


def adapterhub(*arguments: str) -> tuple[str, ...]:
    """The command line of adapterhub in this interpreter."""
    return (sys.executable, "-m", "adapterhub", *arguments)


def _per_megabyte() -> float:
    """ru_maxrss counts kilobytes, on macOS bytes."""
    return 1e6 if sys.platform == "darwin" else 1e3
