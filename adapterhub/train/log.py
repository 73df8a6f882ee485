"""The log of a training: a line of JSON a step."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

LOG = "log.jsonl"


class Progress(NamedTuple):
    """A step that was made: its number from 1, its loss, the norm of its gradient, and seconds since training began."""

    step: int
    steps: int
    loss: float
    norm: float
    seconds: float


Watch = Callable[[Progress], None]


@contextmanager
def written(folder: Path, first: int) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Takes lines; what a stopped run wrote beyond its state, which has `first` steps, is cut off."""
    path = folder / LOG
    kept = lines(folder)[:first]
    with path.open("w", encoding="utf-8") as log:
        log.writelines(kept)

        def tell(values: dict[str, Any]) -> None:
            finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
            log.write(json.dumps(finite) + "\n")
            log.flush()

        yield tell


def lines(folder: Path) -> list[str]:
    """What is in the log so far."""
    path = folder / LOG
    return path.read_text("utf-8", errors="replace").splitlines(keepends=True) if path.is_file() else []
