"""What a pickle made, as plain containers of bounded depth and size, and the tensors in it by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from operator import is_
from typing import Any

from adapterhub.files import suspicions
from adapterhub.files.limits import Limits
from adapterhub.files.package import File, Problem
from adapterhub.files.pickles.numpy_values import NumpyArray, NumpyType
from adapterhub.files.pickles.state import Refusal, shown
from adapterhub.files.pickles.tensors import Element, Storage, rebuild
from adapterhub.files.pickles.values import Global, Parameters, Record
from adapterhub.tensors import LazyTensor, holds, scalar

_STATE = "state_dict"
_WRAPPERS = (_STATE, "module", "model", "model_state_dict")
"""What a dictionary of weights is called in another: by Lightning; by DeepSpeed (`runtime/engine.py`, `_save_checkpoint`); by
scripts, of which the last is in torch's own tutorial.
"""
_PLAIN = (str, int, float)
_NUMBER = (int, float)
_SUFFIXED = (1, 2, 3)
"""How many dots there may be between the name of a module and the end of a tensor's."""
_LONG_WAY = 4096
"""Characters of the keys that lead to a container inside others."""
_ALONE = "tensor"
"""The name of a tensor that is the whole file."""


def file_of(root: Any, left_out: Mapping[str, int], limits: Limits) -> tuple[File, list[Problem]]:
    """The file whose pickle made `root`: its tensors by name, the whole tree, and a warning for what is left out.

    The tensors of a dictionary of tensors, wrapped in `state_dict` or the like or not, keep their keys; those of any other
    structure are named by the way to them, with dots; so are those beside a wrapped one. Numbers and texts there, and in a
    dictionary of nothing but these and tensors, are metadata, but a number of a module is one of its tensors. Refusal where the
    tree is too deep, too large, or contains itself.
    """
    tree = _Tree(limits).plain(root, 0)[0]
    state, others, wrapper = _state(tree)
    state = _with_numbers(state)
    tensors, beside = _named(state, limits), _named(others, limits)
    problems = [
        Problem("warning", "left-out", name, f"{count} objects of this class, and what they hold, are not read")
        for name, count in sorted(left_out.items())
    ]
    if beside:
        problems.append(
            Problem("warning", "left-out", wrapper, f"{len(beside)} tensors stand beside it and are not read")
        )
    file = File(tensors, _metadata({**_flat(state), **others}), tree, beside=beside)
    return file, problems + suspicions.of_names(tensors)


class _Tree:
    """Plain containers instead of ours. What is used in several places is looked at once, but counted in each."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._seen: dict[int, tuple[Any, int, int] | None] = {}

    def plain(self, value: Any, depth: int) -> tuple[Any, int, int]:
        """What `value`, in `depth` containers, is in plain terms; how many values that is, and how deep."""
        if not isinstance(value, _MADE):
            return value, 1, 0
        if id(value) not in self._seen:
            if depth >= self._limits.depth:
                raise Refusal("pickle-depth", f"more than {self._limits.depth} containers in one another")
            self._seen[id(value)] = None
            self._seen[id(value)] = self._container(value, depth + 1)
        known = self._seen[id(value)]
        if known is None:
            raise Refusal("pickle-cycle", "a container contains itself")
        _, count, height = known
        if depth + height > self._limits.depth:
            raise Refusal("pickle-depth", f"more than {self._limits.depth} containers in one another")
        if count > self._limits.nodes:
            raise Refusal("pickle-nodes", f"more than {self._limits.nodes} values, each counted where it is used")
        return known

    def _container(self, value: Any, depth: int) -> tuple[Any, int, int]:
        if isinstance(value, Storage):
            return rebuild(value, value.element, 0, (value.count,), (1,), self._limits), 1, 0
        if isinstance(value, Element | Global | NumpyType | NumpyArray):
            return _leaf(value), 1, 0
        if isinstance(value, Parameters):
            value = value.content()
        held = value.fields if isinstance(value, Record) else value
        if not isinstance(held, dict) and not any(isinstance(part, _MADE) and part != () for part in held):
            return held, 1 + len(held), 1
        inner = held.values() if isinstance(held, dict) else held
        parts = [self.plain(part, depth) for part in inner]
        made = _renewed(held, [part for part, _, _ in parts])
        if isinstance(value, Record):
            made = Record(value.name, value.kept, made)
        return made, 1 + sum(count for _, count, _ in parts), 1 + max((height for _, _, height in parts), default=0)


_MADE = (dict, list, tuple, set, Record, Parameters, Storage, Element, Global, NumpyType, NumpyArray)
"""What may hold others, or be put in other terms."""


def _renewed(held: Any, items: list[Any]) -> Any:
    """`held` with `items` instead of its own; itself if they are the same."""
    if not isinstance(held, dict):
        return held if all(map(is_, held, items)) else type(held)(items)
    named = any(isinstance(key, Global) for key in held)
    if type(held) is dict and not named and all(map(is_, held.values(), items)):
        return held
    made = {key.name if isinstance(key, Global) else key: item for key, item in zip(held, items, strict=True)}
    if len(made) != len(held):
        raise Refusal("pickle-duplicate", "two keys of a dictionary have one name")
    return made


def _leaf(value: Element | Global | NumpyType | NumpyArray) -> Any:
    """A dtype by its name, a class as a record without content, an array as a tensor."""
    if isinstance(value, Global):
        return Record(value.name)
    if isinstance(value, NumpyArray):
        return value.tensor
    return value.dtype if isinstance(value, Element) else value.code


def _state(tree: Any) -> tuple[Any, dict[str, Any], str]:
    """The part of the tree that holds the weights, what stands beside it, by the way to it, and the way to the part itself.

    A dictionary with as many tensors of its own as there are entries in its `state_dict` is no wrapper of that.
    """
    beside: dict[str, Any] = {}
    way = ""
    while (name := _wrapper(tree)) is not None:
        others = {f"{way}{key}": value for key, value in tree.items() if key != name}
        near = sum(isinstance(value, LazyTensor) for value in others.values())
        if near and near >= len(tree[name]):
            break
        beside |= others
        way, tree = f"{way}{name}.", tree[name]
    return tree, beside, way.rstrip(".")


def _wrapper(tree: Any) -> str | None:
    """What the weights are called in a dictionary that holds them as one thing; None where it holds nothing that is called so.
    What is not called `state_dict` must have tensors for its own, or be such a dictionary again.
    """
    if not isinstance(tree, dict):
        return None
    return next((name for name in _WRAPPERS if isinstance(tree.get(name), dict)
                 and (name == _STATE or _has_tensors(tree[name]) or _wrapper(tree[name]) is not None)), None)  # fmt: skip


def _has_tensors(state: Mapping[Any, Any]) -> bool:
    return any(isinstance(value, LazyTensor) for value in state.values())


def _with_numbers(state: Any) -> Any:
    """`state` with a tensor for each number that stands beside the tensors of its module: HEAD.alpha, HEAD.lora_up.weight."""
    if not isinstance(state, dict):
        return state
    numbers = {
        key for key, value in state.items() if isinstance(key, str) and "." in key and isinstance(value, _NUMBER)
    }
    heads = {key.rsplit(".", dots)[0] for key, value in state.items() if numbers
             if isinstance(key, str) and isinstance(value, LazyTensor) for dots in _SUFFIXED}  # fmt: skip
    theirs = {key for key in numbers if key.rpartition(".")[0] in heads}
    return {key: _number(value) if key in theirs else value for key, value in state.items()} if theirs else state


def _number(value: float) -> LazyTensor:
    """A tensor without axes, as torch makes it of a number, or of float64 where that alone holds it."""
    usual = "BOOL" if isinstance(value, bool) else "I64" if isinstance(value, int) else "F32"
    return scalar(value, usual if holds(usual, value) else "F64")


def _flat(state: Any) -> dict[Any, Any]:
    """`state` where it is a dictionary of tensors, numbers and texts; nothing else is said to be metadata."""
    flat = isinstance(state, dict) and all(isinstance(value, (LazyTensor, *_PLAIN)) for value in state.values())
    return state if flat and _has_tensors(state) else {}


def _metadata(values: Mapping[Any, Any]) -> dict[str, str]:
    """The numbers and texts by name: what trainers write of themselves, such as `epoch` and `global_step`."""
    return {key: str(value) for key, value in values.items()
            if isinstance(key, str) and isinstance(value, _PLAIN)}  # fmt: skip


def _named(state: Any, limits: Limits) -> dict[str, LazyTensor]:
    named: dict[str, LazyTensor] = {}
    letters = 0
    for name, tensor in _walk(state, ""):
        letters += len(name)
        if name in named:
            raise Refusal("pickle-duplicate", f"two tensors have the name {shown(name)}")
        if len(named) >= limits.tensors:
            raise Refusal("too-many-tensors", f"more than {limits.tensors} tensors")
        if letters > limits.metadata:
            raise Refusal("pickle-names", f"names of more than {limits.metadata} characters")
        named[name] = tensor
    return named


_LEADS_ON = (LazyTensor, Record, dict, list, tuple)
"""What is a tensor, or may hold one."""


def _walk(value: Any, place: str) -> Iterator[tuple[str, LazyTensor]]:
    """Every tensor in `value`, behind the way to it."""
    if isinstance(value, LazyTensor):
        yield place or _ALONE, value
    elif isinstance(value, Record):
        yield from _walk(value.fields, place)
    elif isinstance(value, dict | list | tuple):
        if len(place) > _LONG_WAY:
            raise Refusal("pickle-names", f"a way of more than {_LONG_WAY} characters to a tensor: {shown(place)}")
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(part, _LEADS_ON):  # joined for nothing else: a long key may stand in many dictionaries
                yield from _walk(part, f"{place}.{key}" if place else str(key))
