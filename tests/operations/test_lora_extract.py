"""extract: what a model was tuned by, from the singular values of the differences."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import adapterhub
from adapterhub import architectures
from adapterhub.errors import LossyConversion, NotAnAdapter, OutputExists, RefusedInput, UsageError
from adapterhub.operations.lora.low_rank import Bound, decomposed, randomised
from tests.operations.checkpoint_files import saved
from tests.operations.made_loras import change, head, off, tail

SIDE = 12
"""No side of a weight is longer: the true names, at a small size."""
UNET = "model.diffusion_model."
LINEAR = (
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k",
    f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k",
)
CONV = ("down_blocks.0.resnets.0.conv1", f"{UNET}input_blocks.1.0.in_layers.2")
NORM = ("down_blocks.0.resnets.0.norm1", f"{UNET}input_blocks.1.0.in_layers.0")
POINT = ("down_blocks.0.attentions.0.proj_in", f"{UNET}input_blocks.1.1.proj_in")
CLIP = "cond_stage_model.transformer.text_model."
TEXT = ("text_model.encoder.layers.0.mlp.fc1", f"{CLIP}encoder.layers.0.mlp.fc1")
TABLE, VAE = f"{CLIP}embeddings.token_embedding.weight", "first_stage_model.encoder.conv_in.weight"
TRAINED = (LINEAR, CONV, POINT, TEXT)


@cache
def weights():
    """Every tensor of a single SD 1 file."""
    model, random = architectures.get("sd1"), np.random.default_rng(5)
    shapes = {f"{component}.{path}.{kind}": shape for component in model.weights
              for path, kind, shape in model.tensors(component)}  # fmt: skip
    return {row.place: random.standard_normal([
        *(min(size, SIDE) for size in shapes[row.tensors[0]]), *[1] * (2 if row.crossing == "reshaped" else 0)
    ]).astype("f2") for row in model.single_file()}  # fmt: skip


def tuned(*places, size=0.25):
    """The model with other numbers at `places`."""
    random = np.random.default_rng(6)
    found = dict(weights())
    for place in places:
        found[place] = (found[place] + size * random.standard_normal(found[place].shape)).astype("f2")
    return found


def files(folder, *places):
    return saved(folder / "tuned.safetensors", tuned(*places)), saved(folder / "base.safetensors", weights())


def difference(place):
    names = [name for name in (place, f"{place}.weight") if name in weights()]
    every = tuned(*(f"{trained}.weight" for _, trained in TRAINED))
    return every[names[0]].astype("f8") - weights()[names[0]].astype("f8")


def stored(path):
    """The tensors of a Kohya file by module and suffix."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, array in load_file(path).items():
        module, _, role = name.partition(".")
        found.setdefault(module, {})[role] = array
    return found


def left_out(done):
    return [problem for problem in done.problems if problem.code == "not-extracted"]


def named(module):
    """Kohya's name."""
    return f"lora_te_{module.replace('.', '_')}" if module == TEXT[0] else head(module)


@pytest.fixture
def models(tmp_path):
    return files(tmp_path, *(f"{place}.weight" for _, place in TRAINED))


def test_at_full_rank_the_tuned_weights_come_back_correctly_rounded(tmp_path, models):
    done = adapterhub.extract(*models, tmp_path / "c.safetensors", rank=200)
    found = stored(tmp_path / "c.safetensors")
    assert found.keys() == {named(module) for module, _ in TRAINED}
    after = load_file(models[0])
    for module, place in TRAINED:
        before = weights()[f"{place}.weight"].astype("f8")
        merged = (before + change(found[named(module)]).reshape(before.shape)).astype("f2")
        assert merged.tobytes() == after[f"{place}.weight"].tobytes()
    assert (done.command, done.modules) == ("extract", 4)
    assert done.relative_error < 1e-7


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_errors_are_the_tails_of_numpys_singular_values(tmp_path, models, rank):
    done = adapterhub.extract(*models, tmp_path / "c.safetensors", rank=rank)
    told = {found.module.partition(".")[2]: found for found in done.approximations}
    found = stored(tmp_path / "c.safetensors")
    for module, place in TRAINED:
        expected = difference(place).reshape(SIDE, -1)
        assert told[module].error == pytest.approx(tail(expected, rank), abs=1e-7)
        assert told[module].error == pytest.approx(off(change(found[named(module)]), expected), abs=1e-12)
        assert told[module].captured == pytest.approx(1 - tail(expected, rank) ** 2, abs=1e-7)
    assert found[named(CONV[0])]["lora_down.weight"].shape == (rank, SIDE, 3, 3)
    assert found[named(CONV[0])]["lora_up.weight"].shape == (SIDE, rank, 1, 1)
    assert found[named(TEXT[0])]["lora_up.weight"].shape == (SIDE, rank)


def test_a_tolerance_takes_the_smallest_ranks(tmp_path, models):
    done = adapterhub.extract(*models, tmp_path / "c.safetensors", tolerance=0.4)
    for told in done.approximations:
        expected = difference(dict(TRAINED)[told.module.partition(".")[2]]).reshape(SIDE, -1)
        assert told.rank == next(rank for rank in range(1, SIDE + 1) if tail(expected, rank) <= 0.4)


def test_every_tensor_of_both_models_is_accounted_for(tmp_path, models):
    done = adapterhub.extract(*models, tmp_path / "c.safetensors", rank=2)
    assert sorted(place for entry in done.entries for place in entry.source) == sorted(
        f"{path}:{name}" for path in models for name in weights()
    )
    assert done.exactness == "approximate"
    assert {entry.reason for entry in done.entries if entry.action == "drop"} == {"the same in both models"}
    computed = [entry for entry in done.entries if entry.action == "compute"]
    assert sorted(len(entry.source) for entry in computed) == [2, 2, 2, 2]


def test_what_one_model_alone_has_is_told(tmp_path):
    models = files(tmp_path, f"{LINEAR[1]}.weight", f"{TEXT[1]}.weight")
    alone = {name: array for name, array in weights().items() if name.startswith(CLIP)}
    saved(models[1], {name: array for name, array in weights().items() if name not in alone})
    done = adapterhub.extract(*models, tmp_path / "c.safetensors", rank=2)
    assert done.modules == 1
    (told,) = [problem for problem in done.problems if problem.code == "in-one-model"]
    assert (told.severity, told.where) == ("warning", "text_encoder")
    assert told.message == f"{len(alone)} weights are in one model only, and not in the LoRA"


def test_a_layout_without_a_place_for_what_was_asked_is_refused_with_advice_that_can_be_followed(tmp_path):
    models = files(tmp_path, f"{LINEAR[1]}.weight", f"{CONV[1]}.bias")
    with pytest.raises(LossyConversion) as refused:
        adapterhub.extract(*models, tmp_path / "c", rank=2, biases=True, to="diffusers")
    assert "--to" in refused.value.mend
    assert not {"--as", "--allow-loss"} & set(refused.value.mend.split())
    assert adapterhub.extract(*models, tmp_path / "c.safetensors", rank=2, biases=True, to="kohya").modules == 2


def test_biases_and_norms_come_on_request_and_what_is_left_out_is_told(tmp_path):
    places = (f"{CONV[1]}.weight", f"{CONV[1]}.bias", f"{NORM[1]}.weight", f"{NORM[1]}.bias", TABLE, VAE)
    models = files(tmp_path, *places)
    bare = adapterhub.extract(*models, tmp_path / "c.safetensors", rank=2)
    assert {problem.message.removesuffix(" differ, and are not in the LoRA") for problem in left_out(bare)} == {
        "1 biases", "2 tensors of normalisations", "1 tables of embeddings", "1 tensors of the VAE",
    }  # fmt: skip
    assert stored(tmp_path / "c.safetensors").keys() == {named(CONV[0])}
    more = adapterhub.extract(*models, tmp_path / "d.safetensors", rank=2, biases=True, norms=True)
    found, after = stored(tmp_path / "d.safetensors"), load_file(models[0])
    for module, place, role, kind in (
        (CONV[0], CONV[1], "diff_b", "bias"), (NORM[0], NORM[1], "w_norm", "weight"), (NORM[0], NORM[1], "b_norm", "bias"),
    ):  # fmt: skip
        name = f"{place}.{kind}"
        assert (
            found[named(module)][role].tobytes() == (after[name].astype("f4") - weights()[name].astype("f4")).tobytes()
        )
    assert len(left_out(more)) == 2


def test_factors_have_the_dtype_that_is_asked_for_and_the_error_is_measured_after_rounding(tmp_path, models):
    done = adapterhub.extract(*models, tmp_path / "c.safetensors", rank=SIDE, dtype="fp16")
    found = stored(tmp_path / "c.safetensors")
    assert {array.dtype for held in found.values() for array in held.values()} == {np.dtype("f2")}
    for told in done.approximations:
        module = told.module.partition(".")[2]
        expected = difference(dict(TRAINED)[module]).reshape(SIDE, -1)
        assert told.error == pytest.approx(off(change(found[named(module)]), expected), rel=1e-6)
        assert 1e-5 < told.error < 1e-3


def test_folders_and_single_files_are_compared_with_each_other(tmp_path, models):
    adapterhub.convert(models[1], tmp_path / "folder", to="diffusers")
    adapterhub.extract(*models, tmp_path / "c.safetensors", rank=2)
    adapterhub.extract(models[0], tmp_path / "folder", tmp_path / "d.safetensors", rank=2)
    first, second = (load_file(tmp_path / f"{name}.safetensors") for name in "cd")
    assert {name: array.tobytes() for name, array in first.items()} == {
        name: array.tobytes() for name, array in second.items()
    }


def test_the_same_numbers_in_another_dtype_are_no_difference(tmp_path, models):
    wide = saved(tmp_path / "wide.safetensors", {name: array.astype("f4") for name, array in weights().items()})
    adapterhub.extract(models[0], wide, tmp_path / "c.safetensors", rank=2)
    assert stored(tmp_path / "c.safetensors").keys() == {named(module) for module, _ in TRAINED}
    with pytest.raises(RefusedInput, match="do not differ"):
        adapterhub.extract(models[1], wide, tmp_path / "d.safetensors", rank=2)


def test_models_that_do_not_belong_together_are_refused_and_nothing_is_left(tmp_path, models):
    other = dict(weights())
    for place in (CONV[1], LINEAR[1]):
        other[f"{place}.weight"] = np.zeros((SIDE + 1, *other[f"{place}.weight"].shape[1:]), "f2")
    with pytest.raises(RefusedInput, match="2 weights have another shape") as refused:
        adapterhub.extract(models[0], saved(tmp_path / "other.safetensors", other), tmp_path / "c.safetensors", rank=2)
    assert f"unet.{CONV[0]}, unet.{LINEAR[0]}" in refused.value.message
    assert not (tmp_path / "c.safetensors").exists()
    adapterhub.extract(*models, tmp_path / "lora.safetensors", rank=2)
    with pytest.raises(NotAnAdapter):
        adapterhub.extract(models[0], tmp_path / "lora.safetensors", tmp_path / "c.safetensors", rank=2)


def test_what_cannot_be_meant_is_refused_and_what_there_is_stays(tmp_path, models):
    with pytest.raises(UsageError, match="how small"):
        adapterhub.extract(*models, tmp_path / "c.safetensors")
    with pytest.raises(UsageError):
        adapterhub.extract(*models, tmp_path / "c.safetensors", rank=2, tolerance=0.1)
    (tmp_path / "c.safetensors").write_text("mine")
    with pytest.raises(OutputExists):
        adapterhub.extract(*models, tmp_path / "c.safetensors", rank=2)
    assert (tmp_path / "c.safetensors").read_text() == "mine"


def test_numbers_that_are_none_are_refused(tmp_path):
    broken = tuned(f"{LINEAR[1]}.weight")
    broken[f"{LINEAR[1]}.weight"][1, 1] = np.nan
    base = saved(tmp_path / "base.safetensors", weights())
    with pytest.raises(RefusedInput, match="not finite"):
        adapterhub.extract(saved(tmp_path / "tuned.safetensors", broken), base, tmp_path / "c.safetensors", rank=2)


def test_the_command_line_says_what_is_captured(tmp_path, models, capsys):
    from adapterhub.cli import run

    command = ["extract", *map(str, models), "-o", str(tmp_path / "c.safetensors"), "--rank", "4"]
    assert run([*command, "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["dry_run"], (tmp_path / "c.safetensors").exists(), len(told["approximations"])) == (True, False, 4)
    assert run(command) == 0
    assert "4 modules approximated, relative error" in capsys.readouterr().out


def falling(rows, columns, sizes):
    random = np.random.default_rng(8)
    left, right = (np.linalg.qr(random.standard_normal((n, len(sizes))))[0] for n in (rows, columns))
    return torch.from_numpy(left * sizes @ right.T)


@pytest.mark.parametrize("shape", [(300, 420), (420, 300)])
@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_the_randomised_decomposition_is_as_good_as_the_exact_one_within_a_thousandth(shape, power):
    sizes = np.arange(1, 301.0) ** -power
    matrix = falling(*shape, sizes)
    cut = randomised(matrix, 26).cut(16)
    error = float((cut.up @ cut.down - matrix).norm() / matrix.norm())
    best = np.linalg.norm(sizes[16:]) / np.linalg.norm(sizes)
    assert best <= error <= 1.001 * best
    assert cut.error == pytest.approx(error, abs=1e-9)


def test_a_tolerance_on_a_large_matrix_looks_for_as_many_directions_as_it_takes():
    sizes = 0.97 ** np.arange(600.0)
    matrix = falling(640, 700, sizes)
    within = Bound(tolerance=0.1)
    svd = decomposed(matrix, within)
    assert len(svd.sizes) < 600  # randomised
    left = [np.linalg.norm(sizes[rank:]) / np.linalg.norm(sizes) for rank in range(600)]
    best = next(rank for rank in range(600) if left[rank] <= 0.1)
    cut = svd.cut(within.of(svd))
    assert best <= cut.up.shape[1] <= best + 1
    assert float((cut.up @ cut.down - matrix).norm() / matrix.norm()) <= 0.1
