"""Names of files and of what is in them: whatever they hold, they are shown escaped, and never taken for anything else."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

NAMES = {
    "a line feed": "a\nb", "an escape sequence": "\x1b[2J\x1b[31m", "a title": "\x1b]0;x\x07", "a carriage return": "a\rb",
    "an override": "a\u202egnp.x", "half a character": os.fsdecode(b"\xff\xfe"), "255 bytes": "x" * 243, "dashes": "--help",
    "one dash": "-", "a device of Windows": "CON", "a stream of Windows": "a:b", "a dot at the end": "a.", "an option": "-o",
    "a pattern": "*?[a]", "a home": "~", "a shell's": "$(touch x);`touch y`|&", "quotes": "'\"", "a space": " ",
    "a weight": "a:0.5", "an address": "https:x", "a percent sign": "%s%n", "braces": "{0.__class__}", "a tab": "a\tb",
}  # fmt: skip


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    return {"emb_params": torch.ones(2, 768)}


@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
@pytest.mark.parametrize("what", NAMES)
def test_a_file_of_any_name_is_read_and_shown_escaped(
    tmp_path: Path, cli: Callable[..., Any], tensors: dict[str, torch.Tensor], what: str, ending: str
) -> None:
    path = tmp_path / (NAMES[what] + ending)
    (save_file if ending == ".safetensors" else torch.save)(tensors, tmp_path / "plain")
    (tmp_path / "plain").rename(path)
    for command in ("inspect", "validate"):
        outcome = cli(command, "--", path)
        assert outcome.status in (0, 1), outcome
        assert all(line.isprintable() for line in (outcome.out + outcome.err).split("\n"))
    told = cli("inspect", "--json", "--", path).out
    assert told.isascii()
    assert json.loads(told)["kind"] == "embedding"
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("what", ["a line feed", "an escape sequence", "an override", "half a character"])
def test_a_file_of_any_name_that_is_refused_is_named_escaped(
    tmp_path: Path, cli: Callable[..., Any], what: str
) -> None:
    path = tmp_path / NAMES[what]
    path.write_bytes(b"\x80\x02cos\nsystem\n.")
    outcome = cli("inspect", path)
    assert (outcome.status, outcome.out) == (3, "")
    assert all(line.isprintable() for line in outcome.err.split("\n"))


ODD = ["a\nb", "\x1b[2J", "\u202e", "\x9b31m", "\u2028", "a\0b", "\x7f", "'", "${x}", "{{x}}", "[red]x[/red]", "%s"]


@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
@pytest.mark.parametrize("name", ODD, ids=ascii)
def test_a_tensor_of_any_name_is_shown_escaped(tmp_path: Path, cli: Callable[..., Any], name: str, ending: str) -> None:
    path = tmp_path / f"x{ending}"
    (save_file if ending == ".safetensors" else torch.save)({name: torch.zeros(1)}, path)
    outcome = cli("inspect", "--tensors", path)
    assert outcome.status == 0
    assert all(line.isprintable() for line in outcome.out.split("\n"))
    found = json.loads(cli("inspect", "--tensors", "--json", path).out)
    assert [tensor["name"] for tensor in found["listing"]] == [name]
