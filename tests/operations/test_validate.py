"""What `validate` finds in keys, shapes and alphas; sound files; the real files; and exit statuses of the command."""

import json
import math
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save, save_file

from adapterhub.documents import Problem
from adapterhub.errors import MalformedFile, UsageError
from adapterhub.operations.inspect import inspect
from adapterhub.operations.problems import grouped
from adapterhub.operations.validate import validate


def found(validation):
    return [(problem.severity, problem.code, problem.where) for problem in validation.problems]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_sound_file_has_no_problems(checked, modules, dtype):
    validation = checked(modules(15, dtype=dtype), {"ss_network_dim": "4", "ss_network_alpha": "4.0", "ss_v2": "False"})
    assert (validation.valid, validation.problems) == (True, [])
    assert (validation.kind, validation.layout, validation.architecture) == ("lora", "kohya", "sd1")


def without(suffix):
    return lambda tensors, head: tensors.pop(f"{head}.{suffix}")


def with_(suffix, *shape, value=0.5):
    return lambda tensors, head: tensors.update({f"{head}.{suffix}": torch.full(shape, value)})


def second_spelling(tensors, head):
    tensors.update({name.replace("lora_unet_", "lora_unet_unet_"): value.clone() for name, value in tensors.items()})


def rank_zero(tensors, head):
    tensors[f"{head}.lora_down.weight"] = torch.empty(0, 768)
    tensors[f"{head}.lora_up.weight"] = torch.empty(320, 0)


CASES = {
    "half a pair": (without("lora_up.weight"), "error", "missing-pair"),
    "alpha alone": (lambda t, h: [without(f"lora_{side}.weight")(t, h) for side in ("up", "down")], "error", "orphan-key"),
    "a magnitude alone": (lambda t, h: [t.clear(), with_("dora_scale", 320, 1)(t, h)], "error", "orphan-key"),
    "something of another algorithm": (with_("hada_t1", 4, 4, 1, 1), "error", "orphan-key"),
    "factors of two ranks": (with_("lora_up.weight", 320, 8), "error", "rank-mismatch"),
    "another model's width": (with_("lora_up.weight", 300, 4), "error", "shape-mismatch"),
    "rank 0": (rank_zero, "warning", "rank-zero"),
    "no alpha": (without("alpha"), "warning", "missing-alpha"),
    "alpha of 0": (with_("alpha", value=0.0), "warning", "alpha-zero"),
    "negative alpha": (with_("alpha", value=-4.0), "warning", "alpha-negative"),
    "alpha of NaN": (with_("alpha", value=math.nan), "error", "alpha-not-finite"),
    "infinite alpha": (with_("alpha", value=math.inf), "error", "alpha-not-finite"),
    "two alphas": (with_("alpha", 2), "error", "alpha-shape"),
    "a complex alpha": (lambda t, h: t.update({f"{h}.alpha": torch.tensor(4 + 0j)}), "error", "alpha-shape"),
}  # fmt: skip


@pytest.mark.parametrize(("break_it", "severity", "code"), CASES.values(), ids=CASES)
def test_what_is_wrong_with_a_module_is_found_at_the_module(checked, modules, heads, places, break_it, severity, code):
    tensors = modules(1)
    break_it(tensors, heads[0])
    tensors.update({name: tensor for name, tensor in modules(4).items() if heads[0] not in name})
    validation = checked(tensors)
    assert [problem for problem in found(validation) if problem[2] == places[0]] == [(severity, code, places[0])]
    assert validation.valid is (severity == "warning")


LOHA = {"hada_w1_a": (320, 4), "hada_w1_b": (4, 768), "hada_w2_a": (320, 4), "hada_w2_b": (4, 768)}
TUCKER = {**LOHA, "hada_w1_a": (4, 320), "hada_w2_a": (4, 320), "hada_t1": (4, 4, 1, 1), "hada_t2": (4, 4, 1, 1)}
LOKR = {"lokr_w1_a": (4, 2), "lokr_w1_b": (2, 4), "lokr_w2_a": (80, 4), "lokr_w2_b": (4, 192)}
LOKR_TUCKER = {**LOKR, "lokr_w2_a": (4, 80), "lokr_t2": (4, 4, 1, 1)}
GLORA = {"a1.weight": (768, 4), "a2.weight": (4, 768), "b1.weight": (320, 4), "b2.weight": (4, 768)}
LOCON = {"lora_up.weight": (320, 4), "lora_mid.weight": (4, 5, 1, 1), "lora_down.weight": (5, 768)}
FACTORS = [
    (LOHA, {}, None), (TUCKER, {}, None), (LOKR, {}, None), (LOKR_TUCKER, {}, None), (GLORA, {}, None), (LOCON, {}, None),
    (LOHA, {"hada_w1_a": (320, 8)}, "hada_w1_a has rank 8, hada_w1_b has rank 4"),
    (LOHA, {"hada_w2_b": (8, 768)}, "hada_w2_a has rank 4, hada_w2_b has rank 8"),
    (TUCKER, {"hada_t1": (8, 4, 1, 1)}, "hada_w1_a has rank 4, hada_t1 has rank 8"),
    (TUCKER, {"hada_t2": (4, 8, 1, 1)}, "hada_t2 has rank 8, hada_w2_b has rank 4"),
    (LOKR, {"lokr_w1_a": (4, 3)}, "lokr_w1_a has rank 3, lokr_w1_b has rank 2"),
    (LOKR, {"lokr_w2_a": (80, 3)}, "lokr_w2_a has rank 3, lokr_w2_b has rank 4"),
    (LOKR_TUCKER, {"lokr_t2": (3, 4, 1, 1)}, "lokr_w2_a has rank 4, lokr_t2 has rank 3"),
    (LOCON, {"lora_up.weight": (320, 5)}, "lora_up has rank 5, lora_mid has rank 4"),
    (LOCON, {"lora_mid.weight": (4, 4, 1, 1)}, "lora_mid has rank 4, lora_down has rank 5"),
]  # fmt: skip


@pytest.mark.parametrize(("shapes", "changes", "message"), FACTORS, ids=str)
def test_the_factors_of_every_algorithm_must_meet(checked, modules, heads, places, shapes, changes, message):
    tensors = {name: tensor for name, tensor in modules(4).items() if heads[0] not in name}
    tensors |= {f"{heads[0]}.{suffix}": torch.full(shape, 0.1) for suffix, shape in {**shapes, **changes}.items()}
    tensors |= {f"{heads[0]}.alpha": torch.tensor(4.0)}
    problems = [problem for problem in checked(tensors).problems if problem.code != "shape-mismatch"]
    assert [(problem.severity, problem.code, problem.where, problem.message) for problem in problems] == (
        [("error", "rank-mismatch", places[0], message)] if message else []
    )


@pytest.mark.parametrize(
    ("shapes", "changes", "message"),
    [
        (LOHA, {"hada_w2_a": ()}, "hada_w2_a is F32 [], which no hada_w2_a is"),
        (LOHA, {"hada_w1_b": ()}, "hada_w1_b is F32 [], which no hada_w1_b is"),
        (GLORA, {"a1.weight": ()}, "a1 is F32 [], which no a1 is"),
        (GLORA, {"b1.weight": (320,)}, "b1 is F32 [320], which no b1 is"),
    ],
)
def test_a_factor_that_is_no_matrix_is_an_error(checked, modules, heads, places, shapes, changes, message):
    tensors = {name: tensor for name, tensor in modules(4).items() if heads[0] not in name}
    tensors |= {f"{heads[0]}.{suffix}": torch.full(shape, 0.1) for suffix, shape in {**shapes, **changes}.items()}
    problems = [problem for problem in checked(tensors).problems if problem.code != "shape-mismatch"]
    assert [
        (found.severity, found.code, found.where, found.message) for found in problems if found.severity == "error"
    ] == [("error", "impossible-shape", places[0], message)]


def test_a_key_that_nothing_explains_is_an_error_at_the_key(checked, modules):
    validation = checked({**modules(3), "lora_unet_no_such_module.lora_up.weight": torch.ones(4, 4)})
    assert found(validation) == [("error", "unknown-key", "lora_unet_no_such_module.lora_up.weight")]
    assert (validation.layout, validation.architecture) == (None, "sd1")


def test_two_spellings_of_one_module_are_an_error_at_each_second_tensor(checked, modules, heads):
    tensors = modules(1)
    second_spelling(tensors, heads[0])
    doubles = {
        where for severity, code, where in found(checked(tensors)) if (severity, code) == ("error", "duplicate-module")
    }
    spelled = [
        {name for name in tensors if name.startswith(heads[0])},
        {name for name in tensors if "unet_unet" in name},
    ]
    assert doubles in spelled


def test_a_missing_alpha_says_what_strength_each_reader_gives(checked, modules, heads):
    tensors = modules(2, rank=8)
    del tensors[f"{heads[0]}.alpha"]
    (problem,) = checked(tensors).problems
    for reader in ("Kohya", "A1111", "ComfyUI", "InvokeAI", "commonest alpha of the file over rank in diffusers"):
        assert reader in problem.message
    assert "alpha = 8" in problem.mend


def test_a_file_without_any_alpha_is_told_so_though_all_readers_agree(checked, modules):
    tensors = {name: tensor for name, tensor in modules(15).items() if not name.endswith("alpha")}
    validation = checked(tensors)
    assert found(validation) == [
        ("warning", "missing-alpha", "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k")
    ]
    assert "nor in any module: strength 1 in" in validation.problems[0].message
    assert "(and 14 more like it)" in validation.problems[0].message


def test_a_layout_without_alphas_misses_none(tmp_path):
    path = tmp_path / "pytorch_lora_weights.safetensors"
    head = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    save_file({f"{head}.lora_A.weight": torch.ones(4, 768), f"{head}.lora_B.weight": torch.ones(320, 4)}, path)
    assert validate(path).problems == []


@pytest.mark.parametrize(("count", "shown"), [(8, 8), (9, 1)])
def test_more_than_eight_modules_with_one_problem_are_one_problem(checked, modules, count, shown):
    tensors = modules(15)
    for name in [name for name in tensors if name.endswith("alpha")][:count]:
        tensors[name] = torch.tensor(0.0)
    problems = checked(tensors).problems
    assert [problem.code for problem in problems] == ["alpha-zero"] * shown
    assert ("(and 8 more like it)" in problems[0].message) is (shown == 1)


def test_unknown_keys_are_listed_each_however_many():
    problems = [Problem(severity="error", code="unknown-key", where=str(n), message="?") for n in range(20)]
    assert grouped(problems) == problems


def test_inspect_tells_of_odd_alphas_too(lora_file, modules, heads):
    found = inspect(lora_file({**modules(1), f"{heads[0]}.alpha": torch.tensor(math.nan)}))
    assert [problem.code for problem in found.problems] == ["alpha-not-finite"]
    assert found.alphas == {"nan": 1}


def test_errors_come_first(checked, modules, heads):
    tensors = modules(2)
    tensors[f"{heads[0]}.alpha"] = torch.tensor(0.0)
    tensors[f"{heads[1]}.lora_up.weight"][0, 0] = math.nan
    assert [problem.severity for problem in checked(tensors).problems] == ["error", "warning"]


def test_a_file_of_no_known_kind_says_so(checked):
    validation = checked({"weight": torch.ones(3)})
    assert (validation.valid, validation.kind, found(validation)) == (
        True,
        "unknown",
        [("warning", "unknown-kind", "")],
    )


def test_a_warning_about_the_container_is_kept(checked, modules):
    assert found(checked(modules(1), {"note": "a\x00b"})) == [("warning", "control-characters", "__metadata__.note")]


@pytest.mark.parametrize(("data", "status"), [(b"", 3), (b"<!DOCTYPE html>", 3), (save({"a": torch.ones(2)})[:-1], 3)])
def test_a_malformed_file_is_refused(tmp_path, cli, data, status):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(data)
    with pytest.raises(MalformedFile):
        validate(path)
    assert cli("validate", path)[:2] == (status, "")


def test_a_path_that_is_not_there_is_wrong_usage(tmp_path):
    with pytest.raises(UsageError):
        validate(tmp_path / "absent")


@pytest.mark.parametrize(("alpha", "options", "status"), [
    (4.0, [], 0), (4.0, ["--strict"], 0), (0.0, [], 0), (0.0, ["--strict"], 1), (math.nan, [], 1), (math.nan, ["--strict"], 1),
])  # fmt: skip
def test_the_exit_status_is_1_for_errors_and_with_strict_for_warnings(
    cli, lora_file, modules, heads, alpha, options, status
):
    path = lora_file({**modules(1), f"{heads[0]}.alpha": torch.tensor(alpha)})
    assert cli("validate", path, *options).status == status
    body = json.loads(cli("validate", path, "--json", *options).out)
    assert body["valid"] is (not math.isnan(alpha))


def test_torch_is_not_imported(lora_file, modules):
    code = f"import adapterhub, sys; assert adapterhub.validate({str(lora_file(modules(15)))!r}).valid; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


REAL = {
    "KohakuBlueleaf__LyCORIS__smart_falcon_4_lokr": ("lora", "kohya", [
        # lokr_w2_a of these three is zero in the file
        *(("warning", "all-zero", f"unet.down_blocks.0.resnets.0.{leaf}") for leaf in ("conv1", "conv2", "time_emb_proj")),
    ]),
    "catundchat__stable-diffusion-v1.5-lora__pytorch_lora_weights": ("lora", "diffusers-attn-procs", []),
    "cloneofsimo__lora__analog_svd_rank4": ("lora", "cloneofsimo", []),
    "hansjohn819-commits__sd-lora-anime-style__sd15_te_adapter_model": ("lora", "peft", [
        ("warning", "ambiguous-architecture", ""), ("warning", "missing-alpha", "adapter_config.json"),
    ]),
    "invoke-ai__InvokeAI__test_embedding": ("embedding", "kohya", []),
}  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_real_files_are_valid(real_files, name):
    path = real_files / f"{name}.safetensors"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    kind, layout, problems = REAL[name]
    validation = validate(path)
    assert (validation.valid, validation.kind, validation.layout) == (True, kind, layout)
    assert found(validation) == problems
