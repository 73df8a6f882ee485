"""adapterhub embedding merge|scale|trim|nearest: arguments, statuses, output, and what starting costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from adapterhub import documents
from tests.house.test_startup import imports

ROWS = np.arange(2 * 768, dtype=np.float32).reshape(2, 768) / 4096


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "a.safetensors"
    save_file({"emb_params": ROWS}, path)
    return path


@pytest.fixture
def model(tmp_path: Path) -> tuple[Path, Path]:
    """The folder of a tokenizer, and a text encoder."""
    encoder = tmp_path / "encoder.safetensors"
    save_file({"text_model.embeddings.token_embedding.weight": np.eye(3, 768, dtype=np.float32) * 2}, encoder)
    (tmp_path / "vocab.json").write_text(json.dumps({"cat</w>": 0, "do": 1}))
    return tmp_path, encoder


def test_weights_stand_behind_the_last_colon(cli, source, tmp_path):
    odd = tmp_path / "b:c.safetensors"
    odd.write_bytes(source.read_bytes())
    numbered = tmp_path / "d:2"
    numbered.write_bytes(source.read_bytes())
    target = tmp_path / "out.safetensors"
    status, out, err = cli(
        "embedding", "merge", f"{source}:0.5", odd, f"{odd}:-.25", numbered, f"{numbered}:1e0", "-o", target
    )
    assert (status, err) == (0, "")
    np.testing.assert_array_equal(load_file(target)["emb_params"], ROWS * np.float32(3.25))
    assert "0.5 · a.safetensors + b:c.safetensors + -0.25 · b:c.safetensors + d:2 + d:2" in out


@pytest.mark.parametrize(("arguments", "expected"), [
    (["scale", "SRC", "2"], ROWS * 2), (["scale", "SRC", "-0.5"], ROWS * np.float32(-0.5)),
    (["trim", "SRC", "--vectors", "1"], ROWS[:1]), (["trim", "SRC", "--vectors", "2:2"], ROWS[1:]),
    (["merge", "SRC", "SRC", "--method", "concat"], np.concatenate([ROWS, ROWS])),
])  # fmt: skip
def test_what_is_written_is_told_as_the_schema_says(cli, source, tmp_path, arguments, expected):
    target = tmp_path / "out.safetensors"
    given = [source if argument == "SRC" else argument for argument in arguments]
    status, out, err = cli("embedding", *given, "-o", target, "--json")
    assert (status, err) == (0, "")
    done = json.loads(out)
    jsonschema.validate(done, json.loads(documents.schema("conversion")))
    assert (done["command"], done["exactness"], done["max_error"]) == (f"embedding {arguments[0]}", "bit-exact", 0.0)
    np.testing.assert_array_equal(load_file(target)["emb_params"], expected)


def test_the_token_the_layout_and_the_dtype_can_be_chosen(cli, source, tmp_path):
    target = tmp_path / "out.safetensors"
    assert (
        cli(
            "embedding", "scale", source, 2, "-o", target, "--for", "diffusers", "--token", "<a>", "--dtype", "fp16"
        ).status
        == 0
    )
    assert {name: value.dtype for name, value in load_file(target).items()} == {"<a>": np.float16}


@pytest.mark.parametrize("arguments", [
    [], ["merge"], ["merge", "SRC"], ["scale", "SRC", "-o", "OUT"], ["scale", "SRC", "two", "-o", "OUT"],
    ["scale", "SRC", "2", "--to-norm", "1", "-o", "OUT"], ["scale", "SRC", "2", "--koya", "-o", "OUT"], ["trim", "SRC", "-o", "OUT"],
    ["trim", "SRC", "--vectors", "a", "-o", "OUT"], ["trim", "SRC", "--vectors", "3", "-o", "OUT"],
    ["trim", "SRC", "--vectors", "2:1", "-o", "OUT"], ["merge", "SRC", "--to", "koya", "-o", "OUT"],
    ["merge", "SRC", "--to", "kohya", "--for", "a1111", "-o", "OUT"], ["merge", "SRC", "--to", "ldm", "-o", "OUT"],
    ["merge", "SRC", "-o", "SRC"], ["merge", "absent", "-o", "OUT"], ["nearest", "SRC"], ["nearest", "SRC", "--base", "absent"],
    ["nearest", "SRC", "--tokenizer", "."], ["nearest", "SRC", "--base", ".", "--top", "0"],
])  # fmt: skip
def test_wrong_usage_is_2_and_nothing_is_written(cli, source, tmp_path, arguments):
    places = {"SRC": source, "OUT": tmp_path / "out.safetensors"}
    before = source.read_bytes()
    status, out, _ = cli("embedding", *(places.get(argument, argument) for argument in arguments))
    assert (status, out if arguments else "") == (2, "")
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
    assert source.read_bytes() == before


@pytest.mark.parametrize("arguments", [["merge", "SRC"], ["scale", "SRC", "2"], ["trim", "SRC", "--vectors", "1"]])
def test_what_is_no_embedding_is_refused_with_3(cli, style, tmp_path, arguments):
    given = [style if argument == "SRC" else argument for argument in arguments]
    status, out, err = cli("embedding", *given, "-o", tmp_path / "out.safetensors")
    assert (status, out) == (3, "")
    assert "a LoRA, and not an embedding" in err
    assert not (tmp_path / "out.safetensors").exists()


def test_what_the_layout_has_no_place_for_is_refused_with_4(cli, tmp_path):
    source = tmp_path / "a.safetensors"
    save_file({"clip_l": ROWS, "clip_g": np.ones((2, 1280), np.float32)}, source)
    assert cli("embedding", "scale", source, 2, "-o", tmp_path / "out.pt", "--to", "a1111").status == 4
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_file_in_the_way_stays_unless_force_says_otherwise(cli, source, tmp_path):
    target = tmp_path / "out.safetensors"
    target.write_text("mine")
    assert cli("embedding", "scale", source, 2, "-o", target).status == 2
    assert target.read_text() == "mine"
    assert cli("embedding", "scale", source, 2, "-o", target, "--force").status == 0
    np.testing.assert_array_equal(load_file(target)["emb_params"], ROWS * 2)


def test_nearest_tokens_are_shown_to_people(cli, model, tmp_path):
    source = tmp_path / "odd.safetensors"
    rows = np.zeros((2, 768), np.float32)
    rows[0, :3] = [4, 3, 2]
    save_file({"emb_params": rows}, source)
    status, out, err = cli("embedding", "nearest", source, "--tokenizer", model[0], "--text-encoder", model[1])
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "odd 1 (text_encoder), length 5.39",
        "  cosine  distance  token",
        "  0.7428  4.12      cat",
        "  0.5571  4.58      do…",
        "  0.3714  5         token 2, which the tokenizer does not name",
        "odd 2 (text_encoder), length 0",
        "  zero or not finite: like no token",
        "text_model.embeddings.token_embedding.weight: 3 tokens, median length 2",
    ]


def test_nearest_tokens_are_told_as_the_schema_says(cli, source, model):
    arguments = ["--tokenizer", model[0], "--text-encoder", model[1], "--top", 1, "--json"]
    status, out, err = cli("embedding", "nearest", source, *arguments)
    assert (status, err) == (0, "")
    found = json.loads(out)
    jsonschema.validate(found, json.loads(documents.schema("nearest")))
    assert [(vector["vector"], len(vector["nearest"])) for vector in found["vectors"]] == [(1, 1), (2, 1)]


def test_a_name_in_a_vocabulary_does_nothing_to_a_terminal(cli, source, model):
    (model[0] / "vocab.json").write_text(json.dumps({"<\x1b[31m>": 0, "\u202e": 1, "a": 2}))
    shown = cli("embedding", "nearest", source, "--tokenizer", model[0], "--text-encoder", model[1]).out
    assert r"<\x1b[31m>" in shown
    assert "\x1b" not in shown
    assert "\u202e" not in shown


def test_none_of_the_four_imports_torch(source, model, tmp_path):
    encoder = ["--tokenizer", str(model[0]), "--text-encoder", str(model[1])]
    for arguments in (["merge", f"{source}:0.3", str(source)], ["scale", str(source), "0.3"],
                      ["scale", str(source), "--to-norm", "0.4"], ["trim", str(source), "--vectors", "1"]):  # fmt: skip
        assert "torch" not in imports("embedding", *arguments, "-o", str(tmp_path / "out.safetensors"), "--force")
    assert "torch" not in imports("embedding", "nearest", str(source), *encoder)


@pytest.mark.parametrize("name", ["merge", "scale", "trim", "nearest"])
def test_help_imports_nothing_heavy(name):
    assert not imports("embedding", name, "--help") & {"numpy", "pydantic", "torch"}


def test_a_table_of_a_real_size_is_streamed(tmp_path):
    """49,408 rows of 768 are 150 MB; what is above the imports stays below 60 MB."""
    encoder, source = tmp_path / "encoder.safetensors", tmp_path / "a.safetensors"
    save_file({"text_model.embeddings.token_embedding.weight": np.ones((49_408, 768), np.float32)}, encoder)
    save_file({"emb_params": ROWS}, source)
    (tmp_path / "vocab.json").write_text(json.dumps({f"word{number}</w>": number for number in range(49_408)}))
    program = (
        "import resource, sys, numpy; from adapterhub.cli import run; import adapterhub.embeddings\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "assert run(sys.argv[1:]) == 0\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, file=sys.stderr)"
    )
    command = [
        sys.executable,
        "-c",
        program,
        "embedding",
        "nearest",
        source,
        "--tokenizer",
        tmp_path,
        "--text-encoder",
        encoder,
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert int(done.stderr) < 60_000
