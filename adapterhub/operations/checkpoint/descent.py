"""Whether a model descends from a base, and how far it went: DreamBooth leaves no other trace in the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import adapterhub.architectures as architectures
from adapterhub.adapter import Adapter, Key, Kind, Role
from adapterhub.documents import ComponentDifference, Descent, Problem, Spectrum
from adapterhub.operations.checkpoint.difference import (
    FAR,
    Changes,
    changes,
    components,
    percent,
    related,
    relative,
    sentences,
)
from adapterhub.operations.problems import error, warning
from adapterhub.operations.source import open_adapter
from adapterhub.tensors import values

_LOOKED_AT = 6
"""How many weights are taken apart."""
_WIDEST = 1280
"""The most columns of one that is; its singular values take a second."""
_HELD = 0.99
_LOW = 0.25
"""Changes that need no more than this share of their singular values were made by a LoRA: training in full spreads wider."""
_NAMES = ("the base", "the model")


def descent(adapter: Adapter, base: Path, variant: str | None = None) -> tuple[Descent | None, list[Problem]]:
    """How `adapter` compares with the model at `base`, in the `variant` if that has it, and what is wrong with that; None where
    they cannot be compared.
    """
    with open_adapter(
        base, variant=variant, strict=False, kinds=(Kind.CHECKPOINT,), forgiven={"missing-weights"}
    ) as opened:
        origin = opened.adapter
        if not related(origin, adapter):
            titles = [architectures.get(model.architecture).title for model in (adapter, origin)]
            return None, [error("other-architecture", "", f"a model of {titles[0]}, and the base is of {titles[1]}",
                                "Give a base of the same kind.")]  # fmt: skip
        found = changes(origin, adapter)
        if not found:
            return None, [error("nothing-in-common", "", "the base has none of its weights", "Give a whole model.")]
        spectra = [_spectrum(key, origin, adapter) for key in _looked_at(found, origin)]
        parts = components(origin, adapter, found)
        told = list(sentences(origin, adapter, found, parts, _NAMES))
    made = _document(str(base), found, parts, spectra, told)
    return made, list(_problems(made))


def _problems(made: Descent) -> Iterator[Problem]:
    if made.verdict == "unrelated":
        yield warning("does-not-descend", "", made.summary[0], "Give the base that it was made of.")


def _document(
    base: str, found: Changes, parts: list[ComponentDifference], spectra: list[Spectrum], told: list[str]
) -> Descent:
    verdict = _verdict(found)
    equal = sum(change.verdict in ("identical", "recast") for change in found.values()) / len(found)
    low = verdict == "descends" and bool(spectra) and all(one.rank <= _LOW * one.full for one in spectra)
    far = relative(found.values())
    return Descent(
        base=base,
        verdict=verdict,
        merged_lora=low,
        equal=equal,
        relative=far,
        summary=[*_sentences(verdict, equal, far, spectra, low), *told],
        components=parts,
        spectra=spectra,
    )


def _verdict(found: Changes) -> Literal["same", "descends", "unrelated"]:
    """By the UNet, where there is one: a VAE or a text encoder may well be of another model."""
    if all(change.verdict in ("identical", "recast") for change in found.values()):
        return "same"
    judged = [change for key, change in found.items() if key.component == "unet"] or found.values()
    return "descends" if relative(judged) <= FAR else "unrelated"


def _sentences(verdict: str, equal: float, far: float, spectra: list[Spectrum], low: bool) -> Iterator[str]:
    if verdict == "same":
        yield "The model is the base: no weight changed, but for casts."
        return
    said = "descends from the base" if verdict == "descends" else "does not descend from the base"
    yield f"The model {said}: {percent(equal)} of the tensors are equal, and the weights moved by {percent(far)}."
    if spectra and verdict == "descends":
        worst = max(spectra, key=lambda one: one.rank / one.full)
        what = "low rank, as a merged LoRA makes them" if low else "high rank, as training in full makes them"
        yield f"Its changes are of {what}: {worst.rank} of {worst.full} singular values hold {percent(_HELD)} of one."


def _looked_at(found: Changes, origin: Adapter) -> list[Key]:
    """A few of the attention's weights that changed, from all of the model."""
    able = [key for key, change in found.items()
            if change.verdict == "changed" and math.isfinite(change.moved) and change.moved
            and key.role is Role.LAYER_WEIGHT and "attn" in key.module
            and len(origin.tensors[key].shape) == 2 and origin.tensors[key].shape[1] <= _WIDEST]  # fmt: skip
    return able[:: -(-len(able) // _LOOKED_AT) or 1]


def _spectrum(key: Key, origin: Adapter, adapter: Adapter) -> Spectrum:
    import numpy as np

    before, after = (values(model.tensors[key]).astype("<f8") for model in (origin, adapter))
    shares = np.linalg.svd(after - before, compute_uv=False) ** 2
    held = np.cumsum(shares)
    held /= held[-1]
    return Spectrum(
        component=key.component,
        module=key.module,
        full=len(held),
        rank=int(np.searchsorted(held, _HELD)) + 1,
        first_16=float(held[:16][-1]),
        first_64=float(held[:64][-1]),
    )
