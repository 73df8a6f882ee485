"""`lineage`: what a file was made of, and what was made of it, as far as recipes are known.

A recipe names its inputs by sha256 and fingerprint. What has the sha256 is the parent itself; what has the fingerprint is the same
adapter in another file, and stands in for it. Beside our own, recipes are read that others write: the base that Kohya's trainers
name, and the models that A1111 merged.
"""

from __future__ import annotations

import json
import sqlite3
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from adapterhub.documents import Ancestor, Lineage, Recipe, Step
from adapterhub.operations.recipe import FIELD
from adapterhub.registry import storing
from adapterhub.registry.database import clean, reading, restored
from adapterhub.registry.reference import resolve

_HEX = 64


def lineage(ref: str, *, db: Path | str | None = None) -> Lineage:
    """Everything that `ref` came from, and everything that came from it."""
    with reading(db) as connection:
        walk = _Walk(connection)
        start = walk.of_record(resolve(connection, ref))
        walk.follow(start, walk.upwards)
        walk.follow(start, walk.downwards)
        return Lineage(of=start, nodes=list(walk.nodes.values()), steps=walk.steps)


class _Walk:
    """What was met, each file once, by its key."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.nodes: dict[str, Ancestor] = {}
        self.steps: list[Step] = []

    def follow(self, start: str, onward: Any) -> None:
        waiting, met = deque([start]), {start}
        while waiting:
            for key in onward(waiting.popleft()):
                if key not in met:
                    met.add(key)
                    waiting.append(key)

    def of_record(self, record: int) -> str:
        """The node of a record: called by its sha256, or by its number while that is not known."""
        row = self.connection.execute(
            "SELECT id, name, path, sha256, fingerprint, missing, kind FROM records WHERE id = ?", (record,)
        ).fetchone()
        key = row["sha256"] or f"#{record}"
        self.nodes.setdefault(key, Ancestor(
            key=key, name=row["name"], record=record, path=str(restored(row["path"])), kind=row["kind"], sha256=row["sha256"],
            fingerprint=row["fingerprint"], missing=row["missing"] is not None))  # fmt: skip
        return key

    def of_parent(self, row: sqlite3.Row) -> tuple[str, str]:
        """The node of what a recipe names, and by what it was found."""
        if (found := _by_sha256(self.connection, row["sha256"])) is not None:
            return self.of_record(found), "sha256"
        if (found := _by_fingerprint(self.connection, row["fingerprint"])) is not None:
            return self.of_record(found), "fingerprint"
        key = row["sha256"] or row["fingerprint"] or f"name:{row['name']}"
        self.nodes.setdefault(
            key, Ancestor(key=key, name=row["name"], sha256=row["sha256"], fingerprint=row["fingerprint"])
        )
        return key, "name"

    def upwards(self, key: str) -> Iterator[str]:
        for recipe in self.connection.execute("SELECT * FROM recipes WHERE sha256 = ?", (key,)).fetchall():
            for parent in self.connection.execute(
                "SELECT * FROM parents WHERE recipe_id = ? ORDER BY place", (recipe["id"],)
            ).fetchall():  # fmt: skip
                above, by = self.of_parent(parent)
                self._step(key, above, recipe, by)
                yield above

    def downwards(self, key: str) -> Iterator[str]:
        rows = self.connection.execute(
            "SELECT recipes.*, parents.sha256 AS parent FROM parents JOIN recipes ON recipes.id = recipe_id "
            "WHERE parents.sha256 = ? OR (parents.fingerprint = ? "
            "AND NOT EXISTS (SELECT 1 FROM records WHERE records.sha256 = parents.sha256)) ORDER BY recipes.id", (key, self.nodes[key].fingerprint),
        ).fetchall()  # fmt: skip
        for row in rows:
            found = _by_sha256(self.connection, row["sha256"])
            below = self.of_record(found) if found is not None else self._made(row)
            if below != key:
                self._step(below, key, row, "sha256" if row["parent"] == key else "fingerprint")
                yield below

    def _made(self, recipe: sqlite3.Row) -> str:
        self.nodes.setdefault(recipe["sha256"], Ancestor(key=recipe["sha256"], name=recipe["name"], sha256=recipe["sha256"],
                                                         path=str(restored(recipe["path"])) if recipe["path"] else None))  # fmt: skip
        return str(recipe["sha256"])

    def _step(self, child: str, parent: str, recipe: sqlite3.Row, by: str) -> None:
        step = Step(child=child, parent=parent, command=recipe["command"], version=recipe["version"],
                    parameters=json.loads(recipe["parameters"]), by=by)  # type: ignore[arg-type]  # fmt: skip
        if step not in self.steps:
            self.steps.append(step)


def _by_sha256(connection: sqlite3.Connection, digest: str | None) -> int | None:
    """The record of the file, one that is there before one that is missing."""
    row = connection.execute(
        "SELECT id FROM records WHERE sha256 = ? ORDER BY missing IS NOT NULL, id LIMIT 1", (digest,)
    ).fetchone()
    return row[0] if row else None


def _by_fingerprint(connection: sqlite3.Connection, fingerprint: str | None) -> int | None:
    row = connection.execute(
        "SELECT id FROM records WHERE fingerprint = ? ORDER BY missing IS NOT NULL, id LIMIT 1", (fingerprint,)
    ).fetchone()
    return row[0] if row else None


def put_recipe(
    connection: sqlite3.Connection, digest: str, name: str, recipe: Recipe, path: str | bytes | None = None
) -> None:
    """Keeps how the file with that sha256 was made; the first that is told of a file stays."""
    row = connection.execute(
        "INSERT INTO recipes (sha256, name, command, version, parameters, output, path, recorded) VALUES (?, ?, ?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (sha256) DO UPDATE SET path = coalesce(recipes.path, excluded.path), "
        "output = iif(recipes.output = '', excluded.output, recipes.output) RETURNING id",
        (
            digest,
            clean(name),
            recipe.command,
            recipe.version,
            json.dumps(recipe.parameters),
            recipe.output,
            path,
            storing.now(),
        ),
    ).fetchone()
    connection.executemany(
        "INSERT OR IGNORE INTO parents (recipe_id, place, name, sha256, fingerprint) VALUES (?, ?, ?, ?, ?)",
        [(row[0], place, clean(one.name), one.sha256, one.fingerprint) for place, one in enumerate(recipe.inputs)],
    )


def keep_recipe(connection: sqlite3.Connection, record: int) -> None:
    """Keeps the recipe that the header of a record tells."""
    row = connection.execute(
        "SELECT sha256, name, path, fields FROM records JOIN metadata ON record_id = id WHERE id = ?", (record,)
    ).fetchone()
    if row is not None and row["sha256"] and (recipe := told_by(json.loads(row["fields"]))) is not None:
        put_recipe(connection, row["sha256"], row["name"], recipe, row["path"])


def told_by(metadata: Mapping[str, str]) -> Recipe | None:
    """The recipe that a header tells: ours, that of a merge, A1111's merges, or the base of a training with Kohya's scripts."""
    for read in (_ours, _of_a1111, _of_kohya):
        try:
            if (found := read(metadata)) is not None:
                return found
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
    return None


def _ours(metadata: Mapping[str, str]) -> Recipe | None:
    if FIELD not in metadata:
        return None
    return Recipe.model_validate_json(metadata[FIELD])


def _of_a1111(metadata: Mapping[str, str]) -> Recipe | None:
    """`modules/extras.py`: run_modelmerger; models by sha256."""
    if "sd_merge_models" not in metadata:
        return None
    models = json.loads(metadata["sd_merge_models"])
    inputs = [
        {"name": str(one.get("name", "")), "sha256": digest} for digest, one in models.items() if _is_digest(digest)
    ]
    recipe = json.loads(metadata.get("sd_merge_recipe", "{}"))
    return Recipe.model_validate({"command": "merge (A1111)", "version": "", "parameters": recipe, "inputs": inputs})


def _of_kohya(metadata: Mapping[str, str]) -> Recipe | None:
    """`library/train_util.py`: the whole file's sha256 of the base that was trained on, and of its VAE."""
    inputs = [{"name": Path(metadata.get(name, "")).name, "sha256": digest.lower()}
              for field, name in (("ss_new_sd_model_hash", "ss_sd_model_name"), ("ss_new_vae_hash", "ss_vae_name"))
              if _is_digest(digest := metadata.get(field, ""))]  # fmt: skip
    return Recipe.model_validate({"command": "training (Kohya)", "version": "", "inputs": inputs}) if inputs else None


def _is_digest(text: str) -> bool:
    return len(text) == _HEX and all(digit in "0123456789abcdefABCDEF" for digit in text)
