"""What is to be told of adapters that are subtracted from a model: how near that comes to its base, and what its recipe says
against it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from adapterhub.documents import Problem
from adapterhub.errors import RefusedInput
from adapterhub.operations.merge import recipes
from adapterhub.operations.merge.recipes import Order
from adapterhub.operations.merge.strengths import Part
from adapterhub.operations.problems import warning
from adapterhub.operations.recipe import named

_BOUND = ("each number is off the base's by at most half a unit in the last place of what a merge made of it, for each merge, "
          "and half a unit of its own{}: it need not be the base's own bits")  # fmt: skip
_BY_CHANCE = "; a whole unit for the last merge, which rounded by chance"
_OVERFLOWED = "; what became infinite stays so"
_OPTIONS = {"blocks": "--blocks", "factors": "--blocks", "include": "--include", "exclude": "--exclude"}


def subtracted(order: Order, digests: Sequence[str]) -> Iterator[Problem]:
    """The bound, and where the recipe of the model at `order.base` tells of another merge than `order` undoes; `digests` are
    the adapters'.
    """
    try:
        recipe = recipes.told(order.base)
    except RefusedInput:  # it has none
        recipe = None
    chance = recipe is not None and recipe.rounding != "nearest"
    overflowed = recipe is not None and recipe.allow_loss
    further = (_BY_CHANCE if chance else "") + (_OVERFLOWED if overflowed else "")
    yield warning("subtracted", "", _BOUND.format(further), "--undo restores them.")
    if recipe is not None:
        yield from _otherwise(recipe, order, digests)


def _otherwise(recipe: Order, order: Order, digests: Sequence[str]) -> Iterator[Problem]:
    """What was merged otherwise."""
    for part, digest in zip(order.parts, digests, strict=True):
        out = part.negated()
        merged = [one for one, other in zip(recipe.parts, recipe.digests[1:], strict=True) if other == digest]
        if not merged:
            yield _doubt(
                part, f"is no file that the recipe of {named(order.base)} names: it may never have been merged"
            )
        elif (out.unet, out.text) not in {(one.unet, one.text) for one in merged}:
            yield _doubt(part, f"was merged {_strengths(merged[0])}, and is taken out {_strengths(out)}")
    then, now = (recipes.parameters_of("merge", one) for one in (recipe, order))
    for option in dict.fromkeys(option for name, option in _OPTIONS.items() if then.get(name) != now.get(name)):
        yield _doubt(None, f"{named(order.base)} was made with other {option} than these adapters are taken out with")


def _doubt(part: Part | None, message: str) -> Problem:
    return warning("not-as-merged", "" if part is None else named(part.path), f"{message}; the bound does not hold then",
                   "Take out what was merged, and as it was: adapterhub metadata MERGED shows its recipe.")  # fmt: skip


def _strengths(part: Part) -> str:
    return f"× {part.unet:g}" + ("" if part.text == part.unet else f" (text encoders × {part.text:g})")
