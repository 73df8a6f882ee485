"""`make bench`: what commands cost, each as a whole process, beside the limit that it has to keep."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from statistics import median
from typing import NamedTuple

RUNS = 5


class Cost(NamedTuple):
    """What one process took: seconds of processor, seconds of wall time, MB of memory at its peak."""

    cpu: float
    wall: float
    peak: float


class Limit(NamedTuple):
    """A command line and the seconds of processor that it may take."""

    arguments: tuple[str, ...]
    cpu: float


LIMITS = (
    Limit(("--help",), 0.15),
    Limit(("--version",), 0.15),
)


def cost(*command: str) -> Cost:
    """Run `command` to its end and say what it took; its output is dropped."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit status {process.returncode}")
    return Cost(usage.ru_utime + usage.ru_stime, time.perf_counter() - start, usage.ru_maxrss / _per_megabyte())


def typical(*command: str) -> Cost:
    """The medians of RUNS runs."""
    return Cost(*map(median, zip(*(cost(*command) for _ in range(RUNS)), strict=True)))


def main() -> int:
    """Print a line a command; status 1 if one is above its limit."""
    above = 0
    for arguments, limit in LIMITS:
        found = typical(sys.executable, "-m", "adapterhub", *arguments)
        above += found.cpu > limit
        name = " ".join(arguments)
        print(f"{name:30} {found.cpu:6.3f} CPU-s of {limit:.2f}  {found.wall:6.3f} s  {found.peak:6.0f} MB")
    return int(above > 0)


def _per_megabyte() -> float:
    """ru_maxrss counts kilobytes, on macOS bytes."""
    return 1e6 if sys.platform == "darwin" else 1e3


if __name__ == "__main__":
    sys.exit(main())
