"""The data files of architectures: which there are, and what they hold, without interpretation."""

from __future__ import annotations

import json
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from adapterhub.tensors import Shape

FOLDER = Path(__file__).parent


def names() -> tuple[str, ...]:
    """Every architecture that has an inventory, by the `order` in its TOML file."""
    found = (path.stem for path in FOLDER.glob("*.json"))
    return tuple(sorted(found, key=lambda name: (facts(name)["order"], name)))


@cache
def facts(name: str) -> dict[str, Any]:
    """What is written by hand about an architecture."""
    return tomllib.loads((FOLDER / f"{name}.toml").read_text("utf-8"))


def modules(name: str) -> tuple[dict[str, dict[str, Shape]], dict[str, frozenset[str]]]:
    """The weight shape of each module, and the modules that have a bias, both by component and in the model's order.

    The file says which kinds of module (by the last name of the path) have none; every other one has.
    """
    stored = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    weights: dict[str, dict[str, Shape]] = {component: {} for component in stored["unbiased"]}
    for place, shape in stored["weights"].items():
        component, _, path = place.partition(".")
        weights[component][path] = tuple(shape)
    biased = {
        component: frozenset(path for path in paths if kind(path) not in stored["unbiased"][component])
        for component, paths in weights.items()
    }
    return weights, biased


def kind(path: str) -> str:
    """The last name of a module path: `to_q` of `….attn1.to_q`."""
    return path.rpartition(".")[2]
