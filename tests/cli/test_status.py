"""Exit statuses and messages: what was wrong, on standard error, and nothing on standard output."""

import errno
import subprocess
import sys
from pathlib import Path

import click
import pytest

from adapterhub import errors
from adapterhub.cli import Commands
from adapterhub.cli.faults import explain, report

CASES = [
    (errors.UsageError("no"), "usage-error", 2),
    (errors.UnknownName("layout", "koya", ["kohya", "peft"]), "unknown-name", 2),
    (errors.MalformedFile("a.safetensors", "header-too-large", "its header is too large"), "header-too-large", 3),
    (errors.NotAnAdapter("a checkpoint"), "not-an-adapter", 3),
    (errors.NeedsBase("DoRA"), "needs-base", 3),
    (errors.LossyConversion("no place", [("alpha", "the layout has none")]), "lossy-conversion", 4),
    (errors.MachineFailure("full"), "machine-failure", 5),
    (errors.AdapterhubError("no"), "adapterhub-error", 1),
    (FileNotFoundError(errno.ENOENT, "No such file", "a"), "file-not-found-error", 2),
    (PermissionError(errno.EACCES, "Permission denied", "a"), "permission-error", 5),
    (OSError(errno.ENOSPC, "No space left on device"), "oserror", 5),
    (MemoryError(), "memory-error", 5),
    (KeyboardInterrupt(), "interrupted", 130),
    (click.Abort(), "interrupted", 130),
    (ZeroDivisionError("division by zero"), "internal", 5),
]


@pytest.mark.parametrize(("error", "code", "status"), CASES, ids=lambda value: getattr(value, "__name__", str(value)))
def test_every_error_has_a_code_and_a_status(error, code, status):
    assert (explain(error).code, explain(error).status) == (code, status)


def test_an_end_of_file_that_click_took_for_an_interrupt_is_an_internal_error():
    abort = click.Abort()
    abort.__cause__ = EOFError("ran out of input")
    assert explain(abort).code == "internal"


def test_a_message_says_what_and_then_how_to_mend_it(capsys):
    assert report(errors.UnknownName("layout", "koya", ["kohya", "peft"]), debug=False) == 2
    assert capsys.readouterr() == ("", "error: unknown layout 'koya'\nKnown: kohya, peft.\n")


def test_what_would_be_lost_is_listed_with_its_reason():
    losses = [(f"key{number}", "no place for it") for number in range(22)]
    lines = explain(errors.LossyConversion("22 tensors have no place", losses)).message.splitlines()
    assert lines[:2] == ["22 tensors have no place", "  key0: no place for it"]
    assert lines[20:] == ["  key19: no place for it", "  ... and 2 more"]


def test_the_places_of_a_broken_adapter_are_listed():
    assert explain(errors.BrokenAdapter("half a pair", ["a.lora_down"])).message == "half a pair\n  a.lora_down"


def test_what_stands_in_a_file_is_escaped_in_messages():
    message = explain(errors.MalformedFile("a\x1b[31m\n.safetensors", "bad-name", "\u202eodd")).message
    assert message == r"a\x1b[31m\n.safetensors: \u202eodd"


def test_a_traceback_is_shown_only_with_debug(capsys):
    try:
        _ = 1 / 0
    except ZeroDivisionError as error:
        report(error, debug=False)
        quiet = capsys.readouterr().err
        report(error, debug=True)
    assert quiet == "error: internal error, ZeroDivisionError: division by zero\nRun with --debug for the traceback.\n"
    assert "Traceback (most recent call last)" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [
    ["koya"], ["inspect"], ["inspect", "--koya", "a"], ["convert", "a"], ["convert", "a", "-o", "b"],
    ["convert", "a", "-o", "b", "--to", "kohya", "--for", "a1111"], ["convert", "a", "-o", "b", "--rank", "0"],
    ["diff", "a"], ["diff", "a", "b", "--tolerance", "-1"], ["convert", "a", "-o", "b", "--to", "kohya", "--dtype", "f"],
])  # fmt: skip
def test_wrong_usage_is_2_and_says_so_on_standard_error_only(cli, arguments):
    status, out, err = cli(*arguments)
    assert (status, out) == (2, "")
    assert "error: " in err.lower()


@pytest.mark.parametrize("arguments", [["inspect"], ["validate"], ["inspect", "--json"], ["validate", "--json"]])
def test_a_path_that_is_not_there_is_wrong_usage(cli, tmp_path, arguments):
    status, out, err = cli(*arguments, tmp_path / "absent")
    assert (status, out) == (2, "")
    assert err == f"error: {tmp_path / 'absent'} does not exist\n"


@pytest.mark.parametrize(("closed", "arguments", "status"), [(">&-", "layouts", 0), ("2>&-", "inspect nope", 2)])
def test_a_stream_that_is_closed_is_not_written_to(closed, arguments, status):
    done = subprocess.run(f"{sys.executable} -m adapterhub {arguments} {closed}", shell=True, capture_output=True)
    assert (done.returncode, done.stderr) == (status, b"")


@pytest.mark.parametrize("arguments", [("inspect", ""), ("convert", "a.safetensors", "--to", "kohya", "-o", "")])
def test_an_empty_path_is_no_path(cli, arguments):
    outcome = cli(*arguments)
    assert (outcome.status, "it is empty" in outcome.err) == (2, True)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_full_disk_behind_standard_output_is_told_with_what_became_of_the_file(style, options):
    target = style.with_name("out.safetensors")
    arguments = ["convert", style, "--to", "diffusers", "-o", target, *options]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "adapterhub", *arguments], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert (done.returncode, target.is_file()) == (5, True)
    assert done.stderr == (
        "error: cannot write to standard output: No space left on device\n"
        "Files that the command was to write are written, and stay: only what it had to say is lost.\n"
    )


def walked(command, *words):
    """Every command and group there is, as it is typed."""
    yield words
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            yield from walked(command.get_command(context, name), *words, name)


@pytest.mark.parametrize("words", [*walked(Commands("adapterhub"))][1:], ids=" ".join)
def test_debug_is_an_option_everywhere(cli, words):
    assert cli(*words, "--debug", "--help").status == 0


def test_a_command_that_is_misspelled_is_answered_with_those_like_it(cli):
    status, out, err = cli("inspct", "a")
    assert (status, out) == (2, "")
    assert "No such command 'inspct'. Did you mean 'inspect'?\n" in err


@pytest.mark.parametrize(("arguments", "said"), [
    (["import", "{}"], "is a folder"), (["list", "--db", "{}"], "is a folder, and a registry is a file"),
    (["index", "{}", "--db", "{}"], "is a folder, and a registry is a file"),
    (["restore", "{}", "--db", "r.db"], "is a folder, and a registry is a file"),
    (["train", "lora", "--config", "{}"], "is a folder, and a file is wanted"),
])  # fmt: skip
def test_a_folder_in_the_place_of_a_file_is_wrong_usage(cli, tmp_path, arguments, said):
    outcome = cli(*(argument.format(tmp_path) for argument in arguments))
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err.startswith(f"error: {tmp_path} {said}\n")
