"""Bad input on the command line: the exit status and message of the contract, nothing written, the old file untouched."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

Cli = Callable[..., object]

SD1 = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
SDXL = "lora_unet_input_blocks_4_1_transformer_blocks_1_attn2_to_k"
TEXT = "lora_te_text_model_encoder_layers_0_mlp_fc1"


def pair(head: str, rows: int, columns: int, rank: int = 2) -> dict[str, np.ndarray]:
    """A Kohya module without alpha."""
    return {
        f"{head}.lora_down.weight": np.ones((rank, columns), np.float16),
        f"{head}.lora_up.weight": np.ones((rows, rank), np.float16),
    }


def header(document: object, data: bytes = b"") -> bytes:
    """A safetensors file, whatever is said about it."""
    text = json.dumps(document).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(begin: int, end: int, shape: list[int]) -> dict[str, object]:
    """One F16 tensor of a header."""
    return {"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}


BYTES = {
    "empty": b"",
    "truncated": header({"a": entry(0, 4, [2])}, b"\0\0"),
    "overlapping": header({"a": entry(0, 4, [2]), "b": entry(2, 6, [2])}, bytes(6)),
    "mislabelled": header({"a": entry(0, 4, [3])}, bytes(4)),
    "oversized header": struct.pack("<Q", 1 << 40) + b"{}",
    "lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n",
    "html page": b"<!DOCTYPE html><html><body>Repository not found</body></html>",
    "json error": b'{"error": "Invalid username or password."}',
    "pickle": b"\x80\x02}q\x00.",
}


@pytest.mark.parametrize("command", ["inspect", "validate", "convert"])
@pytest.mark.parametrize("name", BYTES)
def test_a_malformed_file_is_refused_and_nothing_is_written(cli, tmp_path, command, name):
    source, target = tmp_path / "bad.safetensors", tmp_path / "out.safetensors"
    source.write_bytes(BYTES[name])
    extra = ("--to", "diffusers", "-o", target) if command == "convert" else ()
    outcome = cli(command, source, *extra, "--json")
    assert outcome.status == 3
    assert "bad.safetensors" in outcome.err
    assert "Traceback" not in outcome.err
    assert [path.name for path in tmp_path.iterdir()] == ["bad.safetensors"]


@pytest.mark.parametrize(
    ("name", "word"), [("lfs pointer", "LFS"), ("html page", "HTML"), ("json error", "JSON"), ("pickle", "pickle")]
)
def test_what_lies_under_the_suffix_is_named(cli, tmp_path, name, word):
    source = tmp_path / "bad.safetensors"
    source.write_bytes(BYTES[name])
    assert word in cli("inspect", source).err


FOREIGN: Mapping[str, tuple[str, Mapping[str, np.ndarray]]] = {
    "lllite": ("LLLite", {"lllite_unet_input_blocks_1_1_attn1_to_q.conditioning1.0.weight": np.ones((4, 4), np.float16)}),
    "control-lora": ("control-LoRA", {"lora_controlnet": np.ones(1, np.float16), "input_blocks.0.0.up": np.ones((4, 4), np.float16)}),
    "ip-adapter": ("IP-Adapter", {"ip_adapter.1.to_k_ip.weight": np.ones((4, 4), np.float16)}),
}  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
def test_another_kind_of_file_is_inspected_but_not_converted(cli, tmp_path, name):
    word, tensors = FOREIGN[name]
    source, target = tmp_path / "other.safetensors", tmp_path / "out.safetensors"
    save_file(dict(tensors), source)
    shown = cli("inspect", source, "--json")
    assert (shown.status, json.loads(shown.out)["layout"]) == (0, None)
    outcome = cli("convert", source, "--to", "diffusers", "-o", target)
    assert outcome.status == 3
    assert word in outcome.err
    assert not target.exists()


def test_a_whole_model_is_no_lora(cli, tmp_path):
    source, target = tmp_path / "model.safetensors", tmp_path / "out.safetensors"
    save_file({"model.diffusion_model.input_blocks.0.0.weight": np.ones((320, 4, 3, 3), np.float16)}, source)
    for command in (("--to", "kohya"), ("--for", "peft")):
        outcome = cli("convert", source, *command, "-o", target)
        assert (outcome.status, "Traceback" in outcome.err) == (3, False)
    assert not target.exists()


def test_keys_of_two_architectures_in_one_file_are_refused(cli, tmp_path):
    source, target = tmp_path / "mixed.safetensors", tmp_path / "out.safetensors"
    save_file({**pair(SD1, 320, 768), **pair(SDXL, 640, 2048)}, source)
    outcome = cli("convert", source, "--to", "diffusers", "-o", target)
    assert outcome.status == 3
    assert "sd1" in outcome.err
    assert "sdxl" in outcome.err
    assert not target.exists()
    assert cli("validate", source).status == 1


def test_an_unknown_key_is_refused_and_with_allow_loss_dropped_and_listed(cli, tmp_path):
    source, target = tmp_path / "odd.safetensors", tmp_path / "out.safetensors"
    odd = {f"{TEXT}_of_nothing.{part}": value for part, value in
           (("lora_down.weight", np.ones((2, 8), np.float16)), ("lora_up.weight", np.ones((8, 2), np.float16)))}  # fmt: skip
    save_file({**pair(SD1, 320, 768), **pair(TEXT, 3072, 768), **odd}, source)
    refused = cli("convert", source, "--to", "diffusers", "-o", target)
    assert (refused.status, target.exists()) == (4, False)
    done = cli("convert", source, "--to", "diffusers", "-o", target, "--allow-loss", "--json")
    report = json.loads(done.out)
    drops = [name for found in report["entries"] if found["action"] == "drop" for name in found["source"]]
    assert (done.status, report["exactness"], sorted(drops)) == (0, "partial", sorted(odd))
    assert len(load_file(target)) == 4


def test_half_a_pair_is_refused(cli, tmp_path):
    source, target = tmp_path / "half.safetensors", tmp_path / "out.safetensors"
    tensors = {**pair(SD1, 320, 768), **pair(TEXT, 3072, 768)}
    del tensors[f"{TEXT}.lora_up.weight"]
    save_file(tensors, source)
    assert cli("convert", source, "--to", "diffusers", "-o", target).status == 3
    assert not target.exists()
    report = json.loads(cli("validate", source, "--json").out)
    assert [found["code"] for found in report["problems"] if found["severity"] == "error"] == ["missing-pair"]


def test_a_directory_without_its_config_and_weights_is_refused(cli, tmp_path):
    folder, target = tmp_path / "folder", tmp_path / "out.safetensors"
    folder.mkdir()
    (folder / "README.md").write_text("nothing here")
    assert cli("convert", folder, "--to", "kohya", "-o", target).status in (2, 3)
    assert not target.exists()


def test_a_target_that_exists_is_kept_unless_forced(cli, style, tmp_path):
    target = tmp_path / "out.safetensors"
    target.write_bytes(b"mine")
    outcome = cli("convert", style, "--to", "diffusers", "-o", target)
    assert (outcome.status, target.read_bytes()) == (2, b"mine")
    assert "--force" in outcome.err
    assert cli("convert", style, "--to", "diffusers", "-o", target, "--force").status == 0
    assert target.read_bytes() != b"mine"


def test_the_source_is_never_the_target(cli, style):
    before = style.read_bytes()
    assert cli("convert", style, "--to", "diffusers", "-o", style, "--force").status == 2
    assert style.read_bytes() == before


def test_a_forced_conversion_that_fails_leaves_the_old_file(cli, tmp_path):
    source, target = tmp_path / "mixed.safetensors", tmp_path / "out.safetensors"
    save_file({**pair(SD1, 320, 768), **pair(SDXL, 640, 2048)}, source)
    target.write_bytes(b"mine")
    assert cli("convert", source, "--to", "diffusers", "-o", target, "--force").status == 3
    assert target.read_bytes() == b"mine"


def test_a_target_in_a_place_that_is_no_folder_fails_and_leaves_nothing(cli, style, tmp_path):
    outcome = cli("convert", style, "--to", "diffusers", "-o", style / "out.safetensors")
    assert outcome.status in (2, 5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["style.safetensors"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_the_machines_failure(cli, style, tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    assert cli("convert", style, "--to", "diffusers", "-o", folder / "out.safetensors").status == 5


def test_a_folder_layout_does_not_take_the_name_of_a_file(cli, style, tmp_path):
    assert cli("convert", style, "--to", "peft", "-o", tmp_path / "out.safetensors").status == 2


def test_a_missing_source_is_wrong_usage(cli, tmp_path):
    assert cli("convert", tmp_path / "none.safetensors", "--to", "kohya", "-o", tmp_path / "out").status == 2


def test_a_dry_run_tells_everything_and_writes_nothing(cli, style, tmp_path):
    outcome = cli("convert", style, "--to", "diffusers", "-o", tmp_path / "out.safetensors", "--dry-run", "--json")
    report = json.loads(outcome.out)
    assert (outcome.status, report["dry_run"], report["max_error"]) == (0, True, None)
    assert report["summary"] == {**dict.fromkeys(report["summary"], 0), "rename": 2, "metadata": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["style.safetensors"]


def test_a_path_that_is_a_device_is_not_opened(cli):
    assert cli("inspect", Path(os.devnull)).status == 3


@pytest.mark.parametrize("layout", ["diffusers", "diffusers-lora-linear", "comfyui"])
def test_an_alpha_that_is_no_number_is_refused(cli, tmp_path, layout):
    source, target = tmp_path / "nan.safetensors", tmp_path / "out.safetensors"
    save_file({**pair(SD1, 320, 768), f"{SD1}.alpha": np.array(np.nan, np.float16)}, source)
    assert cli("convert", source, "--to", layout, "-o", target).status == 3
    assert not target.exists()
    assert cli("inspect", source).status == 0


@pytest.mark.parametrize("value", ["[]", '{"unet.lora_alpha": 1e400, "unet.r": 2}', "{", '{"unet.lora_alpha": 2, "unet.alpha_pattern": [1]}',
                                   '{"unet.lora_alpha": 2, "unet.alpha_pattern": {"a": "b"}}', '{"unet.lora_alpha": ' + "9" * 400 + "}"])  # fmt: skip
def test_a_broken_lora_adapter_metadata_is_an_error_to_validate_and_refused_by_convert(cli, tmp_path, value):
    source, target = tmp_path / "odd.safetensors", tmp_path / "out.safetensors"
    head = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    tensors = {
        f"{head}.lora_A.weight": np.ones((2, 768), np.float16),
        f"{head}.lora_B.weight": np.ones((320, 2), np.float16),
    }
    save_file(tensors, source, {"lora_adapter_metadata": value})
    shown = cli("inspect", source, "--json")
    assert (shown.status, json.loads(shown.out)["layout"]) == (0, "diffusers")
    assert cli("validate", source).status == 1
    assert cli("convert", source, "--to", "kohya", "-o", target).status == 3
    assert not target.exists()


IMPOSSIBLE = {
    "a vector of flags": {f"{SD1}.weight": np.ones(320, np.float16), f"{SD1}.on_input": np.ones(320, np.int64)},
    "a scalar vector": {f"{SD1}.weight": np.array(1, np.float16), f"{SD1}.on_input": np.array(0)},
    "a flat kronecker factor": {f"{SD1}.lokr_w1": np.ones(16, np.float16), f"{SD1}.lokr_w2": np.ones((20, 48), np.float16)},
    "a flat rotation": {f"{SD1}.oft_R.weight": np.ones(80, np.float16)},
    "a small butterfly": {f"{SD1}.boft_R": np.ones((2, 2), np.float16)},
    "a complex factor": {f"{SD1}.weight": np.ones(320, np.complex64), f"{SD1}.on_input": np.array(0)},
}  # fmt: skip


@pytest.mark.parametrize("layout", ["kohya", "comfyui", "diffusers", "peft", "cloneofsimo"])
@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_a_factor_of_an_impossible_shape_is_refused(cli, tmp_path, name, layout):
    source, target = tmp_path / "in.safetensors", tmp_path / "out"
    save_file({**pair(TEXT, 3072, 768), **IMPOSSIBLE[name]}, source)
    outcome = cli("convert", source, "--to", layout, "-o", target)
    assert outcome.status in (3, 4)
    assert "internal" not in outcome.err
    assert not target.exists()
    assert cli("validate", source).status == 1


@pytest.mark.parametrize(("layout", "suffix"), [("diffusers", ".diff"), ("peft", ".w_norm")])
def test_a_conversion_of_which_nothing_would_remain_is_refused(cli, tmp_path, layout, suffix):
    source, target = tmp_path / "in.safetensors", tmp_path / "out"
    head, shape = (SD1, (320, 768)) if suffix == ".diff" else ("lora_unet_conv_norm_out", (320,))
    save_file({f"{head}{suffix}": np.ones(shape, np.float16)}, source)
    outcome = cli("convert", source, "--to", layout, "-o", target, "--allow-loss")
    assert outcome.status == 4
    assert "nothing" in outcome.err
    assert not target.exists()


@pytest.mark.parametrize("weight", ["nan", "inf", "0.7:", "", "high"])
def test_what_follows_on_a_file_and_is_no_weight_is_said(cli, tmp_path, weight):
    path = tmp_path / "a.safetensors"
    save_file(pair(SD1, 320, 768), path)
    for command in (("combine", f"{path}:{weight}"), ("merge", path, f"{path}:{weight}")):
        outcome = cli(*command, "-o", tmp_path / "out.safetensors")
        assert (outcome.status, f"'{weight}' is no weight such as 0.7" in outcome.err) == (2, True)
