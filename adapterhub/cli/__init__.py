"""The command line: parse, call the API, print. One file per command, imported when it is called."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import NoReturn, cast

import click

from adapterhub import __version__
from adapterhub.cli.options import debug

COMMANDS = {
    "inspect": "Say what files are: kind, layout, architecture, algorithms, ranks.",
    "validate": "Say what is wrong with files and how to mend it.",
    "convert": "Rewrite an adapter in another tool's layout, and prove that it does the same.",
    "compatible": "Say where an adapter loads: in a model, and in each program that reads it.",
    "diff": "Compare what two adapters do, module by module, whatever their layouts.",
    "scale": "Write an adapter at another strength.",
    "combine": "Write several LoRAs, each times its weight, as one: exactly, or at a rank.",
    "resize": "Write a LoRA with lower ranks, and say what that costs.",
    "plot": "Draw how strong an adapter is in every block and kind of module.",
    "extract": "Write what a fine-tuned model changed in its base as a LoRA.",
    "merge": "Add adapters to a whole model, streamed, each number rounded once.",
    "unmerge": "Take adapters out of a model again, bit for bit with an undo file.",
    "embedding": "Merge, scale and trim embeddings, and say which tokens they are like.",
    "hypernetwork": "Scale a hypernetwork, or merge several.",
    "metadata": "Show and edit the text fields of a safetensors file, in its header alone.",
    "index": "Take adapters and models into the registry: what they are, their hashes, what is said about them.",
    "watch": "Index folders, and again whatever changes in them, until interrupted.",
    "list": "List what is in the registry.",
    "search": "Find by names, trigger words, tags, notes, descriptions and training tags.",
    "show": "Say everything that the registry knows of one file.",
    "tag": "Give a file tags, or take them away.",
    "note": "Keep a note about a file.",
    "rate": "Give a file one to five stars.",
    "alias": "Let a file be called by another name.",
    "remove": "Forget files; on the disk they stay.",
    "duplicates": "Find what is there twice: files, adapters in other layouts, casts, relatives.",
    "similar": "Find what does nearly the same as a file.",
    "lineage": "Draw what a file was made of, and what was made of it.",
    "replay": "Make a file again by its recipe, and compare.",
    "verify": "Read files again and say which are no longer what was recorded.",
    "doctor": "Look over the registry: is it sound, and what needs care.",
    "backup": "Copy the registry to a file, while others use it.",
    "restore": "Put a backup in the place of the registry, which is kept beside it.",
    "export": "Write what the registry knows as JSON lines or Parquet.",
    "import": "Take what another registry exported into this one.",
    "lock": "Write down the exact files of a project, and where they can be had.",
    "sync": "Check that the files of a lock file are there, or put them there.",
    "pull": "Get an adapter from the Hub or an address, having looked at it before.",
    "push": "Put an adapter or a model on the Hugging Face Hub, with a card that says what it is.",
    "train": "Train an embedding, a LoRA, a hypernetwork or a whole model on pictures.",
    "layouts": "List the layouts that are read and written.",
    "architectures": "List the model families that are known.",
    "demo": "Convert the fixtures of a source checkout and show the proofs.",
}
"""Each command with its help: `--help` imports none of them."""
_SELDOM = 50_000
"""New objects after which cycles are looked for."""


class Commands(click.Group):
    """A group whose commands are imported one at a time: `adapterhub.cli.NAME.command`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = cast(click.Command, import_module(f"adapterhub.cli.{cmd_name}").command)
        command.help = COMMANDS[cmd_name]
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command of that name; of one that there is not, those that are spelled like it."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches

            if near := get_close_matches(args[0], COMMANDS, cutoff=0.7):
                ctx.fail(f"{error.message} Did you mean {' or '.join(map(repr, near))}?")
            raise

    def invoke(self, ctx: click.Context) -> object:
        """Calls the command; what it writes is shown on the way."""
        from adapterhub.cli import progress

        with progress.line(ctx.args):
            return super().invoke(ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="adapterhub", message="%(prog)s %(version)s")
@debug
def adapterhub() -> None:
    """Identify, check, convert and compare LoRAs and the other small files that change a Stable Diffusion model.

    Exit status: 0 done, yes; 1 done, no; 2 wrong usage; 3 input refused; 4 the result would lose something;
    5 the machine failed; 130 interrupted.
    """


def run(arguments: Sequence[str]) -> int:
    """Carry out one command line and return its exit status."""
    from adapterhub.cli.faults import report

    state: dict[str, bool] = {}
    try:
        return adapterhub.main(arguments, prog_name="adapterhub", standalone_mode=False, obj=state) or 0
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - every error gets its message and status here
        return report(error, debug="debug" in state)


def main() -> NoReturn:
    """The entry point `adapterhub`. A process as short as most of these makes next to no cycles: to look for them less often, and
    not at its end, saves a sixth of its time.
    """
    from adapterhub.cli.ending import end_by_signals

    end_by_signals()
    gc.set_threshold(_SELDOM)
    atexit.register(gc.freeze)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the shell: what it would show is not wanted
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - open as long as we run
        else:
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run(sys.argv[1:]))
