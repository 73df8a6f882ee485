"""One target in this process: `python -m tests.fuzz.one TARGET [FILE | FOLDER | libFuzzer option]...`

A FILE is run once, which shows a finding again; from a FOLDER on, libFuzzer goes its own ways.
"""

from __future__ import annotations

import random
import sys
from contextlib import suppress


def main(name: str, arguments: list[str]) -> None:
    """Hands the process over to libFuzzer, which ends it."""
    import atheris

    with atheris.instrument_imports(include=["adapterhub.files", "adapterhub.tensors"]):
        from tests.fuzz.targets import TARGETS
    target = TARGETS[name]

    def once(content: bytes) -> None:
        with suppress(*target.refuses):
            target.read(content)

    def mutated(content: bytes, most: int, seed: int) -> bytes:
        def change(part: bytes) -> bytes:
            return bytes(atheris.Mutate(part, most))

        return target.mutate(content, change, random.Random(seed))[:most]

    atheris.Setup([sys.argv[0], *arguments], once, custom_mutator=mutated)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
