"""What a merged model tells of its last merge, held against what is to be subtracted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from adapterhub.documents import Conversion, Problem, Recipe
from adapterhub.errors import RefusedInput
from adapterhub.operations.merge import recipes
from adapterhub.operations.merge.strengths import Part
from adapterhub.operations.problems import warning
from adapterhub.operations.recipe import INPUT

Strengths = tuple[float, float]
_SELECTING = ("blocks", "factors", "include", "exclude")
_CODE = "not-as-merged"


class Merged(NamedTuple):
    """At which strengths of UNet and text encoders files were merged, by sha256, and the options that left something out."""

    strengths: dict[str | None, list[Strengths]]
    selecting: list[str]


def differences(merged: Path, parts: Sequence[Part], done: Conversion) -> Iterator[Problem]:
    """Where the recipe in `merged` says something else than that `parts`, the inputs of `done` behind it, were merged like that."""
    told = _told(merged)
    if told is None:
        return
    for part, source in zip(parts, done.inputs[1:], strict=True):
        strengths = told.strengths.get(source.sha256)
        if strengths is None:
            yield warning(_CODE, str(part.path), "the last merge that the model tells of does not name this file, "
                          "and taking out what is not in it changes it more", "Leave it out if it was never merged.")  # fmt: skip
        elif (part.unet, part.text) not in strengths:
            was = ":".join(f"{strength:g}" for strength in strengths[0])
            yield warning(_CODE, str(part.path), f"it was merged at {was}, and is subtracted at {part.unet:g}:{part.text:g}",
                          f"Give {part.path}:{was}.")  # fmt: skip
    if told.selecting:
        yield warning(_CODE, str(merged), f"it was merged with {', '.join(told.selecting)}, and all of every adapter is subtracted",
                      "The file of merge --undo restores the base.")  # fmt: skip


def _told(path: Path) -> Merged | None:
    """What the recipe of a model says; None where it has none of a merge, or one that nobody can read."""
    try:
        recipe = Recipe.read(recipes.text_of(path).encode())
        if recipe.command != "merge":
            return None
        found: dict[str | None, list[Strengths]] = {}
        for one, unet, text in recipe.parameters["adapters"]:
            found.setdefault(recipe.inputs[one[INPUT]].sha256, []).append((float(unet), float(text)))
        return Merged(found, [f"--{name}" for name in _SELECTING if recipe.parameters.get(name)])
    except (RefusedInput, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
