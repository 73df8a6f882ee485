"""The fingerprint of a large adapter is computed for its first merge, and remembered for exactly what it follows from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from adapterhub import inspect, merge
from adapterhub.errors import MalformedFile
from adapterhub.operations.merge import marks
from adapterhub.operations.source import open_adapter
from tests.operations.merge_files import base, lora

Computed = list[str]


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Computed:
    """The fingerprints that were really computed; every adapter is large."""
    found: Computed = []
    true = marks.fingerprint

    def noted(adapter: object) -> str:
        found.append(true(adapter))
        return found[-1]

    monkeypatch.setattr(marks, "fingerprint", noted)
    monkeypatch.setattr(marks, "_WORTHWHILE", 0)
    monkeypatch.setenv("ADAPTERHUB_CACHE", str(tmp_path / "cache"))
    return found


def told(path: Path) -> str:
    """The adapter's fingerprint in the recipe of a merge."""
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["adapterhub.recipe"])["inputs"][1]["fingerprint"]


def test_the_second_merge_of_an_adapter_tells_what_the_first_computed(tmp_path: Path, computed: Computed) -> None:
    model, a = base(tmp_path / "base.safetensors"), lora(tmp_path / "a.safetensors")
    outs = [tmp_path / f"{strength}.safetensors" for strength in (0.5, 0.7)]
    for out, strength in zip(outs, (0.5, 0.7), strict=True):
        merge(model, [(a, strength)], out, architecture="sd1")
    (wanted,) = computed
    assert [told(out) for out in outs] == [wanted, wanted] == [inspect(a, hash=True).fingerprint] * 2


def test_small_adapters_are_marked_each_time(
    tmp_path: Path, computed: Computed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marks, "_WORTHWHILE", 1 << 30)
    model, a = base(tmp_path / "base.safetensors"), lora(tmp_path / "a.safetensors")
    for _ in range(2):
        merge(model, [(a, 0.5)], tmp_path / "out.safetensors", architecture="sd1", force=True)
    assert len(computed) == 2
    assert not list((tmp_path / "cache").rglob("fingerprint/*"))


def test_what_is_read_otherwise_has_a_mark_of_its_own(tmp_path: Path, computed: Computed) -> None:
    """A LoRA of the modules that SD 1 and SD 2 share is of either; they call some of them by different names."""
    a = lora(tmp_path / "a.safetensors")
    for architecture in ("sd1", "sd1", "sd2"):
        with open_adapter(a, architecture=architecture) as source:
            marks.mark(source, "0" * 64)
    assert len(computed) == 2
    with open_adapter(a, architecture="sd1") as source:
        marks.mark(source, "1" * 64)
    assert len(computed) == 3


def test_what_is_left_out_is_not_taken_for_the_whole(tmp_path: Path, computed: Computed) -> None:
    a = lora(tmp_path / "a.safetensors")
    tensors = load_file(a)
    save_file({**tensors, "something.else": tensors[next(iter(tensors))].clone()}, a)
    for _ in range(2):
        with open_adapter(a, architecture="sd1", allow_loss=True) as source:
            assert source.dropped
            marks.mark(source, "0" * 64)
    assert len(computed) == 2


def test_a_file_that_changed_since_it_was_hashed_is_not_remembered(
    tmp_path: Path, computed: Computed, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = lora(tmp_path / "a.safetensors")
    other = lora(tmp_path / "b.safetensors", 1)
    noted = marks.fingerprint

    def changing(adapter: object) -> str:
        other.replace(a)
        return noted(adapter)

    monkeypatch.setattr(marks, "fingerprint", changing)
    with pytest.raises(MalformedFile, match="changed"), open_adapter(a, architecture="sd1") as source:
        marks.mark(source, "0" * 64)
    assert not list((tmp_path / "cache").rglob("fingerprint/*"))


def test_a_forecast_knows_what_is_remembered(tmp_path: Path, computed: Computed) -> None:
    with open_adapter(lora(tmp_path / "a.safetensors"), architecture="sd1") as source:
        assert marks.cost(source, "0" * 64) > source.package.size
        marks.mark(source, "0" * 64)
        assert marks.cost(source, "0" * 64) == 0
