"""duplicates and similar: what is the same again, and how much of a relative something is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import adapterhub
from adapterhub.adapter import Kind
from adapterhub.errors import NotFound
from adapterhub.operations.lora import deltas
from adapterhub.operations.source import open_adapter
from adapterhub.sketch import DIMENSIONS, sketch
from tests.operations import made_loras
from tests.registry.libraries import adapter, cast, embedding

FIXTURES = Path(__file__).parents[2] / "fixtures"


def groups(db: Path, **asked: bool) -> dict[str, list[set[str]]]:
    found: dict[str, list[set[str]]] = {}
    for group in adapterhub.duplicates(db=db, **asked).groups:
        found.setdefault(group.how, []).append({Path(member.path).name for member in group.members})
    return found


def test_files_adapters_casts_and_relatives_are_told_apart(tmp_path):
    style = adapter(tmp_path / "style.safetensors", 1)
    shutil.copyfile(style, tmp_path / "copy.safetensors")
    adapterhub.convert(style, tmp_path / "diffusers.safetensors", to="diffusers")
    adapterhub.convert(style, tmp_path / "peft", to="peft")
    cast(style, tmp_path / "wide.safetensors", "f4")
    adapterhub.convert(style, tmp_path / "cast.safetensors", to="kohya", dtype="bf16")
    adapter(tmp_path / "epoch.safetensors", 1, noise=0.3)
    adapter(tmp_path / "stranger.safetensors", 2)
    adapterhub.index(tmp_path, db=tmp_path / "r.db")
    assert groups(tmp_path / "r.db") == {
        "file": [{"style.safetensors", "copy.safetensors"}],
        "adapter": [{"copy.safetensors", "diffusers.safetensors", "peft", "wide.safetensors"}],
        "cast": [{"cast.safetensors", "copy.safetensors"}],
        "relatives": [{"cast.safetensors", "copy.safetensors", "epoch.safetensors"}],
    }
    assert "relatives" not in groups(tmp_path / "r.db", relatives=False)


def test_a_likely_cast_is_confirmed_or_denied_by_diff(tmp_path):
    style = adapter(tmp_path / "style.safetensors", 1)
    adapterhub.convert(style, tmp_path / "cast.safetensors", to="kohya", dtype="bf16")
    adapter(tmp_path / "near.safetensors", 1, noise=0.01)
    adapterhub.index(tmp_path, db=tmp_path / "r.db")
    told = {frozenset(Path(one.path).stem for one in group.members): group
            for group in adapterhub.duplicates(db=tmp_path / "r.db", confirm=True).groups if group.how == "cast"}  # fmt: skip
    true, false = told[frozenset({"style", "cast"})], told[frozenset({"style", "near"})]
    assert (true.confirmed, false.confirmed) == (True, False)
    assert true.max_error < 2**-7 < false.max_error


def test_edited_metadata_makes_no_other_adapter(tmp_path):
    adapter(tmp_path / "a.safetensors", 1)
    adapter(tmp_path / "b.safetensors", 1, note="edited")
    adapterhub.index(tmp_path, db=tmp_path / "r.db")
    assert groups(tmp_path / "r.db") == {"adapter": [{"a.safetensors", "b.safetensors"}]}


def test_hard_links_are_said_to_take_no_room(tmp_path, cli):
    style = adapter(tmp_path / "style.safetensors", 1)
    os.link(style, tmp_path / "link.safetensors")
    adapterhub.index(tmp_path, db=tmp_path / "r.db")
    assert "hard links" in cli("duplicates", "--db", tmp_path / "r.db").out


def test_what_is_missing_or_unread_is_in_no_group(tmp_path):
    style = adapter(tmp_path / "style.safetensors", 1)
    shutil.copyfile(style, tmp_path / "copy.safetensors")
    adapterhub.index(tmp_path, db=tmp_path / "r.db", hash=False)
    found = adapterhub.duplicates(db=tmp_path / "r.db")
    assert (found.groups, found.waiting) == ([], 2)
    adapterhub.index(tmp_path, db=tmp_path / "r.db")
    style.unlink()
    adapterhub.index(tmp_path, db=tmp_path / "r.db")
    assert adapterhub.duplicates(db=tmp_path / "r.db").groups == []


def test_similar_tells_cosine_and_strength(tmp_path):
    style = adapter(tmp_path / "style.safetensors", 1)
    adapterhub.scale(style, tmp_path / "half.safetensors", 0.5)
    adapterhub.scale(style, tmp_path / "against.safetensors", -1.0)
    adapter(tmp_path / "epoch.safetensors", 1, noise=0.3)
    adapter(tmp_path / "stranger.safetensors", 2)
    embedding(tmp_path / "word.safetensors")
    adapterhub.index(tmp_path, db=tmp_path / "r.db")
    found = {Path(one.member.path).stem: one for one in adapterhub.similar("style", db=tmp_path / "r.db").similar}
    assert found.keys() == {"half", "against", "epoch"}
    assert (round(found["half"].cosine, 6), round(found["half"].strength, 6)) == (1.0, 0.5)
    assert (round(found["against"].cosine, 6), round(found["against"].strength, 6)) == (-1.0, -1.0)
    assert 0.7 < found["epoch"].cosine < 0.99
    assert adapterhub.similar("stranger", db=tmp_path / "r.db").similar == []
    (tmp_path / "broken.safetensors").write_bytes(b"<html>")
    adapterhub.index(tmp_path, db=tmp_path / "r.db")
    with pytest.raises(NotFound, match="has no sketch"):
        adapterhub.similar("broken", db=tmp_path / "r.db")


class TestSketch:
    """The sketch is a random projection of ΔW: its angles and lengths are those of the changes, within what chance allows."""

    @pytest.mark.parametrize("name", ["lora", "locon", "loha", "lokr", "full", "residual"])
    def test_its_length_is_that_of_the_change(self, name):
        with open_adapter(FIXTURES / f"kohya/sd1-{name}.safetensors") as source:
            seen = np.frombuffer(sketch(source.adapter), "<f4").astype("f8")
            whole = sum(float((deltas.change(roles, None) ** 2).sum()) for roles in source.adapter.modules().values())
        assert seen.shape == (DIMENSIONS,)
        if name != "residual":  # whose residual is left out
            assert abs(np.linalg.norm(seen) / DIMENSIONS**0.5 / whole**0.5 - 1) < 0.25

    @pytest.mark.parametrize(
        "make", [made_loras.lora, made_loras.loha, made_loras.lokr], ids=lambda make: make.__name__
    )
    def test_it_is_the_same_of_the_product_multiplied_out(self, make, tmp_path):
        """A LoRA, LoHa or LoKr and the `.diff` that it is have one sketch, to float32's rounding."""
        from safetensors.numpy import save_file

        head, shape = made_loras.head(made_loras.LINEAR), made_loras.SHAPES[made_loras.LINEAR]
        save_file(
            {f"{head}.{name}": np.asarray(value) for name, value in make(shape).items()}, tmp_path / "a.safetensors"
        )
        with open_adapter(tmp_path / "a.safetensors") as source:
            ((_, roles),) = source.adapter.modules().items()
            change = deltas.change(roles, None).numpy()
            factored = np.frombuffer(sketch(source.adapter), "<f4").astype("f8")
        save_file({f"{head}.diff": change.astype("f4")}, tmp_path / "b.safetensors")
        with open_adapter(tmp_path / "b.safetensors") as source:
            whole = np.frombuffer(sketch(source.adapter), "<f4").astype("f8")
        assert np.linalg.norm(factored - whole) < 1e-5 * np.linalg.norm(whole)

    def test_strangers_are_at_right_angles(self, tmp_path):
        made = []
        for seed in range(40):
            with open_adapter(adapter(tmp_path / f"{seed}.safetensors", seed)) as source:
                made.append(np.frombuffer(sketch(source.adapter), "<f4").astype("f8"))
        units = np.array(made) / np.linalg.norm(made, axis=1, keepdims=True)
        cosines = (units @ units.T)[np.triu_indices(40, 1)]
        assert abs(cosines.mean()) < 0.01
        assert 0.04 < cosines.std() < 0.09

    @settings(deadline=None, max_examples=20)
    @given(angle=st.floats(0.1, 3.0))
    def test_its_angle_is_that_of_the_changes(self, angle, tmp_path_factory):
        from safetensors.numpy import save_file

        random = np.random.default_rng(3)
        one, other = (random.standard_normal((320, 768)) for _ in range(2))
        other -= one * (one * other).sum() / (one**2).sum()
        other *= np.linalg.norm(one) / np.linalg.norm(other)
        found = []
        folder = tmp_path_factory.mktemp("angle")
        for number, change in enumerate((one, np.cos(angle) * one + np.sin(angle) * other)):
            head = made_loras.head(made_loras.LINEAR)
            save_file({f"{head}.diff": change.astype("f4")}, folder / f"{number}.safetensors")
            with open_adapter(folder / f"{number}.safetensors") as source:
                found.append(np.frombuffer(sketch(source.adapter), "<f4").astype("f8"))
        cosine = found[0] @ found[1] / np.linalg.norm(found[0]) / np.linalg.norm(found[1])
        assert abs(cosine - np.cos(angle)) < 0.25

    def test_what_is_not_finite_and_whole_models_have_none(self, tmp_path):
        from safetensors.numpy import load_file, save_file

        style = adapter(tmp_path / "a.safetensors", 1)
        tensors = load_file(style)
        next(value for value in tensors.values() if value.ndim > 1)[0, 0] = np.inf
        save_file(tensors, style)
        with open_adapter(style) as source:
            assert sketch(source.adapter) is None
            whole = type(source.adapter)(Kind.CHECKPOINT, "sd1", {}, {})
        assert sketch(whole) is None
