"""lineage and replay: what a file was made of, what was made of it, and made again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import safe_open

import adapterhub
from adapterhub import embeddings
from adapterhub.documents import Conversion
from adapterhub.errors import NotFound, RefusedInput, UsageError
from adapterhub.registry.lineage import told_by
from tests.operations.merge_files import base, lora
from tests.registry.libraries import adapter, embedding, rows

Write = Callable[..., Conversion]


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "r.db"


@pytest.fixture
def write(db: Path) -> Write:
    """Runs a function of ours and records what it wrote, as the command line does."""

    def call(function: Callable[..., Conversion], *given: object, **asked: object) -> Conversion:
        done = function(*given, **asked)
        adapterhub.record(done, db=db)
        return done

    return call


def steps(db: Path, ref: object) -> set[tuple[str, str, str, str]]:
    """(parent, command, child, how it was found) of a lineage, by names."""
    found = adapterhub.lineage(str(ref), db=db)
    names = {node.key: node.name for node in found.nodes}
    return {(names[step.parent], step.command, names[step.child], step.by) for step in found.steps}


def recipe(path: Path) -> dict[str, object]:
    with safe_open(path, "np") as file:
        return json.loads(file.metadata()["adapterhub.recipe"])


def test_a_file_tells_its_parents_command_parameters_and_version(tmp_path):
    style = adapter(tmp_path / "private" / "style.safetensors", 1)
    done = adapterhub.convert(style, tmp_path / "out.safetensors", to="diffusers", dtype="fp32")
    told = adapterhub.inspect(style, hash=True)
    assert recipe(tmp_path / "out.safetensors") == {
        "command": "convert",
        "version": adapterhub.__version__,
        "parameters": {"source": {"input": 0}, "to": "diffusers", "dtype": "fp32"},
        "inputs": [{"name": "style.safetensors", "sha256": told.hashes.sha256, "fingerprint": told.fingerprint}],
    }
    assert done.recipe.model_dump(exclude_none=True) == {
        **recipe(tmp_path / "out.safetensors"),
        "output": "out.safetensors",
    }
    assert "private" not in (tmp_path / "out.safetensors").read_bytes().decode("latin-1")


def test_nothing_is_told_where_nothing_was_written(tmp_path):
    done = adapterhub.convert(
        adapter(tmp_path / "a.safetensors"), tmp_path / "b.safetensors", to="diffusers", dry_run=True
    )
    assert done.recipe is None


def test_both_ways_over_several_generations(tmp_path, db, write):
    style, other = adapter(tmp_path / "style.safetensors", 1), adapter(tmp_path / "other.safetensors", 2)
    write(adapterhub.convert, style, tmp_path / "d" / "renamed.safetensors", to="diffusers")
    write(adapterhub.combine, [(tmp_path / "d" / "renamed.safetensors", 0.5), other], tmp_path / "both.safetensors")
    write(adapterhub.resize, tmp_path / "both.safetensors", tmp_path / "small.safetensors", rank=2)
    chain = {
        ("style", "convert", "renamed", "sha256"),
        ("renamed", "combine", "both", "sha256"),
        ("other", "combine", "both", "sha256"),
        ("both", "resize", "small", "sha256"),
    }
    assert steps(db, "small") == chain
    assert steps(db, "style") == chain - {("other", "combine", "both", "sha256")}
    assert steps(db, "renamed") == chain - {("other", "combine", "both", "sha256")}


def test_a_merge_tells_which_adapters_it_contains(tmp_path, db, write):
    model, a = base(tmp_path / "base.safetensors"), lora(tmp_path / "a.safetensors")
    write(adapterhub.merge, model, [(a, 0.8)], tmp_path / "merged.safetensors")
    assert steps(db, "merged") == {("base", "merge", "merged", "sha256"), ("a", "merge", "merged", "sha256")}
    assert steps(db, "a") == {("a", "merge", "merged", "sha256")}


def test_the_same_adapter_in_another_file_stands_in_for_a_parent(tmp_path, db):
    style = adapter(tmp_path / "gone" / "style.safetensors", 1)
    (tmp_path / "kept").mkdir()
    adapterhub.convert(style, tmp_path / "kept" / "other.safetensors", to="diffusers")
    adapterhub.resize(style, tmp_path / "kept" / "small.safetensors", rank=2)
    shutil.rmtree(tmp_path / "gone")
    adapterhub.index(tmp_path / "kept", db=db)
    assert ("other", "resize", "small", "fingerprint") in steps(db, "small")
    assert ("other", "resize", "small", "fingerprint") in steps(db, "other")


def test_a_parent_that_nobody_knows_is_named(tmp_path, db):
    style = adapter(tmp_path / "style.safetensors", 1)
    (tmp_path / "kept").mkdir()
    adapterhub.resize(style, tmp_path / "kept" / "small.safetensors", rank=2)
    adapterhub.index(tmp_path / "kept", db=db)
    assert steps(db, "small") == {("style.safetensors", "resize", "small", "name")}


def test_lineage_survives_moves_and_other_names(tmp_path, db, write):
    style = adapter(tmp_path / "lib" / "style.safetensors", 1)
    write(adapterhub.convert, style, tmp_path / "lib" / "out.safetensors", to="diffusers")
    style.rename(tmp_path / "lib" / "renamed.safetensors")
    adapterhub.index(tmp_path / "lib", db=db)
    assert steps(db, "out") == {("renamed", "convert", "out", "sha256")}


@pytest.mark.parametrize(("metadata", "command", "inputs"), [
    ({"ss_new_sd_model_hash": "A" * 64, "ss_sd_model_name": "/home/me/base.safetensors"}, "training (Kohya)", [("base.safetensors", "a" * 64)]),
    ({"ss_new_sd_model_hash": "short"}, None, []),
    ({"sd_merge_models": json.dumps({"b" * 64: {"name": "one"}, "c" * 64: {"name": "two"}}), "sd_merge_recipe": '{"type": "webui"}'},
     "merge (A1111)", [("one", "b" * 64), ("two", "c" * 64)]),
    ({"sd_merge_models": "[1]"}, None, []),
    ({"adapterhub.recipe": "{"}, None, []),
    ({"adapterhub.recipe": "[]"}, None, []),
    ({"adapterhub.recipe": '{"command": 1}'}, None, []),
    ({}, None, []),
])  # fmt: skip
def test_others_tell_where_a_file_came_from_too(metadata, command, inputs):
    found = told_by(metadata)
    assert (None if found is None else found.command) == command
    assert [(one.name, one.sha256) for one in (found.inputs if found else [])] == inputs


def test_a_training_is_a_step_from_its_base(tmp_path, db):
    model = base(tmp_path / "base.safetensors")
    digest = adapterhub.inspect(model, hash=True).hashes.sha256
    adapter(tmp_path / "style.safetensors", 1, ss_new_sd_model_hash=digest, ss_sd_model_name="base.safetensors")
    adapterhub.index(tmp_path, db=db)
    assert steps(db, "base") == {("base", "training (Kohya)", "style", "sha256")}
    with pytest.raises(RefusedInput, match="was made by training"):
        adapterhub.replay("style", db=db)


def _converted(folder: Path) -> tuple[Callable[..., Conversion], tuple[object, ...], dict[str, object]]:
    return (
        adapterhub.convert,
        (adapter(folder / "a.safetensors", 1), f"{folder}/out/"),
        {"to": "diffusers", "dtype": "fp32"},
    )


def _peft(folder: Path) -> tuple[Callable[..., Conversion], tuple[object, ...], dict[str, object]]:
    return adapterhub.convert, (adapter(folder / "a.safetensors", 1), folder / "peft"), {"to": "peft"}


def _scaled(folder: Path) -> tuple[Callable[..., Conversion], tuple[object, ...], dict[str, object]]:
    return (
        adapterhub.scale,
        (adapter(folder / "a.safetensors", 1), folder / "out.safetensors", 0.3),
        {"into": "weights"},
    )


def _combined(folder: Path) -> tuple[Callable[..., Conversion], tuple[object, ...], dict[str, object]]:
    twins = [adapter(folder / name / "a.safetensors", seed) for seed, name in enumerate("xy")]
    return adapterhub.combine, ([(twins[0], 0.25), twins[1]], folder / "out.safetensors"), {"rank": 3}


def _merged(folder: Path) -> tuple[Callable[..., Conversion], tuple[object, ...], dict[str, object]]:
    (folder / "factors.toml").write_text('"unet.*" = 0.5\n')
    model, a = base(folder / "base.safetensors"), lora(folder / "a.safetensors")
    return (
        adapterhub.merge,
        (model, [(a, 0.5, 1.0)], folder / "out.safetensors"),
        {"dtype": "bf16", "rounding": "stochastic", "seed": 3, "blocks": str(folder / "factors.toml")},
    )


def _unmerged(folder: Path) -> tuple[Callable[..., Conversion], tuple[object, ...], dict[str, object]]:
    model, a = base(folder / "base.safetensors"), lora(folder / "a.safetensors")
    adapterhub.merge(model, [a], folder / "merged.safetensors", undo=folder / "undo.safetensors")
    return adapterhub.unmerge, (folder / "merged.safetensors", [(a, 0.5)], folder / "out.safetensors"), {}


def _embedding(folder: Path) -> tuple[Callable[..., Conversion], tuple[object, ...], dict[str, object]]:
    words = [embedding(folder / "one.safetensors"), embedding(folder / "other.safetensors")]
    return (
        embeddings.merge,
        ([words[0], (words[1], 0.5)], folder / "out.pt"),
        {"token": "both", "method": "concat", "to": "a1111"},
    )


@pytest.mark.parametrize(
    "made", [_converted, _peft, _scaled, _combined, _merged, _unmerged, _embedding], ids=lambda made: made.__name__[1:]
)
def test_what_was_made_is_made_again_to_the_same_hash(made, tmp_path, db, write):
    """Inputs moved and renamed meanwhile, and no more than the registry to find them by."""
    (tmp_path / "first").mkdir()
    function, given, asked = made(tmp_path / "first")
    done = write(function, *given, **asked)
    (tmp_path / "first").rename(tmp_path / "second")
    for number, path in enumerate(sorted((tmp_path / "second").rglob("*.safetensors"))):
        if path.parent.name not in ("out", "unet"):
            path.rename(path.with_name(f"{number}.safetensors"))
    adapterhub.index(tmp_path / "second", db=db)
    place = Path(str(done.target.path).replace("first", "second"))
    there = place if place.exists() else next(path for path in place.parent.iterdir() if _is(path, done))
    again = adapterhub.replay(str(there), tmp_path / "again.out", db=db)
    assert (again.same, again.found) == (True, again.wanted)
    assert (tmp_path / "again.out").exists()
    assert adapterhub.replay(str(there), db=db).same


def _is(path: Path, done: Conversion) -> bool:
    import hashlib

    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == done.target.sha256


def test_a_replay_needs_the_very_inputs(tmp_path, db, write):
    style = adapter(tmp_path / "style.safetensors", 1)
    write(adapterhub.resize, style, tmp_path / "small.safetensors", rank=2)
    style.unlink()
    with pytest.raises(NotFound, match=r"was made of style\.safetensors, which cannot be found"):
        adapterhub.replay("small", db=db)


def test_what_nobody_recorded_is_not_made_again(tmp_path, db):
    adapter(tmp_path / "style.safetensors", 1)
    adapterhub.index(tmp_path, db=db)
    with pytest.raises(NotFound, match="not recorded how style was made"):
        adapterhub.replay("style", db=db)


def test_a_replay_overwrites_nothing_unasked(tmp_path, db, write):
    write(adapterhub.resize, adapter(tmp_path / "style.safetensors", 1), tmp_path / "small.safetensors", rank=2)
    (tmp_path / "mine").write_bytes(b"mine")
    with pytest.raises(UsageError, match="exists"):
        adapterhub.replay("small", tmp_path / "mine", db=db)
    assert (tmp_path / "mine").read_bytes() == b"mine"


class TestCommandLine:
    def test_what_a_command_wrote_is_recorded_at_once(self, cli, tmp_path, db):
        style = adapter(tmp_path / "style.safetensors", 1)
        assert cli("convert", style, "--to", "diffusers", "-o", f"{tmp_path}/d/", "--db", db).status == 0
        assert rows(db, "SELECT name, hashed FROM records ORDER BY name") == [("pytorch_lora_weights", 1), ("style", 1)]
        out = cli("lineage", f"{tmp_path}/d/", "--db", db)
        assert "└── #" in out.out
        assert "[convert]" in out.out
        assert "same adapter in other files" in cli("duplicates", "--db", db).out
        assert cli("replay", f"{tmp_path}/d/", "--db", db).status == 0

    def test_without_a_registry_none_is_made(self, cli, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
        monkeypatch.delenv("ADAPTERHUB_DB", raising=False)
        cli("convert", adapter(tmp_path / "a.safetensors"), "--to", "diffusers", "-o", tmp_path / "b.safetensors")
        assert not (tmp_path / "data").exists()

    def test_the_environment_names_a_registry(self, cli, tmp_path, monkeypatch, db):
        monkeypatch.setenv("ADAPTERHUB_DB", str(db))
        cli("resize", adapter(tmp_path / "a.safetensors"), "--rank", 2, "-o", tmp_path / "b.safetensors")
        assert rows(db, "SELECT command FROM recipes") == [("resize",)]

    def test_a_registry_that_fails_loses_no_file(self, cli, tmp_path):
        (tmp_path / "bad.db").write_bytes(b"no database" * 100)
        out = cli(
            "convert",
            adapter(tmp_path / "a.safetensors"),
            "--to",
            "diffusers",
            "-o",
            tmp_path / "b.safetensors",
            "--db",
            tmp_path / "bad.db",
        )
        assert (out.status, (tmp_path / "b.safetensors").exists()) == (0, True)
        assert "written, but not recorded" in out.err

    def test_a_graph_quotes_every_name(self, cli, tmp_path, db):
        style = adapter(tmp_path / 'a"]; evil [label="x.safetensors', 1)
        cli("resize", style, "--rank", 2, "-o", tmp_path / "b.safetensors", "--db", db)
        out = cli("lineage", tmp_path / "b.safetensors", "--dot", "--db", db).out
        assert 'label="a\\"]; evil [label=\\"x"' in out
        assert out.count("->") == 1
