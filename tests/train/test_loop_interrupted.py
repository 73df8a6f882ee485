"""Trainings that are killed, stopped, or run out of disk: they go on, and end with the same bytes."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from adapterhub import train
from adapterhub.errors import MalformedFile, UsageError
from tests.train.spawning import Spawner, after
from tests.train.trainings import BUSY, TECHNIQUES, digests, flags, settings

BaseOf = Callable[[str], Path]
OFTEN = {"save_every": 1, "steps": 12, "batch": 1, **BUSY}


@pytest.fixture(scope="module")
def spawner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spawner]:
    made = Spawner(tmp_path_factory.mktemp("spawner"))
    yield made
    made.close()


def states(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if "state" in path.name)


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_a_run_that_is_killed_again_and_again_ends_with_the_bytes_of_one_that_was_not(
    technique: str, base_of: BaseOf, pictures: Path, tmp_path: Path, spawner: Spawner
) -> None:
    there = tmp_path / "killed" / "fox"
    words = flags(technique, base_of("sd1"), pictures, there, **OFTEN)
    assert spawner.run(words, "killed in writing")[0] == -signal.SIGKILL
    assert [name for name in states(there) if not name.startswith(".")] == ["state-00000001"]
    assert len(states(there)) == 2  # the half of the second
    for steps in (4, 9):
        assert spawner.run([*words, "--resume"], during=after(there, steps, signal.SIGKILL))[0] == -signal.SIGKILL
    status, said = spawner.run([*words, "--resume"])
    assert status == 0, said
    train.run(settings(technique, base_of("sd1"), pictures, tmp_path / "whole" / "fox", **OFTEN))
    assert digests(there) == digests(tmp_path / "whole" / "fox")
    assert (there / "log.jsonl").read_text() == (tmp_path / "whole" / "fox" / "log.jsonl").read_text()
    assert states(there) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_saves_and_ends_with_130(
    number: signal.Signals, base_of: BaseOf, pictures: Path, tmp_path: Path, spawner: Spawner
) -> None:
    there = tmp_path / "fox"
    words = flags("lora", base_of("sd1"), pictures, there, steps=100_000, batch=1)
    status, said = spawner.run(words, during=after(there, 2, number))
    assert (status, said.splitlines()[-1]) == (130, "error: interrupted")
    (state,) = states(there)
    assert int(state.removeprefix("state-")) == len((there / "log.jsonl").read_text().splitlines())
    assert json.loads((there / state / "state.json").read_text())["step"] >= 2


def test_a_full_disk_ends_with_5_and_leaves_the_state_before(
    base_of: BaseOf, pictures: Path, tmp_path: Path, spawner: Spawner
) -> None:
    there = tmp_path / "fox"
    words = flags("lora", base_of("sd1"), pictures, there, **OFTEN)
    status, said = spawner.run(words, "full disk")
    assert (status, states(there)) == (5, ["state-00000001"]), said
    assert "the state cannot be written" in said
    assert "Traceback" not in said
    assert spawner.run([*words, "--resume"])[0] == 0


def stopped(base: Path, images: Path, there: Path, **changes: object) -> None:
    """A training that ends after its second step of three."""

    def watch(done: train.loop.Progress) -> None:
        if done.step == 2:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        train.run(settings("lora", base, images, there, **changes), watch=watch)


def test_a_state_of_another_training_is_refused_and_named(base_of: BaseOf, pictures: Path, tmp_path: Path) -> None:
    there = tmp_path / "fox"
    stopped(base_of("sd1"), pictures, there)
    config = (there / "config.toml").read_bytes()
    for changes, named in (
        ({"rank": 3, "seed": 9}, "rank, seed"),
        ({"prompt": "a dog"}, "prompt, the subject"),
        ({"steps": 9}, "steps"),
    ):
        with pytest.raises(UsageError, match=f"other settings: {named}"):
            train.run(settings("lora", base_of("sd1"), pictures, there, **changes), resume=True)
    with pytest.raises(UsageError, match="other settings: the base"):
        train.run(settings("lora", base_of("sd2"), pictures, there), resume=True)
    assert (there / "config.toml").read_bytes() == config
    assert states(there) == ["state-00000003"]


def test_a_folder_that_holds_something_is_refused(base_of: BaseOf, pictures: Path, tmp_path: Path) -> None:
    there = tmp_path / "fox"
    told = settings("lora", base_of("sd1"), pictures, there, steps=1)
    there.mkdir()
    (there / "notes.txt").write_text("mine")
    for resume in (False, True):
        with pytest.raises(UsageError, match=r"exists|no training that was stopped"):
            train.run(told, resume=resume)
    train.run(told, force=True)
    assert (there / "notes.txt").read_text() == "mine"
    with pytest.raises(UsageError, match="holds no training that was stopped"):
        train.run(told, resume=True)
    other = tmp_path / "other"
    stopped(base_of("sd1"), pictures, other)
    with pytest.raises(UsageError, match="holds a training that was stopped"):
        train.run(settings("lora", base_of("sd1"), pictures, other))
    train.run(settings("lora", base_of("sd1"), pictures, other, steps=1), force=True)
    assert states(other) == []


@pytest.mark.parametrize("name", ["state.json", "optimizer.pt", "trained.safetensors"])
def test_a_damaged_state_is_refused(name: str, base_of: BaseOf, pictures: Path, tmp_path: Path) -> None:
    there = tmp_path / "fox"
    stopped(base_of("sd1"), pictures, there)
    path = there / "state-00000003" / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(MalformedFile, match="the state is damaged"):
        train.run(settings("lora", base_of("sd1"), pictures, there), resume=True)


def test_what_may_change_on_the_way_changes_no_number(base_of: BaseOf, pictures: Path, tmp_path: Path) -> None:
    there = tmp_path / "a" / "fox"
    stopped(base_of("sd1"), pictures, there)
    train.run(settings("lora", base_of("sd1"), pictures, there, sample_every=2, save_every=1), resume=True)
    train.run(settings("lora", base_of("sd1"), pictures, tmp_path / "b" / "fox"))
    one, other = (load_file(tmp_path / name / "fox" / "fox.safetensors") for name in "ab")
    assert all(torch.equal(one[name], other[name]) for name in one | other)
