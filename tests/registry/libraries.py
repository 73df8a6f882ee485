"""Small libraries of files to be indexed."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

HEAD = "lora_unet_down_blocks_{}_attentions_0_transformer_blocks_0_{}"
SHAPES = {(1, "attn1_to_q"): (640, 640), (2, "attn1_to_v"): (1280, 1280), (0, "attn2_to_k"): (320, 768)}
"""Block and name → rows and columns of the weights that are changed."""


def adapter(
    path: Path, seed: int = 0, *, rank: int = 4, dtype: str = "f2", noise: float = 0.0, **metadata: str
) -> Path:
    """A Kohya LoRA of SD 1 with random factors, a little `noise` added."""
    random, other = np.random.default_rng(seed), np.random.default_rng(seed + 1000)
    tensors = {}
    for place, (height, width) in SHAPES.items():
        head = HEAD.format(*place)
        for name, shape in (("lora_down", (rank, width)), ("lora_up", (height, rank))):
            values = random.standard_normal(shape) + noise * other.standard_normal(shape)
            tensors[f"{head}.{name}.weight"] = values.astype(dtype)
        tensors[f"{head}.alpha"] = np.array(rank, dtype)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata=metadata or None)
    return path


def embedding(path: Path, width: int = 768, **metadata: str) -> Path:
    """An embedding of two vectors in Kohya's layout."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(len(path.stem)).standard_normal((2, width)).astype("f4")
    save_file({"emb_params": values}, path, metadata=metadata or None)
    return path


def cast(source: Path, target: Path, dtype: str) -> Path:
    """The same tensors in another dtype."""
    save_file({name: tensor.astype(dtype) for name, tensor in load_file(source).items()}, target)
    return target


def said(model: Path, **fields: object) -> Path:
    """A1111's side-car of a model."""
    told = {
        "description": "",
        "sd version": "SD1",
        "activation text": "",
        "preferred weight": 0,
        "negative text": "",
        "notes": "",
    }
    path = model.with_suffix(".json")
    path.write_text(json.dumps(told | {name.replace("_", " "): value for name, value in fields.items()}), "utf-8")
    return path


def rows(db: Path, sql: str, *given: object) -> list[tuple[object, ...]]:
    """What SQLite itself answers, with nothing of ours."""
    with sqlite3.connect(db) as connection:
        return connection.execute(sql, given).fetchall()


def content(db: Path) -> dict[str, Mapping[str, object]]:
    """Every record by its path, without what another run would have otherwise: numbers and times."""
    with sqlite3.connect(db) as connection:
        connection.row_factory = sqlite3.Row
        found = {}
        for row in connection.execute("SELECT * FROM records"):
            held = {name: row[name] for name in row.keys() if name not in ("id", "added")}  # noqa: SIM118
            held["hashes"] = sorted(map(tuple, connection.execute(
                "SELECT name, value FROM hashes JOIN files ON files.id = file_id WHERE record_id = ?", (row["id"],))))  # fmt: skip
            held["traits"] = sorted(map(tuple, connection.execute(
                "SELECT trait, value FROM traits WHERE record_id = ?", (row["id"],))))  # fmt: skip
            found[str(row["path"])] = held
        return found
