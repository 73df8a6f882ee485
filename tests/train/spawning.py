"""Command lines in processes of their own, which can be killed: forked from one that has imported everything and computed nothing.

python -m tests.train.spawning      reads {"words": [...], "fault": …} a line, and answers with the process, then its status
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class Spawner:
    """The process that forks."""

    def __init__(self, folder: Path) -> None:
        self.errors = folder / "stderr.txt"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.train.spawning", str(self.errors)], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def run(
        self, words: Sequence[str], fault: str | None = None, during: Callable[[int], None] | None = None
    ) -> tuple[int, str]:
        """Its exit status (that of a signal negative) and what it said on standard error; `during` gets its number meanwhile."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"words": [*words], "fault": fault}) + "\n")
        self.process.stdin.flush()
        pid = int(self.process.stdout.readline())
        if during is not None:
            during(pid)
        return int(self.process.stdout.readline()), self.errors.read_text("utf-8")

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)


def after(folder: Path, steps: int, number: int) -> Callable[[int], None]:
    """Sends signal `number` when the log has `steps` lines."""

    def send(pid: int) -> None:
        log = folder / "log.jsonl"
        ends = time.monotonic() + 120
        while time.monotonic() < ends:
            if log.is_file() and log.read_bytes().count(b"\n") >= steps:
                os.kill(pid, number)
                return
            time.sleep(0.01)
        os.kill(pid, signal.SIGKILL)
        raise AssertionError(f"no {steps} steps in two minutes")

    return send


def _killed_in_writing() -> None:
    """The second state is cut off by a kill."""
    import torch

    save, calls = torch.save, []

    def cut(value: Any, path: Path) -> None:
        save(value, path)
        calls.append(path)
        if len(calls) == 2:
            os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    torch.save = cut


def _full_disk() -> None:
    """No file grows above 40 kB, from the second state on: a smaller one is already there."""
    import resource

    import torch

    save, calls = torch.save, []

    def limited(value: Any, path: Path) -> None:
        calls.append(path)
        if len(calls) == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        save(value, path)

    torch.save = limited


FAULTS = {"killed in writing": _killed_in_writing, "full disk": _full_disk}


def _serve(errors: Path) -> None:
    from adapterhub.cli import run
    from tests.train.trainings import TECHNIQUES

    for technique in TECHNIQUES:
        __import__(f"adapterhub.train.{technique}")
    for line in sys.stdin:
        asked = json.loads(line)
        errors.write_bytes(b"")
        child = os.fork()
        if not child:
            said = os.open(errors, os.O_WRONLY)
            os.dup2(said, 1)
            os.dup2(said, 2)
            if asked["fault"]:
                FAULTS[asked["fault"]]()
            os._exit(run(asked["words"]))
        print(child, flush=True)
        status = os.waitpid(child, 0)[1]
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
