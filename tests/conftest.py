"""What every test may ask for."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from safetensors.numpy import save_file

from adapterhub.cli import run

ROOT = Path(__file__).parents[1]
REAL = Path(os.environ.get("ADAPTERHUB_REAL_FILES", ROOT.parent / "shared" / "real"))


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing is remembered from one run of the tests to the next, nor written into anyone's home: a user's registry is not seen."""
    os.environ["ADAPTERHUB_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["XDG_DATA_HOME"] = str(tmp_path_factory.mktemp("data"))
    os.environ.pop("ADAPTERHUB_DB", None)


@pytest.fixture(autouse=True, scope="session")
def _interruptible() -> None:
    """What tests start can be interrupted: a shell lets the jobs in its background ignore that, and children inherit it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Outcome(NamedTuple):
    """What a command line did."""

    status: int
    out: str
    err: str


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """`cli("inspect", path)`: the command line in this process."""

    def call(*arguments: object) -> Outcome:
        capsys.readouterr()
        status = run([str(argument) for argument in arguments])
        return Outcome(status, *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def real_files() -> Path:
    """The folder of files that public projects carry; tests that need it are skipped where it is absent."""
    if not REAL.is_dir():
        pytest.skip(f"no real files at {REAL}: set ADAPTERHUB_REAL_FILES")
    return REAL


@pytest.fixture
def style(tmp_path: Path) -> Path:
    """A Kohya LoRA for one linear layer of SD 1.x."""
    head = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    tensors = {
        f"{head}.lora_down.weight": np.full((4, 320), 0.5, np.float16),
        f"{head}.lora_up.weight": np.full((320, 4), 0.25, np.float16),
        f"{head}.alpha": np.array(4, np.float16),
    }
    path = tmp_path / "style.safetensors"
    save_file(tensors, path)
    return path
