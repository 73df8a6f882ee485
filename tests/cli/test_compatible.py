"""`compatible` on the command line: its status, what it tells people, and what it tells programs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jsonschema
import pytest

from adapterhub import documents
from tests.operations import merge_files

FIXTURES = Path(__file__).parents[2] / "fixtures"
LORA, BOFT = FIXTURES / "kohya/sd1-lora.safetensors", FIXTURES / "kohya/sd1-boft.safetensors"


@pytest.fixture
def base(tmp_path):
    return merge_files.base(tmp_path / "base.safetensors")


def test_people_get_a_line_a_reader_and_the_commands_that_mend(cli):
    done = cli("compatible", FIXTURES / "kohya/sdxl-lora.safetensors")
    assert (done.status, done.err) == (0, "")
    title, heads, *rows = done.out.splitlines()
    assert title.endswith("sdxl-lora.safetensors: sdxl kohya lora")
    assert heads.split() == ["reader", "status", "modules", "why"]
    assert [row.split("  ")[0] for row in rows[:6]] == [
        "A1111 1.10", "Forge", "ComfyUI 0.3.64", "diffusers 0.42", "InvokeAI 6.14", "PEFT 0.21",
    ]  # fmt: skip
    assert rows[0].split()[2:4] == ["partly", "4/5"]
    assert "changes OpenCLIP's attention only where q, k, v and out are all there (1, as text_encoder_2." in rows[0]
    assert rows[1].split() == ["Forge", "loads", "5/5"]
    assert rows[-1].startswith("for PEFT 0.21: adapterhub convert ")
    assert rows[-1].endswith(" -o sdxl-lora-peft --for peft")


def test_an_adapter_that_fits_the_model_is_status_0(cli, base, tmp_path):
    lora = merge_files.lora(tmp_path / "lora.safetensors")
    done = cli("compatible", lora, base, "--architecture", "sd1")
    assert done.status == 0
    assert done.out.splitlines()[1] == f"fits {base} (sd1): 6 of 6 modules"


def test_one_that_does_not_is_status_1_and_told_why(cli, base):
    done = cli("compatible", LORA, base)
    assert done.status == 1
    lines = done.out.splitlines()
    assert lines[1] == f"does not fit {base} (sd1): 0 of 4 modules"
    assert (
        lines[2]
        == "  text_encoder.text_model.encoder.layers.0.self_attn.q_proj: does not fit the base, whose weight is [2, 2]"
    )


def test_one_for_another_architecture_is_told_so(cli, tmp_path):
    done = cli("compatible", LORA, merge_files.base(tmp_path / "xl.safetensors", architecture="sdxl"))
    assert done.status == 1
    assert "  it is for another architecture" in done.out.splitlines()


def test_a_file_that_no_reader_loads_whole_is_status_1_without_a_model(cli):
    assert cli("compatible", FIXTURES / "comfyui/sd1-dora.safetensors").status == 1


def test_many_modules_that_are_not_there_are_counted(cli, base):
    done = cli("compatible", FIXTURES / "cloneofsimo/sd1-text.safetensors", base)
    assert "  ... and 43 more" in done.out.splitlines()


def test_programs_get_one_document_of_its_schema(cli, base, tmp_path):
    lora = merge_files.lora(tmp_path / "lora.safetensors")
    for arguments in ((BOFT,), (LORA, base), (lora, base, "--architecture", "sd1")):
        done = cli("compatible", *arguments, "--json")
        body = json.loads(done.out)
        jsonschema.validate(body, json.loads(documents.schema("compatibility")))
        assert done.status == int(not body["fits"])
        assert [one["reader"] for one in body["readers"]] == [
            "a1111",
            "forge",
            "comfyui",
            "diffusers",
            "invokeai",
            "peft",
        ]


def test_names_that_act_on_a_terminal_are_escaped(cli, tmp_path):
    path = tmp_path / "\x1b[31mred\u202e\n.safetensors"
    shutil.copy(BOFT, path)
    done = cli("compatible", path)
    assert not {"\x1b", "\u202e"} & set(done.out)
    assert len(done.out.splitlines()) == len(cli("compatible", BOFT).out.splitlines())
    assert r"\x1b[31mred\u202e\n" in done.out


@pytest.mark.parametrize(
    ("adapter", "checkpoint", "status", "message"),
    [
        (BOFT, LORA, 3, "a LoRA, and not a checkpoint"),
        ("base", None, 3, "a checkpoint, and not a LoRA or an embedding or a hypernetwork"),
        ("nowhere", None, 2, "nowhere"),
        ("empty", None, 3, "empty"),
    ],
)
def test_what_cannot_be_asked_about_is_refused(cli, base, tmp_path, adapter, checkpoint, status, message):
    (tmp_path / "empty").write_bytes(b"")
    named = {"base": base, "nowhere": tmp_path / "nowhere", "empty": tmp_path / "empty"}.get(str(adapter), adapter)
    done = cli("compatible", *filter(None, (named, checkpoint)))
    assert (done.status, done.out) == (status, "")
    assert message in done.err
    assert "Traceback" not in done.err


def test_an_unknown_architecture_is_wrong_usage(cli):
    assert cli("compatible", LORA, "--architecture", "sd9").status == 2
