"""What people and programs read on standard output."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapterhub import documents, errors
from adapterhub.cli import adapterhub as group
from adapterhub.cli import convert, diff, inspect, validate
from adapterhub.cli.paths import each
from adapterhub.cli.terminal import columns, counts, escape, paint, write_json

INSPECTION = documents.Inspection(
    path="style.safetensors", size=1000, kind="lora", container="safetensors", layout="kohya", architecture="sd1",
    evidence=["attn2.to_k input width 768"], algorithms={"lora": 2}, components={"unet": 2}, ranks={"4": 2},
    alphas={"4": 1, "1": 1}, dtypes={"F16": 6}, tensors=6, parameters=1500, metadata={"ss_network_dim": "4"},
    problems=[{"severity": "warning", "code": "missing-alpha", "where": "m", "message": "no alpha", "mend": "Add it."}],
)  # fmt: skip
CONVERSION = documents.Conversion(
    source={"path": "a"}, target={"path": "b", "layout": "diffusers"}, exactness="partial", max_error=0.0, modules=2,
    entries=[{"source": ["x"], "target": [], "action": "drop", "reason": "no place"}],
    summary={"rename": 4, "fold": 0, "drop": 1}, seconds=0.1,
)  # fmt: skip
DIFFERENCE = documents.Difference(
    a="a", b="b", equal=False, max_abs=0.5, max_error=0.25, modules=2, only_in_b=["unet.conv_in"],
    differences=[{"component": "unet", "module": "conv_out", "max_abs": 0.5, "relative": 0.25}],
)  # fmt: skip


def ask(path: Path) -> documents.Validation:
    """A question about a path: "bad" is refused, "odd" breaks the program, "no" is the answer no."""
    if path.name == "bad":
        raise errors.MalformedFile(path, "too-short", "it has 3 bytes")
    if path.name == "odd":
        raise RuntimeError("surprise")
    return documents.Validation(path=path, valid=path.name != "no", kind="lora")


def answers(*names: str, as_json: bool) -> int:
    with group.make_context("adapterhub", ["inspect"], obj={}):
        show = validate.describe
        return each([Path(n) for n in names], ask, show, as_json=as_json, status=lambda found: int(not found.valid))


def test_one_path_is_one_object(capsys):
    assert answers("yes", as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["path"] == "yes"


def test_several_paths_are_one_array_in_their_order_with_failures_in_place(capsys):
    assert answers("yes", "bad", "no", "odd", as_json=True) == 5
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert [entry["path"] for entry in found] == ["yes", "bad", "no", "odd"]
    assert found[1]["error"] == {"code": "too-short", "message": "bad: it has 3 bytes"}
    assert found[3]["error"]["code"] == "internal"
    assert err.startswith("error: bad: it has 3 bytes\nerror: internal error")


@pytest.mark.parametrize(("names", "status"), [("yes yes", 0), ("yes no", 1), ("no bad", 3), ("bad no yes", 3)])
def test_the_worst_status_counts(names, status):
    assert answers(*names.split(), as_json=True) == status


def test_one_path_that_is_refused_raises_and_prints_nothing(capsys):
    with pytest.raises(errors.MalformedFile):
        answers("bad", as_json=True)
    assert capsys.readouterr().out == ""


def test_the_lines_of_several_paths_go_on_after_a_failure(capsys):
    answers("no", "bad", "yes", as_json=False)
    assert capsys.readouterr().out == "no: not valid (lora)\n\nyes: valid (lora)\n\n"


def test_an_inspection_is_shown_line_by_line():
    assert inspect.describe(INSPECTION) == [
        "path          style.safetensors",
        "kind          lora",
        "layout        kohya",
        "container     safetensors",
        "architecture  sd1",
        "evidence      attn2.to_k input width 768",
        "algorithms    lora 2",
        "components    unet 2",
        "ranks         4",
        "alphas        4 in 1, 1 in 1",
        "tensors       6 (F16 6), 1,500 numbers, 1,000 bytes",
        "metadata      1 fields",
        "  warning missing-alpha: m: no alpha",
        "    Add it.",
    ]


def test_a_conversion_shows_ledger_proof_and_every_drop():
    assert convert.describe(CONVERSION) == [
        "from    a",
        "to      b (diffusers)",
        "ledger  rename 4, drop 1",
        "proof   partial, max error 0 over 2 modules",
        "  drop x:  no place",
    ]


def test_a_difference_shows_the_worst_modules_and_those_of_one_side():
    assert diff.describe(DIFFERENCE) == [
        "different: 2 modules compared, max error 0.25",
        "only in b: unet.conv_in",
        "module         max  relative",
        "unet.conv_out  0.5  0.25",
    ]


@pytest.mark.parametrize(("text", "shown"), [
    ("plain \u00e9 \u6f22 <tag>", "plain \u00e9 \u6f22 <tag>"), ("\x1b[31mred", r"\x1b[31mred"), ("a\nb\rc\td", r"a\nb\rc\td"),
    ("\u202ekcab", r"\u202ekcab"), ("zero\u200bwidth", r"zero\u200bwidth"), ("\udce9", r"\udce9"), ("\x9b0m", r"\x9b0m"),
])  # fmt: skip
def test_what_could_act_on_a_terminal_is_escaped(text, shown):
    assert escape(text) == shown


@given(st.text())
def test_escaped_text_is_printable_and_printable_text_is_left_alone(text):
    assert escape(text).isprintable()
    assert (escape(text) == text) == text.isprintable()


@given(st.text())
def test_json_is_ascii_and_means_the_same(text):
    try:
        document = documents.Problem(severity="error", code="a", where=text, message="")
    except ValueError:
        assert any("\ud800" <= character <= "\udfff" for character in text)
        return
    printed = document.model_dump_json(indent=2, ensure_ascii=True)
    assert printed.isascii()
    assert json.loads(printed)["where"] == text


def test_nothing_at_all_is_an_empty_array(capsys):
    write_json([])
    assert capsys.readouterr().out == "[]\n"


def test_columns_are_aligned():
    assert columns([("a", 1), ("bcd", 22)]) == ["a    1", "bcd  22"]
    assert columns([]) == []


def test_counts_read_as_a_list():
    assert counts({"lora": 264, "norm": 2}) == "lora 264, norm 2"


@pytest.mark.parametrize(("tty", "environment", "coloured"), [
    (True, {"TERM": "xterm"}, True), (True, {"TERM": "xterm", "NO_COLOR": "1"}, False),
    (True, {"TERM": "dumb"}, False), (False, {"TERM": "xterm"}, False),
])  # fmt: skip
def test_colour_is_for_terminals_without_no_color(monkeypatch, tty, environment, coloured):
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdout.isatty", lambda: tty, raising=False)
    assert paint("valid", "green") == ("\x1b[32mvalid\x1b[0m" if coloured else "valid")


PRINTER = "from adapterhub.cli.terminal import write\nfor _ in range(20000): write('x' * 100)\nraise SystemExit(1)"


def test_a_reader_that_leaves_changes_neither_the_status_nor_standard_error():
    with subprocess.Popen([sys.executable, "-c", PRINTER], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        program.stdout.read(10)
        program.stdout.close()
        assert program.stderr.read() == b""
        assert program.wait() == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_standard_output_raises_once_and_is_not_met_again_at_exit():
    program = (
        "from adapterhub.cli.terminal import write\ntry: write('x')\nexcept OSError as e: raise SystemExit(e.errno)"
    )
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", program], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (errno.ENOSPC, "")
