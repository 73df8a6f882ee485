"""A dry run says what the result takes: its bytes exactly, memory and seconds as numbers that a sample gave; and writes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import adapterhub
from adapterhub.documents import Conversion
from adapterhub.operations import forecast
from adapterhub.operations.forecast import Load, sampled
from adapterhub.operations.merge.undo import Recorder
from tests.operations.made_loras import SHAPES, lora, saved
from tests.operations.merge_files import base
from tests.operations.merge_files import lora as merged_lora


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    saved(tmp_path / "a.safetensors", {module: lora(shape, rank=8) for module, shape in SHAPES.items()})
    base(tmp_path / "base.safetensors")
    merged_lora(tmp_path / "small.safetensors")
    adapterhub.merge(tmp_path / "base.safetensors", [tmp_path / "small.safetensors"], tmp_path / "tuned.safetensors",
                     architecture="sd1", undo=tmp_path / "undo")  # fmt: skip
    return tmp_path


CALLS: dict[str, Callable[[Path, Path, bool], Conversion]] = {
    "convert": lambda folder, out, dry: adapterhub.convert(folder / "a.safetensors", out, to="comfyui", dry_run=dry),
    "convert a model": lambda folder, out, dry: adapterhub.convert(
        folder / "base.safetensors", out, to="single-file", dtype="bf16", architecture="sd1", dry_run=dry
    ),
    "resize": lambda folder, out, dry: adapterhub.resize(folder / "a.safetensors", out, rank=2, dry_run=dry),
    "combine": lambda folder, out, dry: adapterhub.combine([folder / "a.safetensors"] * 2, out, dry_run=dry),
    "extract": lambda folder, out, dry: adapterhub.extract(
        folder / "tuned.safetensors", folder / "base.safetensors", out, rank=1, architecture="sd1", dry_run=dry
    ),
    "merge": lambda folder, out, dry: adapterhub.merge(
        folder / "base.safetensors", [folder / "small.safetensors"], out, architecture="sd1", dry_run=dry
    ),
    "unmerge": lambda folder, out, dry: adapterhub.unmerge(
        folder / "tuned.safetensors", [], out, undo=folder / "undo", dry_run=dry
    ),
}


@pytest.mark.parametrize("command", CALLS)
def test_a_dry_run_foretells_and_leaves_nothing(command: str, inputs: Path) -> None:
    out = inputs / "out" / "made.safetensors"
    out.parent.mkdir()
    before = sorted(inputs.rglob("*"))
    told = CALLS[command](inputs, out, True)
    assert sorted(inputs.rglob("*")) == before
    assert told.forecast is not None
    assert 30e6 < told.forecast.memory < 100e9
    assert 0 <= told.forecast.seconds < 600
    done = CALLS[command](inputs, out, False)
    assert done.forecast is None
    assert told.size == done.size
    assert done.size == out.stat().st_size


def test_what_an_undo_file_holds_is_foretold(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is packed lies in memory to the end: as many bytes for each of the weights as a sample of them takes."""
    shares: list[float] = []
    measured = Recorder.share.fget
    assert measured is not None

    def share(recorder: Recorder) -> float:
        shares.append(measured(recorder))
        return 1e9

    monkeypatch.setattr(Recorder, "share", property(share))
    done = adapterhub.merge(inputs / "base.safetensors", [inputs / "small.safetensors"], inputs / "out.safetensors",
                            architecture="sd1", undo=inputs / "new.undo", dry_run=True)  # fmt: skip
    assert done.forecast is not None
    assert done.forecast.memory > 1e9
    assert 0 < shares[0] < 20  # zstandard's frames are larger than weights of four numbers


def test_people_are_told(inputs: Path, cli: Callable[..., object]) -> None:
    found = str(cli("merge", inputs / "base.safetensors", inputs / "small.safetensors", "-o", inputs / "x.safetensors",
                    "--architecture", "sd1", "--dry-run"))  # fmt: skip
    assert "would take" in found
    assert "of memory, about" in found


def test_a_sample_speaks_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(forecast.time, "process_time", lambda: clock[0])

    def work(item: int) -> None:
        clock[0] += 0.001 * item

    items = list(range(1, 101))
    assert sampled(items, work, lambda item: item) == pytest.approx(0.001 * sum(items))
    assert sampled([], work, lambda item: item) == 0


@pytest.mark.parametrize(
    ("load", "seconds"),
    [
        (Load(1.0, 0), 1.0),
        (Load(1.0, 100), 1.0 + 10.0),  # one thing alone takes as long as it takes
        (Load(0.0, 0, spread=8.0, threads=2), 8 / 1.9),
        (Load(0.0, 0, spread=8.0, threads=1), 8.0),
        (Load(0.0, 0, hashed=1000), 10.0),
        (Load(0.0, 0, reread=1000), 10.0),
        (Load(0.0, 100, spread=8.0, threads=2, hashed=1000), 28 / 1.9),
    ],
)
def test_what_runs_side_by_side_shares_the_cores(
    load: Load, seconds: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(forecast, "_written_a_second", lambda place, size: (10.0, 0))
    monkeypatch.setattr(forecast, "_hashed_a_second", lambda: 100.0)
    monkeypatch.setattr(forecast.os, "cpu_count", lambda: 2)
    assert forecast.forecast(load, tmp_path / "out").seconds == pytest.approx(seconds, abs=1e-3)


def test_a_folder_that_cannot_be_written_to_is_no_failure_of_a_forecast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(**_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(forecast.tempfile, "TemporaryFile", refused)
    assert forecast.forecast(Load(1.0, 32 << 20), tmp_path / "absent" / "out").seconds == 2
