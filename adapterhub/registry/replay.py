"""`replay`: a file is made again by its recipe, of the same inputs, and compared with what it was."""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from adapterhub import files
from adapterhub.documents import Conversion, Ingredient, Recipe, Replay
from adapterhub.errors import NotFound, OutputExists, RefusedInput
from adapterhub.operations.digests import digest_of
from adapterhub.operations.recipe import INPUT, as_text, output_name
from adapterhub.registry.database import place, reading, restored
from adapterhub.registry.reference import resolve

COMMANDS = {
    "convert": "adapterhub.operations.convert:convert",
    "scale": "adapterhub.operations.scale:scale",
    "combine": "adapterhub.operations.lora.combine:combine",
    "resize": "adapterhub.operations.lora.resize:resize",
    "extract": "adapterhub.operations.lora.extract:extract",
    "merge": "adapterhub.operations.merge.merge:merge",
    "unmerge": "adapterhub.operations.merge.unmerge:unmerge",
    "embedding merge": "adapterhub.embeddings:merge",
    "embedding scale": "adapterhub.embeddings:scale",
    "embedding trim": "adapterhub.embeddings:trim",
    "hypernetwork merge": "adapterhub.hypernetworks:merge",
    "hypernetwork scale": "adapterhub.hypernetworks:scale",
}
"""The command of a recipe → the function that it calls."""


def replay(ref: str, target: Path | str | None = None, *, db: Path | str | None = None, force: bool = False) -> Replay:
    """Makes `ref` again, at `target` or only to compare it, and says whether it has the same sha256.

    Its inputs are found by their sha256, wherever they lie now. NotFound where nothing is recorded of `ref`, or an input is
    gone; RefusedInput for what another tool made.
    """
    with reading(db) as connection:
        digest, recipe = _recipe(connection, ref)
        inputs = [_found(connection, one) for one in recipe.inputs]
    if missing := [one.name for one, path in zip(recipe.inputs, inputs, strict=True) if path is None]:
        raise NotFound(f"{ref} was made of {', '.join(missing)}, which cannot be found by sha256",
                       mend="adapterhub index takes in the folder where it is.")  # fmt: skip
    there = None if target is None else place(target)
    if there is not None and there.exists() and not force:
        raise OutputExists(there)
    with tempfile.TemporaryDirectory(prefix=".adapterhub-replay-", dir=None if there is None else there.parent) as name:
        folder = Path(name)
        staged = [
            _staged(folder, n, one, path)
            for n, (one, path) in enumerate(zip(recipe.inputs, inputs, strict=True))
            if path
        ]
        made = Path(_called(recipe, staged, folder).target.path)
        found = _digest(made)
        if there is not None:
            _put(made if made.is_file() else folder / "out" / recipe.output.rstrip("/"), there)
    return Replay(recipe=recipe, inputs=[str(path) for path in inputs], target=None if there is None else str(there),
                  wanted=digest, found=found, same=found == digest)  # fmt: skip


def _recipe(connection: sqlite3.Connection, ref: str) -> tuple[str, Recipe]:
    record = resolve(connection, ref)
    row = connection.execute(
        "SELECT recipes.*, records.path AS made FROM recipes JOIN records ON records.sha256 = recipes.sha256 WHERE records.id = ?",
        (record,),
    ).fetchone()
    if row is None:
        raise NotFound(f"it is not recorded how {ref} was made", mend="adapterhub lineage shows what is.")
    if row["command"] not in COMMANDS:
        training = row["command"].startswith("train ")
        raise RefusedInput(f"{ref} was made by {row['command']}, which cannot be repeated here",
                           mend="Its pictures are not recorded: adapterhub train --config FOLDER/config.toml, with the same ones, "
                                "makes the same bytes." if training else None)  # fmt: skip
    parents = connection.execute("SELECT * FROM parents WHERE recipe_id = ? ORDER BY place", (row["id"],)).fetchall()
    inputs = [Ingredient(name=one["name"], sha256=one["sha256"], fingerprint=one["fingerprint"]) for one in parents]
    output = row["output"] or output_name(str(restored(row["made"])))  # a header tells no name
    return row["sha256"], Recipe(command=row["command"], version=row["version"], inputs=inputs, output=output,
                                 parameters=json.loads(row["parameters"]))  # fmt: skip


def _found(connection: sqlite3.Connection, one: Ingredient) -> Path | None:
    """Where a file with that digest lies: in the records, or beside them, as pictures that embeddings are written onto do."""
    rows = connection.execute(
        "SELECT path FROM records WHERE sha256 = ? AND missing IS NULL UNION ALL SELECT files.path FROM hashes "
        "JOIN files ON files.id = file_id WHERE value = ? AND hashes.name = 'sha256'", (one.sha256, one.sha256),
    ).fetchall()  # fmt: skip
    return next((path for path in (restored(row[0]) for row in rows) if path.exists()), None)


def _staged(folder: Path, number: int, one: Ingredient, path: Path) -> Path:
    """A link to an input under the name that it had, which may stand in what is written."""
    (folder / str(number)).mkdir()
    link = folder / str(number) / (Path(one.name).name or "input")
    link.symlink_to(path, target_is_directory=path.is_dir())
    return link


def _called(recipe: Recipe, inputs: Sequence[Path], folder: Path) -> Conversion:
    module, _, name = COMMANDS[recipe.command].partition(":")
    function: Callable[..., Conversion] = getattr(import_module(module), name)
    (folder / "out").mkdir()
    target = f"{folder}/out/{Path(recipe.output).name}{'/' if recipe.output.endswith('/') else ''}"
    if recipe.command == "merge":  # its factors by pattern are no argument
        (folder / "recipe.json").write_text(as_text(recipe), "utf-8")
        return function(None, [], target, recipe=folder / "recipe.json")
    given = {name: _argument(value, inputs) for name, value in recipe.parameters.items()}
    return function(target=target, **given)


def _argument(value: Any, inputs: Sequence[Path]) -> Any:
    """An argument with paths in the place of the numbers of inputs."""
    if isinstance(value, dict):
        return inputs[value[INPUT]] if value.keys() == {INPUT} else value
    if isinstance(value, list):
        parts = [_argument(one, inputs) for one in value]
        return (
            tuple(parts)
            if parts and isinstance(parts[0], Path) and len(parts) > 1 and not isinstance(parts[1], Path)
            else parts
        )
    return value


def _digest(made: Path) -> str:
    with files.read(made) as package:
        return digest_of(package, files.sha256)


def _put(made: Path, there: Path) -> None:
    if there.is_dir():
        shutil.rmtree(there)
    made.replace(there)
