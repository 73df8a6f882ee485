"""What `validate` finds in embeddings: every code once, by its severity and place; and sound files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import adapterhub
from adapterhub.layouts.embedding.encoders import architectures_of

FIXTURES = Path(__file__).parents[2] / "fixtures"
MANIFEST = json.loads((FIXTURES / "embedding/manifest.json").read_text("utf-8"))


def found(validation):
    return [(problem.severity, problem.code, problem.where) for problem in validation.problems]


def even(rows: int = 2, width: int = 768, norm: float = 0.375) -> torch.Tensor:
    """Rows of one length."""
    return torch.full((rows, width), norm / math.sqrt(width), dtype=torch.float32)


def spoiled(value: float) -> torch.Tensor:
    """Three rows, one number of the second of which is `value`."""
    rows = even(3)
    rows[1, 5] = value
    return rows


def a1111(tensor, name="crane", **fields):
    tree = {"string_to_token": {"*": 265}, "string_to_param": {"*": tensor}, "name": name, "step": 5, **fields}
    return {key: value for key, value in tree.items() if value is not ...}


def test_a_sound_file_has_no_problems(tmp_path):
    torch.save(a1111(even()), tmp_path / "crane.pt")
    save_file({"emb_params": even()}, tmp_path / "crane.safetensors")
    save_file({"clip_l": even(), "clip_g": even(2, 1280)}, tmp_path / "xl.safetensors")
    for path in tmp_path.iterdir():
        checked = adapterhub.validate(path)
        assert (checked.valid, checked.kind, checked.problems) == (True, "embedding", [])


@pytest.mark.parametrize("name", MANIFEST)
def test_golden_files_are_valid_and_have_only_what_inspect_and_their_names_say(name):
    checked = adapterhub.validate(FIXTURES / name)
    renamed = ["name-differs"] if name.startswith("embedding/a1111/") else []
    assert checked.valid
    assert [problem.code for problem in checked.problems] == MANIFEST[name]["problems"] + renamed


SHAPES = {
    "wrong-width": ("error", "crane", {"emb_params": even(width=500)}),
    "not-a-float": ("error", "crane", {"emb_params": torch.zeros(2, 768, dtype=torch.int64)}),
    "no-vectors": ("error", "crane", {"emb_params": torch.zeros(0, 768)}),
    "unequal-vectors": ("error", "crane", {"clip_l": even(2), "clip_g": even(3, 1280)}),
    "too-many-vectors": ("warning", "crane", {"emb_params": even(76)}),
    "not-finite": ("error", "crane", {"emb_params": spoiled(math.nan)}),
    "zero-vector": ("warning", "crane", {"emb_params": even() * torch.tensor([[1.0], [0.0]])}),
    "exploded-norm": ("warning", "crane", {"emb_params": even(norm=41.0)}),
    "several-tokens": ("warning", "", {"<a>": even(), "<b>": even()}),
}  # fmt: skip


@pytest.mark.parametrize(("code", "severity", "where", "tensors"), [(code, *row) for code, row in SHAPES.items()])
def test_shapes_and_numbers_are_looked_at(code, severity, where, tensors, tmp_path):
    save_file(tensors, tmp_path / "crane.safetensors")
    checked = adapterhub.validate(tmp_path / "crane.safetensors")
    assert found(checked) == [(severity, code, where)]
    assert checked.valid is (severity == "warning")


@pytest.mark.parametrize(("told", "severity", "code"), [
    ({"modelspec.architecture": "stable-diffusion-v1/textual-inversion"}, "warning", "other-widths"),
    ({"modelspec.architecture": "unheard-of"}, "error", "wrong-width"), ({}, "error", "wrong-width"),
])  # fmt: skip
def test_a_width_that_no_encoder_has_is_a_small_models_if_the_file_says_which(told, severity, code, tmp_path):
    save_file({"emb_params": even(width=48)}, tmp_path / "crane.safetensors", told)
    assert found(adapterhub.validate(tmp_path / "crane.safetensors"))[0] == (severity, code, "crane")


def test_infinity_is_found_in_every_dtype_and_said_with_the_count(tmp_path):
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        save_file({"emb_params": spoiled(math.inf).to(dtype)}, tmp_path / "crane.safetensors")
        (problem,) = adapterhub.validate(tmp_path / "crane.safetensors").problems
        assert (problem.code, problem.message[:14]) == ("not-finite", "1 of 3 vectors")


@pytest.mark.parametrize(("rows", "norm", "codes"), [
    (75, 0.375, []), (2, 39.9, []), (2, 40.1, ["exploded-norm"]), (2, 1e-3, []),
])  # fmt: skip
def test_what_is_allowed_ends_where_it_is_said_to_end(rows, norm, codes, tmp_path):
    save_file({"emb_params": even(rows, norm=norm)}, tmp_path / "crane.safetensors")
    assert [problem.code for problem in adapterhub.validate(tmp_path / "crane.safetensors").problems] == codes


def test_output_vectors_may_be_zero_and_long(tmp_path):
    tensors = {"emb_params": even(), "emb_params_out": torch.stack([torch.zeros(768), torch.full((768,), 9.0)])}
    save_file(tensors, tmp_path / "crane.safetensors")
    assert adapterhub.validate(tmp_path / "crane.safetensors").problems == []


NAMES = {
    "a (b)": ("warning", 2), "<lora:x:1>": ("warning", 1), "a b": ("warning", 1), "[x]": ("warning", 1),
    " ": ("error", 1), "\u200b": ("error", 1),
}  # fmt: skip


@pytest.mark.parametrize(("token", "severity", "count"), [(token, *row) for token, row in NAMES.items()])
def test_a_name_that_no_prompt_can_hold_is_found(token, severity, count, tmp_path):
    torch.save({token: even()}, tmp_path / "x.bin")
    checked = adapterhub.validate(tmp_path / "x.bin")
    assert found(checked) == [(severity, "unusable-name", token)] * count


def test_a_name_that_nobody_can_type_is_mended_by_a_conversion(tmp_path):
    torch.save({"\u200b": even()}, tmp_path / "x.bin")
    adapterhub.convert(tmp_path / "x.bin", tmp_path / "y.bin", to="diffusers", token="<x>")
    assert adapterhub.validate(tmp_path / "y.bin").problems == []


@pytest.mark.parametrize("token", ["<birb-style>", "birb style".replace(" ", "_"), "кот", "x.y-2", "<s0><s1>"])
def test_a_name_that_prompts_hold_is_fine(token, tmp_path):
    torch.save({token: even()}, tmp_path / "x.bin")
    assert adapterhub.validate(tmp_path / "x.bin").problems == []


FIELDS = {
    "no step": (a1111(even(), step=...), [("warning", "missing-field", "step")]),
    "no name": (a1111(even(), name=...), [("warning", "missing-field", "name")]),
    "neither, which is the paper's own": ({"string_to_param": {"*": even()}}, [("warning", "missing-field", "name")]),
    "None, as A1111's first files have it": (a1111(even(), step=None, sd_checkpoint=None), []),
    "the hash of nothing": (a1111(even(), sd_checkpoint="e3b0c442"), [("warning", "empty-hash", "sd_checkpoint")]),
    "another name inside": (a1111(even(), name="bad-artist-2"), [("warning", "name-differs", "name")]),
}


@pytest.mark.parametrize(("tree", "problems"), FIELDS.values(), ids=FIELDS)
def test_a1111s_fields_are_looked_at(tree, problems, tmp_path):
    torch.save(tree, tmp_path / "crane.pt")
    checked = adapterhub.validate(tmp_path / "crane.pt")
    assert (found(checked), checked.valid) == (problems, True)


def test_metadata_that_claims_another_model_is_contradicted_by_the_widths(tmp_path):
    metadata = {"modelspec.architecture": "stable-diffusion-v2-512/textual-inversion"}
    save_file({"emb_params": even()}, tmp_path / "crane.safetensors", metadata)
    assert found(adapterhub.validate(tmp_path / "crane.safetensors")) == [
        ("warning", "metadata-contradicts", "metadata")
    ]
    save_file({"emb_params": even(width=1024)}, tmp_path / "crane.safetensors", metadata)
    assert found(adapterhub.validate(tmp_path / "crane.safetensors")) == []


def test_no_two_models_have_the_same_text_encoders_so_that_no_widths_are_ambiguous():
    both = {"text_encoder": 768, "text_encoder_2": 1280}
    sets = [{"text_encoder": 768}, {"text_encoder": 1024}, both, {"text_encoder_2": 1280}]
    assert [architectures_of(widths) for widths in sets] == [("sd1",), ("sd2",), ("sdxl",), ("sdxl-refiner",)]


TABLE = "text_model.embeddings.token_embedding.weight"
SD1 = f"cond_stage_model.transformer.{TABLE}"
SDXL = {
    768: f"conditioner.embedders.0.transformer.{TABLE}",
    1280: "conditioner.embedders.1.model.token_embedding.weight",
}


def table(width: int, *norms: float) -> torch.Tensor:
    """A vocabulary of one token for each length."""
    return torch.cat([even(1, width, norm) for norm in norms])


@pytest.mark.parametrize(("norm", "codes"), [(99.0, []), (101.0, ["exploded-norm"])])
def test_the_tokens_of_a_base_say_what_is_too_long(norm, codes, tmp_path):
    """The median length of 0.5, 1 and 7 is 1, and a hundred times that is too much."""
    save_file({SD1: table(768, 7.0, 0.5, 1.0)}, tmp_path / "base.safetensors")
    save_file({"emb_params": even(norm=norm)}, tmp_path / "crane.safetensors")
    checked = adapterhub.validate(tmp_path / "crane.safetensors", base=tmp_path / "base.safetensors")
    assert [problem.code for problem in checked.problems] == codes
    without = adapterhub.validate(tmp_path / "crane.safetensors")
    assert [problem.code for problem in without.problems] == ["exploded-norm"]


def test_each_text_encoder_of_a_base_is_measured_by_itself(tmp_path):
    save_file({SDXL[768]: table(768, 2.0), SDXL[1280]: table(1280, 0.01)}, tmp_path / "base.safetensors")
    save_file({"clip_l": even(norm=150.0), "clip_g": even(2, 1280, 1.5)}, tmp_path / "crane.safetensors")
    (problem,) = adapterhub.validate(tmp_path / "crane.safetensors", base=tmp_path / "base.safetensors").problems
    assert problem.code == "exploded-norm"
    assert "a vector for text_encoder_2 is 1.5 long, and tokens are about 0.01" in problem.message


def test_the_command_says_1_for_an_error_and_0_for_a_warning_that_strict_turns_into_1(tmp_path, cli):
    save_file({"emb_params": even(76)}, tmp_path / "many.safetensors")
    save_file({"emb_params": even(width=500)}, tmp_path / "wide.safetensors")
    asked = [("many", []), ("many", ["--strict"]), ("wide", [])]
    assert [cli("validate", tmp_path / f"{name}.safetensors", *more).status for name, more in asked] == [0, 1, 1]


def test_a_real_file_with_another_name_inside_is_valid(real_files):
    name = "Ljzd-PRO__stable-diffusion-embeddings-of-gasai-yuno__gasai_yuno-1000"
    assert found(adapterhub.validate(real_files / f"{name}.pt")) == [("warning", "name-differs", "name")]
    assert found(adapterhub.validate(real_files / f"{name}.png")) == [("warning", "unusable-name", "gasai yuno")]
