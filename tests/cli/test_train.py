"""`adapterhub train`: settings from a file, single values and flags, and what goes wrong with them."""

from __future__ import annotations

import io
import json
import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from adapterhub import cli as command_line
from adapterhub.cli.train import TECHNIQUES
from adapterhub.cli.training import _Plain, line
from adapterhub.train.log import Progress
from adapterhub.train.settings import as_toml, kind_of, read

Cli = Callable[..., Any]
NEEDED = ("--base", "b", "--images", "i", "-o", "out")


def config(cli: Cli, technique: str, *words: object) -> dict[str, Any]:
    done = cli("train", technique, *NEEDED, *words, "--print-config")
    assert (done.status, done.err) == (0, "")
    return tomllib.loads(done.out)


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_every_setting_has_a_flag_with_its_description_unit_source_and_default(technique: str) -> None:
    shown = CliRunner().invoke(command_line.adapterhub, ["train", technique, "--help"], env={"COLUMNS": "1000"}, terminal_width=1000, max_content_width=1000).output  # fmt: skip
    text = " ".join(shown.split())
    for name, field in kind_of(technique).model_fields.items():
        assert f"--{name.replace('_', '-')}" in text
        for part in (field.description, *(field.json_schema_extra or {}).values()):
            assert " ".join(str(part).split()) in text, name


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_a_template_is_printed_without_what_must_be_given(technique: str, cli: Cli, tmp_path: Path) -> None:
    done = cli("train", technique, "--print-config", "--steps", "7")
    assert (done.status, done.err) == (0, "")
    assert (
        '# base = ""  # the model to train on: a diffusers folder, a single file, or a Hub id' in done.out.splitlines()
    )
    assert tomllib.loads(done.out)["steps"] == 7
    filled = tmp_path / "run.toml"
    filled.write_text(re.sub(r'^# (\w+) = ""', r'\1 = "<x>"', done.out, flags=re.MULTILINE), "utf-8")
    assert read(technique, filled).steps == 7


def test_a_template_of_what_is_wrong_is_refused(cli: Cli) -> None:
    assert cli("train", "lora", "--print-config", "--steps", "0").status == 2


def test_a_flag_counts_before_a_single_value_and_that_before_the_file(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(
        'rank = 1\nbatch = 2\nsteps = 3\nprompt = "from the file"\noptimizer_options = {weight_decay = 0.1, eps = 1e-6}\n'
    )
    found = config(cli, "lora", "--config", file, "--set", "rank=4", "--set", "batch=5", "--batch", "6",
                   "--set", "optimizer_options.weight_decay=0.2", "--optimizer-options", "amsgrad=true")  # fmt: skip
    assert (found["rank"], found["batch"], found["steps"], found["prompt"]) == (4, 6, 3, "from the file")
    assert found["optimizer_options"] == {"weight_decay": 0.2, "eps": 1e-6, "amsgrad": True}


FLAGS: dict[str, tuple[str, tuple[str, ...], dict[str, Any]]] = {
    "yes": ("lora", ("--flip", "--no-captions"), {"flip": True, "captions": False}),
    "a list": ("lora", ("--targets", "attention,*.ff.net.*", "--targets", "a"), {"targets": ["attention", "*.ff.net.*", "a"]}),
    "a list of nothing": ("lora", ("--text-targets", ""), {"text_targets": []}),
    "sentences": ("lora", ("--sample-prompts", "a fox, red", "--sample-prompts", "b"), {"sample_prompts": ["a fox, red", "b"]}),
    "a table": ("lora", ("--ranks", "*.to_v=8", "--ranks", "*.to_q=4"), {"ranks": {"*.to_v": 8, "*.to_q": 4}}),
    "a word or numbers: word": ("hypernetwork", ("--widths", "text"), {"widths": "text"}),
    "a word or numbers: numbers": ("hypernetwork", ("--widths", "320,640"), {"widths": [320, 640]}),
    "numbers": ("hypernetwork", ("--layer-structure", "1,1.5,1"), {"layer_structure": [1, 1.5, 1]}),
    "a text as it is": ("lora", ("--set", "prompt=a photo of sks"), {"prompt": "a photo of sks"}),
    "a text that is quoted": ("lora", ("--set", 'prompt="a = b"'), {"prompt": "a = b"}),
    "a choice": ("dreambooth", ("--prompt", "x", "--layouts", "single-file,diffusers"), {"layouts": ["single-file", "diffusers"]}),
}  # fmt: skip


@pytest.mark.parametrize("name", FLAGS)
def test_a_flag_says_what_its_setting_is(name: str, cli: Cli) -> None:
    technique, words, expected = FLAGS[name]
    found = config(cli, technique, *words)
    assert {key: found[key] for key in expected} == expected


def test_what_is_printed_is_read_as_the_same_settings(tmp_path: Path) -> None:
    told = {
        "base": 'a "b"\\c',
        "images": "ü\x7f",
        "output": "o",
        "prompt": "x\ny",
        "ranks": {"*.to_v": 3},
        "optimizer_options": {"a": [1, {"b": "c"}]},
    }
    settings = kind_of("lora").model_validate(told)
    (tmp_path / "run.toml").write_text(as_toml(settings), "utf-8")
    assert read("lora", tmp_path / "run.toml") == settings


WRONG: dict[str, tuple[tuple[str, ...], str, str]] = {
    "misspelt": (("--set", "learning_rte=1"), "there is no setting learning_rte", "Is it learning_rate?"),
    "unknown": (("--set", "zzz=1"), "there is no setting zzz", "Known: base, images"),
    "too small": (("--steps", "0"), "steps is 0", "--steps: optimizer steps."),
    "no number": (("--set", "rank=many"), "rank is 'many'", "--rank: r, the rows of A."),
    "not finite": (("--learning-rate", "inf"), "learning_rate is inf", "--learning-rate"),
    "in a table": (("--ranks", "a=0"), "ranks.a is 0", "--ranks"),
    "twice": (("--layouts", "kohya,kohya"), "none twice", "--layouts"),
    "two that do not fit": (("--micro-batch", "3"), "micro_batch is 3, and a whole batch has 1", "Change one of the two."),
    "no pair": (("--set", "rank"), "--set rank: not KEY=VALUE", "learning_rate=1e-4"),
    "two lines": (("--set", "rank=1\nsteps=2"), "rank is '1\\nsteps=2'", "--rank"),
    "no file": (("--config", "nowhere.toml"), "nowhere.toml: no such file", "TOML"),
    "no TOML": (("--config", "bad.toml"), "bad.toml is no TOML file", "--print-config"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_setting_that_is_wrong_is_named_with_how_it_is_mended(
    name: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.toml").write_bytes(b"\xff = 1")
    words, said, mend = WRONG[name]
    done = cli("train", "lora", *NEEDED, *words)
    assert (done.status, done.out) == (2, "")
    assert said in done.err
    assert mend in done.err
    assert not Path("out").exists()


def test_what_is_missing_is_named_with_its_flag(cli: Cli) -> None:
    done = cli("train", "dreambooth", "--base", "b", "--images", "i")
    assert (done.status, done.out) == (2, "")
    assert "output is not given; prompt is not given" in done.err
    assert "-o: the folder for the result" in done.err


def test_progress_is_a_line_now_and_then_with_rate_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    seconds = iter([0.0, 1.0, 11.0, 12.0])
    plain = _Plain(lambda: next(seconds))
    for step, spent in ((1, 5.0), (2, 6.0), (11, 15.0), (4000, 20.0)):
        plain(Progress(step, 4000, 0.25, 1.0, spent))
    assert capsys.readouterr().err.splitlines() == [
        "step 1/4000, loss 0.2500",
        "step 11/4000, loss 0.2500, 1 steps/s, 1:06:29 left",
        "step 4000/4000, loss 0.2500, 267 steps/s, 0:00:00 left",
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_one_line_that_is_gone_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with line(4) as watch:
        for step in (1, 2, 3):
            watch(Progress(step, 4, 0.25, 1.0, float(step)))
    seen = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    assert "3/4" in seen
    assert "loss 0.2500, 1 steps/s, 0:00:01 left" in seen


def test_config_of_json_is_no_traceback(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(json.dumps({"rank": 1}))
    assert cli("train", "lora", *NEEDED, "--config", tmp_path / "a.toml").status == 2
