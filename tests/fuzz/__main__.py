"""`make fuzz`: every parser under atheris for some seconds: `python -m tests.fuzz [--seconds N] [--seed N] [TARGET]...`

Status 1 where something else than a refusal came out; the bytes that led there are kept, and said how to be run again.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from importlib.metadata import requires
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement

from tests.fuzz.seeds import LARGEST, SEEDS, dictionary, seeds

LIMITS = (f"-max_len={LARGEST}", "-rss_limit_mb=1024", "-timeout=10")
"""Bytes of an input, MB of memory that fuzzer and target take together, seconds of one input."""
_COVERAGE = re.compile(r"^#\d+\s+\w+\s+cov: (\d+)", re.MULTILINE)
_TOTAL = re.compile(r"^stat::(\w+): +(\d+)", re.MULTILINE)
_TOTALS = ("number_of_executed_units", "average_exec_per_sec", "peak_rss_mb")
_MEMORY = Path("/dev/shm")
"""Where files take no disk, on Linux."""
_SAID = 4000
"""Characters of what libFuzzer says last that are shown of a finding."""


class Report(NamedTuple):
    """What one target did in a process of its own; `findings` are files."""

    name: str
    status: int
    said: str
    findings: list[Path]

    @property
    def is_sound(self) -> bool:
        """Whether there were runs, and nothing came out of them but what may."""
        return not self.status and self._totals()[0] > 0

    def __str__(self) -> str:
        covered, (runs, each, memory) = _COVERAGE.findall(self.said) or ["0"], self._totals()
        verdict = "sound" if self.is_sound else f"FAILED with status {self.status}"
        growth = f"{covered[0]:>5} to {covered[-1]:>5}"
        return f"{self.name:9}{runs:10,} runs {each:7,}/s   coverage {growth}   {memory:4} MB   {verdict}"

    def details(self) -> str:
        """What libFuzzer said last, and how each finding is seen again."""
        again = [f"again: {sys.executable} -m tests.fuzz.one {self.name} {path}" for path in self.findings]
        return "\n".join([self.said[-_SAID:], *(again or ["libFuzzer kept no file"])])

    def _totals(self) -> list[int]:
        told = dict(_TOTAL.findall(self.said))
        return [int(told.get(name, 0)) for name in _TOTALS]


def main() -> int:
    """Print a line a target, and what is to be known of each finding."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz the parsers.")
    parser.add_argument("targets", metavar="TARGET", nargs="*", help=f"of {', '.join(SEEDS)} (default: all)")
    parser.add_argument("--seconds", type=int, default=5, help="for each target (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations; the same again where it is not 0")
    wanted = parser.parse_args()
    if unknown := {*wanted.targets} - SEEDS.keys():
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    if find_spec("atheris") is None:
        print("NOTHING WAS FUZZED: atheris is not installed", file=sys.stderr)
        return int(_is_required())
    sound = True
    for name in wanted.targets or SEEDS:
        report = _fuzzed(name, wanted.seconds, wanted.seed)
        print(report, flush=True)
        if not report.is_sound:
            sound = False
            print(report.details(), file=sys.stderr)
    return int(not sound)


def _is_required() -> bool:
    """Whether the tests ask for atheris on this Python and machine; on others it has no wheel."""
    asked = (Requirement(line) for line in requires("adapterhub") or ())
    return any(one.name == "atheris" and (not one.marker or one.marker.evaluate({"extra": "test"})) for one in asked)


def _fuzzed(name: str, seconds: int, seed: int) -> Report:
    findings = Path(tempfile.mkdtemp(prefix=f"adapterhub-fuzz-{name}-"))
    with tempfile.TemporaryDirectory(prefix="adapterhub-fuzz-", dir=_MEMORY if _MEMORY.is_dir() else None) as folder:
        corpus, words = Path(folder, "corpus"), Path(folder, "words")
        corpus.mkdir()
        for number, content in enumerate(seeds(name)):
            (corpus / str(number)).write_bytes(content)
        words.write_text(dictionary(name))
        done = subprocess.run(
            [sys.executable, "-m", "tests.fuzz.one", name, corpus, f"-dict={words}", f"-max_total_time={seconds}", f"-seed={seed}",
             f"-artifact_prefix={findings}/", "-print_final_stats=1", *LIMITS],
            env={**os.environ, "TMPDIR": folder}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
    found = sorted(findings.iterdir())
    if not found:
        findings.rmdir()
    return Report(name, done.returncode, done.stdout, found)


if __name__ == "__main__":
    sys.exit(main())
