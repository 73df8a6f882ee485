"""Components that a model of its architecture has, and one model lacks."""

from __future__ import annotations

from collections.abc import Iterator

import adapterhub.architectures as architectures
from adapterhub.adapter import Adapter
from adapterhub.documents import Problem
from adapterhub.layouts.base import Layout
from adapterhub.layouts.checkpoint import single_file
from adapterhub.layouts.checkpoint.aside import ASIDE
from adapterhub.operations.checkpoint.vae import VAE
from adapterhub.operations.problems import warning


def lacking(adapter: Adapter, layout: Layout) -> Iterator[Problem]:
    """A warning where a pipeline of the model cannot work; a component alone in a file is none."""
    there = {part for part in adapter.components() if part != ASIDE}
    gone = [part for part in architectures.get(adapter.architecture).parts if part not in there]
    if gone and not (layout is single_file.LAYOUT and len(there) == 1):
        yield warning("missing-components", gone[0],
                      f"the model has no {', '.join(gone)}: a pipeline of it does not open, or makes no images", _mend(gone))  # fmt: skip


def _mend(gone: list[str]) -> str:
    others = ", ".join(part for part in gone if part != VAE)
    mends = ["--vae FILE adds a VAE"] if VAE in gone else []
    mends += [f"get the model with its {others}, or give that to the pipeline when it is opened"] if others else []
    told = "; ".join(mends)
    return f"{told[0].upper()}{told[1:]}."
