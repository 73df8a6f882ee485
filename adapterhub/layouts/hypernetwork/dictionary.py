"""The dictionary that A1111 pickles: by width a pair of state_dicts, for keys and for values, and a few fields beside them.

Source: A1111 `modules/hypernetworks/hypernetwork.py` (`Hypernetwork.save`, `load`, `parse_dropout_structure`,
`fix_old_state_dict`) and its history; kohya's `finetune/hypernetwork_nai.py` has lists for pairs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from adapterhub.adapter import Key, Role
from adapterhub.documents import HypernetworkStructure
from adapterhub.files import Package, strict_json
from adapterhub.layouts.hypernetwork.layout import Content
from adapterhub.layouts.hypernetwork.structure import LINEAR, OLD_DROPOUT, ROLES, Net, checked
from adapterhub.tensors import LazyTensor

NOTES = "metadata"
"""Ours: a dictionary of text for what A1111 has no field for, and no reader looks at."""
DROPOUT = "adapterhub.dropout"
"""The note that keeps the probabilities of training, as JSON."""
TEXTS = ("name", "sd_checkpoint", "sd_checkpoint_name", "optional_info")
STEP = "step"
STRUCTURE_FIELDS = ("layer_structure", "activation_func", "is_layer_norm", "activate_output")
"""Fields that decide what the net does; A1111 takes a default for each that is missing."""
_WIDTH = re.compile(r"[1-9]\d{0,4}")
_MODULE = re.compile(r"linear\.\d{1,6}(\.linear\.\d{1,6}|\.upsample_layer)?|linear[12]")
_UPSAMPLE = ".upsample_layer"
_HALVES = ("k", "v")


def dictionary(package: Package) -> Mapping[Any, Any] | None:
    """The dictionary of a file that is such a hypernetwork; None for every other."""
    tree = package.only.tree if len(package.files) == 1 else None
    if not isinstance(tree, dict):
        return None
    pairs = [value for key, value in tree.items() if _width(key) and isinstance(value, list | tuple)]
    return tree if any(_is_state_dict(half) for pair in pairs for half in pair) else None


def _width(key: object) -> int:
    """A width; 0 for every other key. Text of digits is read, though A1111 looks for numbers."""
    text = str(key) if isinstance(key, int | str) and not isinstance(key, bool) else ""
    return int(text) if _WIDTH.fullmatch(text) else 0


def _is_state_dict(value: object) -> bool:
    return isinstance(value, dict) and any(
        isinstance(name, str) and isinstance(tensor, LazyTensor) and _MODULE.fullmatch(name.rpartition(".")[0])
        for name, tensor in value.items()
    )


def content(tree: Mapping[Any, Any]) -> Content:
    """What the dictionary holds."""
    found = list(_tensors(tree))
    widths = list(dict.fromkeys(int(row.key.module.partition(".")[0]) for row in found))
    return Content(
        {row.key: row.place for row in found},
        {row.key: row.name for row in found},
        lambda: told(tree, widths, residual=any(row.name.count(".") > 2 for row in found)),
        metadata_of(tree),
        tuple(field for field in STRUCTURE_FIELDS if field not in tree),
        _noted(tree),
    )


class _Row(NamedTuple):
    key: Key
    place: str
    name: str


def _tensors(tree: Mapping[Any, Any]) -> Iterator[_Row]:
    """Every tensor that some stage of a net has a place for."""
    for width, pair in tree.items():
        if not _width(width) or not isinstance(pair, list | tuple):
            continue
        for number, (half, state) in enumerate(zip(_HALVES, pair, strict=False)):
            for part, count, module, roles in _modules(state) if isinstance(state, dict) else ():
                for role, name in roles.items():
                    key = Net(_width(width), half).key(part, count, role)
                    yield _Row(key, f"{width}.{number}.{name}", f"{module}.{name.rpartition('.')[2]}")


def _modules(state: Mapping[Any, Any]) -> Iterator[tuple[str, int, str, dict[Role, str]]]:
    """(part, number of its kind, name today, names of its tensors) of every module, in the order of computation."""
    grouped: dict[str, dict[Role, str]] = {}
    for name, tensor in state.items():
        module, _, suffix = name.rpartition(".") if isinstance(name, str) else ("", "", "")
        if isinstance(tensor, LazyTensor) and suffix in ROLES and _MODULE.fullmatch(module):
            grouped.setdefault(module, {})[ROLES[suffix]] = name
    counts: dict[str, int] = {}
    for module in sorted(grouped, key=lambda module: [int(digits) for digits in re.findall(r"\d+", module)]):
        part = _part(module, {role: state[name] for role, name in grouped[module].items()})
        if part is not None:
            yield part, counts.get(part, 0), _OLD.get(module, module), grouped[module]
            counts[part] = counts.get(part, 0) + 1


_OLD = {"linear1": "linear.0", "linear2": "linear.1"}
"""NovelAI's names."""


def _part(module: str, tensors: Mapping[Role, LazyTensor]) -> str | None:
    """What a module is, by its shapes."""
    weight = tensors.get(Role.LAYER_WEIGHT)
    if weight is None:
        return None
    if module.endswith(_UPSAMPLE):
        return "upsample"
    if len(weight.shape) == 2:
        return "linear"
    if len(weight.shape) != 1:
        return None
    return "norm" if Role.LAYER_BIAS in tensors else "activation" if weight.size == 1 else None


def told(tree: Mapping[Any, Any], widths: list[int], *, residual: bool) -> HypernetworkStructure:
    """The structure by the fields, with A1111's defaults for those that are missing."""
    layers = tree.get("layer_structure", [1, 2, 1])
    return checked(
        {
            "layer_structure": layers,
            "activation": LINEAR if tree.get("activation_func") is None else tree["activation_func"],
            "layer_norm": tree.get("is_layer_norm", False),
            "activate_output": tree.get("activate_output", True),
            "dropout": _dropout(tree, len(layers) if isinstance(layers, list | tuple) else 0),
            "weight_initialization": tree.get("weight_initialization"),
            "skip_connection": residual or bool(tree.get("skip_connection")),
            "upsample_linear": tree.get("upsample_linear") == "Linear",
        },
        widths,
    )


def _dropout(tree: Mapping[Any, Any], layers: int) -> Any:
    """The probabilities: as stored, or as A1111 had them before it stored any."""
    stored = tree.get("dropout_structure")
    if stored is None and tree.get("use_dropout") and layers > 1:
        last = OLD_DROPOUT if tree.get("last_layer_dropout") else 0
        stored = [0, *[OLD_DROPOUT] * (layers - 3), last, 0][-layers:]
    return stored if isinstance(stored, list | tuple) and any(stored) else None


def _noted(tree: Mapping[Any, Any]) -> tuple[float, ...]:
    """The dropout that our note keeps."""
    try:
        noted = strict_json.loads(_notes(tree).get(DROPOUT, "[]"))
    except (ValueError, RecursionError):
        return ()
    if not isinstance(noted, list) or not all(isinstance(p, int | float) and 0 <= p < 1 for p in noted):
        return ()
    return tuple(map(float, noted))


def metadata_of(tree: Mapping[Any, Any]) -> dict[str, str]:
    """The fields as text; None says nothing."""
    fields = {field: str(tree[field]) for field in (*TEXTS, STEP) if tree.get(field) is not None}
    return {**fields, **{field: text for field, text in _notes(tree).items() if field != DROPOUT}}


def _notes(tree: Mapping[Any, Any]) -> dict[str, str]:
    notes = tree.get(NOTES)
    return {key: text for key, text in notes.items() if isinstance(text, str)} if isinstance(notes, dict) else {}
