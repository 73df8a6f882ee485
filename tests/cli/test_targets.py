"""`-` is no standard output here, and no file of that name by mistake."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from adapterhub.cli import COMMANDS, adapterhub

ROOT = click.Context(adapterhub)


def targets(command: click.Command | None, name: str) -> Iterator[tuple[str, click.Option]]:
    """Every -o of a command and of those below it."""
    assert command is not None
    if isinstance(command, click.Group):
        for below in command.list_commands(ROOT):
            yield from targets(command.get_command(ROOT, below), f"{name} {below}")
    for option in command.params:
        if "-o" in option.opts and isinstance(option, click.Option):
            yield name, option


WRITING = [found for name in COMMANDS for found in targets(adapterhub.get_command(ROOT, name), name)]


def test_commands_that_write_are_found() -> None:
    names = {name for name, _ in WRITING}
    assert {"convert", "merge", "scale", "plot", "lock", "export", "pull", "embedding scale", "train lora"} <= names


@pytest.mark.parametrize(("name", "option"), WRITING, ids=[name for name, _ in WRITING])
def test_no_output_is_a_dash(name: str, option: click.Option) -> None:
    with pytest.raises(
        click.BadParameter, match=r"nothing is written to standard output: name a file, which \./- may be"
    ):
        option.type.convert("-", option, ROOT)
    assert str(option.type.convert("./-", option, ROOT)) in ("-", "./-")


def test_a_dash_is_wrong_usage_and_nothing_is_written(cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for given in (("scale", "a.safetensors", "0.5", "-o", "-"), ("merge", "a", "b", "-o", "c", "--undo", "-")):
        outcome = cli(*given)
        assert (outcome.status, "nothing is written to standard output" in outcome.err) == (2, True)
    assert list(tmp_path.iterdir()) == []
