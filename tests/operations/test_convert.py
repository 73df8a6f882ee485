"""Conversions beyond renaming: folding, casting, other algorithms, base weights. Expected values are float64 formulas."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import adapterhub
from adapterhub.errors import AdapterhubError, LossyConversion, NeedsBase, UsageError
from tests.operations.embedding_files import FIXTURES
from tests.operations.one_module import HEAD, LDM, MODULE, TEXT, change, lora, normal


@pytest.mark.parametrize(("alpha", "exactness"), [(4, "bit-exact"), (2, "bit-exact"), (8, "bit-exact"), (3, "exact")])
def test_alpha_is_folded_once_where_the_layout_has_no_place_for_it(tmp_path, alpha, exactness):
    source, target = lora(tmp_path / "in.safetensors", alpha=alpha), tmp_path / "out.safetensors"
    done = adapterhub.convert(source, target, to="diffusers-lora-linear")
    tensors = {name: value.astype(np.float64) for name, value in load_file(target).items()}
    found = tensors[f"unet.{MODULE}.lora.up.weight"] @ tensors[f"unet.{MODULE}.lora.down.weight"]
    expected = change(source)
    error = np.abs(found - expected).max() / np.abs(expected).max()
    assert done.exactness == exactness
    assert done.max_error == pytest.approx(error, rel=1e-6, abs=1e-15)
    assert error < (1e-15 if exactness == "bit-exact" else 1e-3)


def test_a_fold_is_reported_with_alpha_and_the_factor_that_took_it(tmp_path):
    done = adapterhub.convert(
        lora(tmp_path / "in.safetensors"), tmp_path / "out.safetensors", to="diffusers-lora-linear"
    )
    (folded,) = [entry for entry in done.entries if entry.action == "fold"]
    assert f"{HEAD}.alpha" in folded.source
    assert len(folded.source) == 2
    assert len(folded.target) == 1
    assert sum(len(entry.source) for entry in done.entries) == 3


@pytest.mark.parametrize(("dtype", "stored"), [("fp16", np.float16), ("fp32", np.float32)])
def test_a_cast_is_measured_and_called_approximate_when_it_changes_something(tmp_path, dtype, stored):
    source, target = lora(tmp_path / "in.safetensors", dtype=np.float32), tmp_path / "out.safetensors"
    done = adapterhub.convert(source, target, to="comfyui", dtype=dtype)
    assert {value.dtype for value in load_file(target).values()} == {np.dtype(stored)}
    if dtype == "fp32":
        assert (done.exactness, done.max_error) == ("bit-exact", 0.0)
    else:
        head = LDM.replace("model.diffusion_model.", "diffusion_model.")
        error = np.abs(change(target, head) - change(source)).max() / np.abs(change(source)).max()
        assert done.exactness == "approximate"
        assert done.max_error == pytest.approx(error, rel=1e-6)


def test_what_a_layout_cannot_hold_is_refused_with_what_can_be_done(tmp_path):
    source, target = tmp_path / "in.safetensors", tmp_path / "out.safetensors"
    save_file({f"{HEAD}.diff": normal(320, 320)}, source)
    with pytest.raises(LossyConversion, match="--as lora --rank") as caught:
        adapterhub.convert(source, target, to="diffusers")
    assert [loss[0] for loss in caught.value.losses] == [f"unet.{MODULE}.diff"]
    assert not target.exists()
    with pytest.raises(UsageError, match="--rank"):
        adapterhub.convert(source, target, to="diffusers", as_algorithm="lora")


def ia3(folder: Path, component: str, module: str, shape: tuple[int, ...], forward: bool) -> Path:
    """A PEFT IA3 of one module."""
    path = folder / "ia3" / component
    path.mkdir(parents=True)
    save_file(
        {f"base_model.model.{module}.ia3_l": 1 + normal(*shape, dtype=np.float32) / 8},
        path / "adapter_model.safetensors",
    )
    config = {"peft_type": "IA3", "target_modules": [module], "feedforward_modules": [module] if forward else []}
    (path / "adapter_config.json").write_text(json.dumps(config))
    return path.parent


def test_ia3_of_a_module_without_bias_is_translated_both_ways(tmp_path):
    source = ia3(tmp_path, "unet", MODULE, (320, 1), False)
    kohya, back = tmp_path / "kohya.safetensors", tmp_path / "back"
    adapterhub.convert(source, kohya, to="kohya")
    stored = load_file(source / "unet" / "adapter_model.safetensors")[f"base_model.model.{MODULE}.ia3_l"]
    tensors = load_file(kohya)
    np.testing.assert_allclose(
        tensors[f"{HEAD}.weight"].astype(np.float64), stored.flatten().astype(np.float64) - 1, atol=1e-7
    )
    assert not tensors[f"{HEAD}.on_input"].item()
    assert adapterhub.convert(kohya, back, to="peft").max_error < 1e-6


def test_ia3_on_the_input_of_a_convolution_has_lycoris_shape(tmp_path):
    """(1, I, 1, 1), as LyCORIS makes and copies it (modules/ia3.py)."""
    conv, target = "down_blocks.1.resnets.0.conv1", tmp_path / "kohya.safetensors"
    source = ia3(tmp_path, "unet", conv, (1, 320, 1, 1), True)
    adapterhub.convert(source, target, to="kohya", architecture="sd1")
    head = f"lora_unet_{conv.replace('.', '_')}"
    assert load_file(target)[f"{head}.weight"].shape == (1, 320, 1, 1)
    assert adapterhub.diff(source, target).equal


def test_ia3_of_a_module_with_a_bias_needs_the_base(tmp_path):
    source = ia3(tmp_path, "text_encoder", TEXT, (768, 1), False)
    target, base = tmp_path / "out.safetensors", tmp_path / "base.safetensors"
    with pytest.raises(NeedsBase):
        adapterhub.convert(source, target, to="kohya")
    bias, prefix = normal(768), f"cond_stage_model.transformer.{TEXT}"
    save_file({f"{prefix}.weight": normal(768, 768), f"{prefix}.bias": bias}, base)
    adapterhub.convert(source, target, to="kohya", base=base)
    multiplier = load_file(source / "text_encoder" / "adapter_model.safetensors")[f"base_model.model.{TEXT}.ia3_l"]
    expected = bias.astype(np.float64) * (multiplier.flatten().astype(np.float64) - 1)
    found = load_file(target)["lora_te_text_model_encoder_layers_0_self_attn_q_proj.diff_b"]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_bias_of_peft_is_scaled_into_kohyas_and_back(tmp_path):
    source = tmp_path / "in.safetensors"
    config = {"unet.r": 4, "unet.lora_alpha": 2, "unet.target_modules": [MODULE], "unet.lora_bias": True}
    tensors = {f"unet.{MODULE}.lora_A.weight": normal(4, 320), f"unet.{MODULE}.lora_B.weight": normal(320, 4),
               f"unet.{MODULE}.lora_B.bias": normal(320)}  # fmt: skip
    save_file(tensors, source, {"lora_adapter_metadata": json.dumps(config)})
    kohya, back = tmp_path / "kohya.safetensors", tmp_path / "back.safetensors"
    adapterhub.convert(source, kohya, to="kohya")
    np.testing.assert_array_equal(load_file(kohya)[f"{HEAD}.diff_b"], tensors[f"unet.{MODULE}.lora_B.bias"] / 2)
    adapterhub.convert(kohya, back, to="diffusers")
    for name, value in tensors.items():
        np.testing.assert_array_equal(load_file(back)[name], value)


def test_rank_and_alpha_patterns_are_applied_and_a_regular_expression_is_refused(tmp_path):
    source = lora(tmp_path / "in.safetensors", alpha=3)
    middle, back = tmp_path / "peft", tmp_path / "back.safetensors"
    adapterhub.convert(source, middle, to="peft")
    config = json.loads((middle / "unet" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 4, 3)
    path = middle / "unet" / "adapter_config.json"
    path.write_text(json.dumps({**config, "lora_alpha": 99, "alpha_pattern": {"attn1.to_q": 5}}))
    adapterhub.convert(middle, back, to="kohya")
    assert load_file(back)[f"{HEAD}.alpha"] == 5
    path.write_text(json.dumps({**config, "alpha_pattern": {"(.*)*z": 5}}))
    with pytest.raises(AdapterhubError, match="regular expression"):
        adapterhub.convert(middle, tmp_path / "never.safetensors", to="kohya")


def test_a_source_that_changes_meanwhile_is_refused_and_nothing_is_written(tmp_path, monkeypatch):
    from adapterhub.operations.lora import make as module

    source, target = lora(tmp_path / "in.safetensors"), tmp_path / "out.safetensors"
    original = module.make

    def then_touch(*arguments):
        made = original(*arguments)
        source.write_bytes(source.read_bytes() + b"\0")
        return made

    monkeypatch.setattr(module, "make", then_touch)
    with pytest.raises(AdapterhubError, match="changed"):
        adapterhub.convert(source, target, to="diffusers")
    assert not target.exists()


def peft(tmp_path: Path, **fields: object) -> Path:
    """A PEFT folder with one module."""
    source = tmp_path / "peft"
    adapterhub.convert(lora(tmp_path / "in.safetensors"), source, to="peft")
    path = source / "unet" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return source


def test_what_only_the_config_says_comes_back(tmp_path):
    source = peft(tmp_path, init_lora_weights="gaussian", base_model_name_or_path="runwayml/model", lora_dropout=0.1)
    kohya, back = tmp_path / "kohya.safetensors", tmp_path / "back"
    adapterhub.convert(source, kohya, to="kohya")
    adapterhub.convert(kohya, back, to="peft")
    configs = [json.loads((folder / "unet" / "adapter_config.json").read_text()) for folder in (source, back)]
    assert configs[0] == configs[1]


@pytest.mark.parametrize("field", ["coft", "fan_in_fan_out"])
def test_a_setting_under_which_tensors_mean_something_else_is_refused(tmp_path, field):
    source = peft(tmp_path, **{field: True})
    with pytest.raises(AdapterhubError, match=field):
        adapterhub.convert(source, tmp_path / "out.safetensors", to="kohya")
    assert [problem.code for problem in adapterhub.inspect(source).problems] == ["configuration"]


def test_an_adapter_of_a_changed_base_is_read_with_a_warning(tmp_path):
    source = peft(tmp_path, init_lora_weights="pissa_niter_4")
    assert "changed-base" in [problem.code for problem in adapterhub.inspect(source).problems]
    done = adapterhub.convert(source, tmp_path / "out.safetensors", to="kohya")
    assert "changed-base" in [problem.code for problem in done.problems]


@pytest.mark.parametrize(
    "note", ["{", "[]", '{"*": "U8[]=-3"}', '{"*": "F16[1, 1, 1]=9"}', '{"*": "C64[]=1"}', '{"*": 4}']
)
def test_a_note_about_alpha_that_is_not_ours_is_ignored(tmp_path, note):
    source, kohya = tmp_path / "in.safetensors", tmp_path / "out.safetensors"
    tensors = {f"unet.{MODULE}.lora_A.weight": normal(4, 320), f"unet.{MODULE}.lora_B.weight": normal(320, 4)}
    save_file(tensors, source, {"adapterhub.alphas": note})
    adapterhub.convert(source, kohya, to="kohya")
    assert load_file(kohya)[f"{HEAD}.alpha"].reshape(()) == 4


def test_without_digests_the_error_is_measured_and_nothing_is_hashed(
    style: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise AssertionError("hashed")

    monkeypatch.setattr("adapterhub.files.digests.sha256", refused)
    monkeypatch.setattr("adapterhub.files.cache.sha256", refused)
    monkeypatch.setattr("adapterhub.operations.recipe.HASHED", 0)  # as if it were so large that hashing it took time
    out = style.with_name("out.safetensors")
    done = adapterhub.convert(style, out, to="comfyui", digests=False)
    assert (done.max_error, done.source.sha256, done.target.sha256) == (0.0, None, None)
    with pytest.raises(AssertionError, match="hashed"):
        adapterhub.convert(style, out, to="comfyui", force=True)


@pytest.mark.parametrize(
    ("source", "to", "options"),
    [
        ("demo.safetensors", "diffusers", {"token": "<x>"}),
        ("demo.safetensors", "diffusers", {"fit": True}),
        ("embedding/a1111/sd1.pt", "diffusers", {"as_algorithm": "lora"}),
        ("embedding/a1111/sd1.pt", "diffusers", {"fit": True}),
    ],
)
def test_an_option_for_another_kind_is_not_ignored(tmp_path, source, to, options):
    with pytest.raises(UsageError, match="is for the kind"):
        adapterhub.convert(FIXTURES / source, tmp_path / "out.safetensors", to=to, **options)


@pytest.mark.parametrize(
    "options", [{"to": "diffusers"}, {"to": "diffusers-lora-linear"}, {"to": "comfyui", "dtype": "bf16"}]
)
def test_values_that_are_no_numbers_are_converted_and_told(tmp_path, options):
    source = lora(tmp_path / "in.safetensors", dtype=np.float32)
    tensors = load_file(source)
    tensors[f"{HEAD}.lora_up.weight"][0, :2] = np.nan, np.inf
    save_file(tensors, source)
    done = adapterhub.convert(source, tmp_path / "out.safetensors", **options)
    (told,) = [problem for problem in done.problems if problem.code == "not-finite"]
    assert told in adapterhub.inspect(source, hash=True).problems
    assert (told.severity, told.where) == ("warning", f"unet.{MODULE}")
    assert told.message == "values that are NaN or infinite: lora_up has 2"
