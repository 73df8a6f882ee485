"""The recipe of a merge: what was merged into what, so that it can be told, and repeated to the same bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adapterhub import files
from adapterhub.documents import Ingredient, Recipe
from adapterhub.errors import AdapterhubError, RefusedInput
from adapterhub.files.source import machine
from adapterhub.operations.merge.strengths import Part
from adapterhub.operations.recipe import FIELD, INPUT, named

FROM = "modelspec.merged_from"
_LARGEST = 16 << 20
_HEAD = 64


@dataclass(frozen=True)
class Order:
    """Everything that the bytes of the result depend on; `digests` are those of a recipe that is repeated, of the base and of
    each part.
    """

    base: Path
    parts: Sequence[Part]
    blocks: str | None = None
    factors: Mapping[str, float] | None = None
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    dtype: str | None = None
    rounding: str = "nearest"
    seed: int = 0
    architecture: str | None = None
    allow_loss: bool = False
    variant: str | None = None
    digests: Sequence[str] = ()

    @property
    def paths(self) -> list[Path]:
        """The base and each adapter."""
        return [self.base, *(part.path for part in self.parts)]

    def require(self, place: int, found: str) -> None:
        """Raises AdapterhubError where the file at a place in `paths` is not the one that the recipe was made with."""
        wanted = self.digests[place] if self.digests else found
        if wanted != found:
            path = self.paths[place]
            raise AdapterhubError(f"{path} is not the file of the recipe: its sha256 is {found}, and not {wanted}",
                                  mend="Put the file of the recipe there.")  # fmt: skip


def parameters_of(command: str, order: Order) -> dict[str, Any]:
    """What a merge, or a subtraction, can be repeated with."""
    sign = -1.0 if command == "unmerge" else 1.0
    adapters = [[{INPUT: n}, sign * part.unet, sign * part.text] for n, part in enumerate(order.parts, 1)]
    asked = {name: value for name, value in _options(order).items() if value not in (None, [], {}, False)}
    return {_BASES[command]: {INPUT: 0}, "adapters": adapters, **asked}


def inputs_of(order: Order, digests: Sequence[str], fingerprints: Sequence[str | None]) -> list[Ingredient]:
    """The base and each adapter, with their digests, and fingerprints if known."""
    return [Ingredient(name=named(path), sha256=digest, fingerprint=mark)
            for path, digest, mark in zip(order.paths, digests, fingerprints, strict=True)]  # fmt: skip


_BASES = {"merge": "base", "unmerge": "merged"}
"""What the command calls the model."""


def _options(order: Order) -> dict[str, Any]:
    chance = order.rounding != "nearest"
    return {
        "blocks": None if order.factors else order.blocks, "factors": dict(order.factors or {}),
        "include": list(order.include), "exclude": list(order.exclude), "dtype": order.dtype,
        "rounding": order.rounding if chance else None, "seed": order.seed if chance else None,
        "architecture": order.architecture, "allow_loss": order.allow_loss,
        "variant": order.variant,
    }  # fmt: skip


def merged_from(order: Order) -> str:
    """ModelSpec's field: the names of all that was merged."""
    return ", ".join(path.stem for path in order.paths)


def read(path: Path) -> Order:
    """The order in a recipe: a JSON file, or the metadata of a model that was merged. RefusedInput where there is none.

    Its inputs are looked for here, beside the recipe, and in folders beside it that are called 0, 1, … by their place.
    """
    try:
        recipe = Recipe.read(text_of(path).encode())
        if recipe.command != "merge":
            raise ValueError(f"one of {recipe.command}")
        given = recipe.parameters
        paths = [_found(path, place, one) for place, one in enumerate(recipe.inputs)]
        places = [given["base"][INPUT], *(one[INPUT] for one, _, _ in given["adapters"])]
        base, *adapters = (paths[place] for place in places)
        parts = [_part(path, *strengths) for path, (_, *strengths) in zip(adapters, given["adapters"], strict=True)]
        order = Order(base, parts, digests=[str(recipe.inputs[place].sha256) for place in places])
        return replace(order, **{name: _typed(name, given[name]) for name in _TYPES if name in given})
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise RefusedInput(f"{path}: no recipe of a merge: {type(error).__name__} {error}",
                           mend="Give a merged model, or the JSON of its adapterhub.recipe.") from None  # fmt: skip


def _part(path: Path, unet: float, text: float) -> Part:
    if not (math.isfinite(unet) and math.isfinite(text)):
        raise ValueError("a strength is a finite number")
    return Part(path, float(unet), float(text))


def _found(recipe: Path, place: int, one: Ingredient) -> Path:
    name = Path(one.name).name
    beside = (recipe.parent / str(place) / name, recipe.parent / name)
    return next((there for there in beside if name and there.exists()), Path(name))


_TYPES: Mapping[str, type] = {
    "blocks": str, "factors": dict, "include": list, "exclude": list, "dtype": str, "rounding": str, "seed": int,
    "architecture": str, "allow_loss": bool, "variant": str,
}  # fmt: skip


def _typed(name: str, value: Any) -> Any:
    if not isinstance(value, _TYPES[name]):
        raise TypeError(f"{name} is no {_TYPES[name].__name__}")
    return value


def text_of(path: Path) -> str:
    """The JSON of a recipe: of a file, or in the metadata of a model; empty where that has none."""
    if not path.is_dir():
        with machine("read", path), path.open("rb") as stream:
            if path.suffix == ".json" or _is_json(stream.read(_HEAD)):
                stream.seek(0)
                return stream.read(_LARGEST).decode()
    with files.read(path) as package:
        return next((file.metadata[FIELD] for file in package.files.values() if FIELD in file.metadata), "")


def _is_json(head: bytes) -> bool:
    """Whether a file that begins so is a JSON object; a safetensors file begins with a length, in which there are zeros."""
    return head.lstrip().startswith(b"{") and b"\0" not in head
