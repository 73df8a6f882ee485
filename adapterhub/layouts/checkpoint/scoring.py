"""Which architecture a model is: the one that names the most of its tensors and has their shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import adapterhub.architectures as architectures
from adapterhub.adapter import Key, Module, Role
from adapterhub.layouts.base import Reading, Recognised, WholeLayout
from adapterhub.layouts.checkpoint.places import Placed
from adapterhub.tensors import LazyTensor, Shape

VARIANTS = {9: "inpainting", 8: "instruct-pix2pix"}
"""Channels of the UNet's input: latents with a mask and a masked image, or with a second image."""
_INPUT = Module("unet", "conv_in")
TOKENS, POSITIONS = "text_model.embeddings.token_embedding", "text_model.embeddings.position_embedding"
"""What a text encoder has a row in for each token, and for each place of a prompt: trainings add some."""


class Score(NamedTuple):
    """How well an architecture explains a model; the greatest is the best. A 1×1 convolution has the shape of a linear layer."""

    named: int
    shapes: int
    axes: int


class Judged(NamedTuple):
    """The best architecture, the others that are as good, and what it makes of the file."""

    architecture: str
    also: tuple[str, ...]
    placed: Placed
    score: Score


def best(read: Callable[[str], Placed]) -> Judged | None:
    """The architecture whose reading of a file is the best; None where none names anything."""
    read_as = ((name, read(name)) for name in architectures.NAMES)
    found = [(mark, name, placed) for name, placed in read_as if (mark := score(placed, name)).named]
    if not found:
        return None
    top = max(mark for mark, _, _ in found)
    names = tuple(name for mark, name, _ in found if mark == top)
    return Judged(names[0], names[1:], next(placed for mark, _, placed in found if mark == top), top)


def score(placed: Placed, architecture: str) -> Score:
    """The marks of `architecture` for the weights that it names."""
    weights = architectures.get(architecture).weights
    named = axes = shapes = 0
    for held, tensor in placed.tensors.items():
        component, module, role = held
        if role is Role.ASIDE:
            continue
        named += 1
        known = weights[component][module]
        expected: Shape = known if role is Role.LAYER_WEIGHT else known[:1]
        axes += len(expected) == len(tensor.shape) and held not in placed.turned
        shapes += expected == tensor.shape
    return Score(named, shapes, axes)


def misfits(tensors: Mapping[Key, LazyTensor], architecture: str) -> Iterator[tuple[Key, Shape, Shape]]:
    """(key, shape, the shape that it should have) of each weight of another shape; neither a variant's input is one, nor more
    tokens or positions.
    """
    longer = {held for held, _, _ in lengthened(tensors, architecture)}
    weights = architectures.get(architecture).weights
    for held, tensor in tensors.items():
        known = weights.get(held.component, {}).get(held.module)
        if known is None:
            continue
        expected = known if held.role is Role.LAYER_WEIGHT else known[:1]
        if held == Key(*_INPUT, Role.LAYER_WEIGHT) and tensor.shape[1:2] and tensor.shape[1] in VARIANTS:
            expected = (expected[0], tensor.shape[1], *expected[2:])
        if tensor.shape != expected and held not in longer:
            yield held, tensor.shape, expected


def lengthened(tensors: Mapping[Key, LazyTensor], architecture: str) -> Iterator[tuple[Key, int, int]]:
    """(key, rows, usual rows) of each table of tokens or positions that has more rows than others."""
    for component, modules in architectures.get(architecture).weights.items():
        for module in (TOKENS, POSITIONS):
            tensor = tensors.get(held := Key(component, module, Role.LAYER_WEIGHT))
            if tensor is not None and len(tensor.shape) == 2 and module in modules:
                (rows, width), (usual, columns) = tensor.shape, modules[module]
                if rows > usual and width == columns:
                    yield held, rows, usual


def variant(tensors: Mapping[Key, LazyTensor]) -> str | None:
    """The flavour that the channels of the input tell."""
    return VARIANTS.get(channels(tensors) or 0)


def channels(tensors: Mapping[Key, LazyTensor]) -> int | None:
    """How many channels the UNet takes; None without one."""
    tensor = tensors.get(Key(*_INPUT, Role.LAYER_WEIGHT))
    return tensor.shape[1] if tensor is not None and len(tensor.shape) == 4 else None


def recognised(layout: WholeLayout, judged: Judged, decode: Callable[[], Reading]) -> Recognised:
    """What a model was found to be, and why, and its contents as they were then found."""
    parts = dict.fromkeys(held.component for held in judged.placed.tensors)
    evidence = (f"weights of {', '.join(parts)}", f"{judged.score.shapes} of {judged.score.named} have its shapes")
    return Recognised(layout, judged.architecture, judged.also, evidence, variant(judged.placed.tensors), decode)
