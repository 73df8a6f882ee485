"""adapterhub train textual-inversion|dreambooth|lora|hypernetwork"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import adapterhub
from adapterhub.cli import training
from adapterhub.cli.options import PATH, as_json, db, debug
from adapterhub.cli.recording import keep_training
from adapterhub.cli.terminal import write, write_json

if TYPE_CHECKING:
    from adapterhub.documents import TrainingSettings

TECHNIQUES = {
    "textual-inversion": "New words for a frozen model (Gal et al. 2022).",
    "dreambooth": "A whole model learns a subject (Ruiz et al. 2023).",
    "lora": "A low-rank change beside frozen layers (Hu et al. 2021).",
    "hypernetwork": "Nets before the keys and values of attention (A1111).",
}


class Trainers(click.Group):
    """A command a technique, whose flags are its settings: they are looked up when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(TECHNIQUES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return _command(cmd_name) if cmd_name in TECHNIQUES else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(TECHNIQUES.items()))


@click.command("train", cls=Trainers)
@debug
def command() -> None:
    pass


def _command(technique: str) -> click.Command:
    from adapterhub.cli.settings import options
    from adapterhub.train.settings import kind_of

    made = click.Command(technique, params=[*options(kind_of(technique))], help=TECHNIQUES[technique],
                         callback=lambda **values: _called(technique, **values))  # fmt: skip
    for option in (*(_IDENTIFIER if technique == "dreambooth" else ()), *_OPTIONS):
        made = option(made)
    return made


_OPTIONS = (
    click.option("--config", metavar="FILE.toml", type=PATH, help="Settings; --set and flags come before it."),
    click.option("--set", "singles", metavar="KEY=VALUE", multiple=True, help="One setting, as TOML has it; flags come before it."),
    click.option("--resume", is_flag=True, help="Go on with the training that was stopped in the folder."),
    click.option("--force", is_flag=True, help="Begin anew in a folder that holds something."),
    click.option("--dry-run", is_flag=True, help="Check everything before the first step, say what would be done, write nothing."),
    click.option("--print-config", is_flag=True, help="Print all settings as a TOML file, and do nothing."),
    db,
    as_json,
    debug,
)  # fmt: skip
_IDENTIFIER = (
    click.option("--find-identifier", is_flag=True, help="List rare words of the base for [identifier], and do nothing."),
)  # fmt: skip


def _called(
    technique: str,
    *,
    config: Path | None,
    singles: tuple[str, ...],
    dry_run: bool,
    print_config: bool,
    find_identifier: bool = False,
    **values: Any,
) -> int:
    from adapterhub.cli.settings import given
    from adapterhub.train.settings import checked, kind_of, template, together

    how = {name: values.pop(name) for name in ("resume", "force", "db", "as_json")}
    flags = given(kind_of(technique), values)
    told = together(config, singles, flags)
    if find_identifier:
        return _identifiers(told, as_json=how["as_json"])
    if print_config:
        write(template(technique, told).rstrip("\n"))
        return 0
    settings = checked(kind_of(technique), told)
    return _rehearsed(settings, **how) if dry_run else _trained(settings, **how)


def _trained(settings: TrainingSettings, *, resume: bool, force: bool, db: Path | None, as_json: bool) -> int:
    with training.line(settings.steps) as watch:
        done = adapterhub.train.run(settings, resume=resume, force=force, watch=watch)
    if _is_first():
        keep_training(done, db)
        write_json(done) if as_json else write("\n".join(training.describe(done)))
    return int(any(problem.severity == "error" for problem in done.problems))


def _rehearsed(settings: TrainingSettings, *, resume: bool, force: bool, db: Path | None, as_json: bool) -> int:
    plan = adapterhub.train.rehearse(settings, resume=resume, force=force)
    if _is_first():
        write_json(plan) if as_json else write("\n".join(training.planned(plan)))
    return 0


def _identifiers(told: dict[str, Any], *, as_json: bool) -> int:
    if "base" not in told:
        raise click.UsageError("--find-identifier looks into the words of a model: give --base")
    found = import_module("adapterhub.train.identifiers").find(str(told["base"]), seed=int(told.get("seed", 0)))
    write_json(found) if as_json else write("\n".join(training.identifiers(found)))
    return 0


def _is_first() -> bool:
    """Whether this is the process that prints and records; torchrun numbers them."""
    return os.environ.get("RANK", "0") == "0"
