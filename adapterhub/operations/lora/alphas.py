"""alpha where layouts disagree: completed where it is a tensor, remembered where it is not, so that a way back is exact.

A layout that keeps alpha elsewhere loses its dtype, its shape and whether it was there at all. What differs from Kohya's
own habit (0-d, in the factors' dtype, always there) is noted in one metadata field and put back by `complete`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping

from adapterhub.adapter import Adapter, Key, Role, Roles
from adapterhub.algorithms import rank_of, scale_of
from adapterhub.errors import RefusedInput
from adapterhub.layouts.lora.peft_config import alpha_scalar, factor_of
from adapterhub.operations.casting import as_dtype
from adapterhub.tensors import FLOATS, LazyTensor, holds, item, scalar

FIELD = "adapterhub.alphas"
_ABSENT = "absent"
_SCALES = (Role.ALPHA, Role.SCALE, Role.SCALAR)
_NOTE = re.compile(r"(?P<dtype>[A-Z]+\d+)(?P<shape>\[(1(, ?1)*)?\])(=(?P<value>[-+.\de]+))?")


def remember(adapter: Adapter, *, folded: bool) -> str | None:
    """The note of every module whose alpha is not as Kohya would store it; None where there is nothing to note.

    With `folded`, modules whose scale is not 1 are left out: their values change, and no note can bring them back.
    """
    notes = {}
    for (component, module), tensors in adapter.modules().items():
        if Role.VECTORS not in tensors and not (folded and scale_of(tensors) != 1):
            notes[f"{component}.{module}"] = _note(tensors)
    if not any(notes.values()):
        return None
    first = next(iter(notes.values()))
    same = all(note == first for note in notes.values())
    return json.dumps({"*": first} if same else {name: note for name, note in notes.items() if note})


def complete(adapter: Adapter) -> Adapter:
    """Every module that alpha scales gets one: the note's, else what stands in the adapter, else the rank."""
    notes = _notes(adapter.metadata)
    tensors: dict[Key, LazyTensor] = {}
    for (component, module), roles in adapter.modules().items():
        alpha = _alpha(roles, notes.get(f"{component}.{module}") or notes.get("*"))
        tensors |= {Key(component, module, role): tensor for role, tensor in roles.items() if role is not Role.ALPHA}
        if alpha is not None:
            tensors[Key(component, module, Role.ALPHA)] = alpha
    metadata = {name: text for name, text in adapter.metadata.items() if name != FIELD}
    return Adapter(adapter.kind, adapter.architecture, tensors, metadata)


def _note(roles: Roles) -> str | None:
    alpha, rank = roles.get(Role.ALPHA), rank_of(roles)
    if alpha is None:
        return _ABSENT if rank is not None else None
    value = item(alpha)
    usual = alpha_scalar(value, factor_of(roles))
    if rank is not None and (usual.dtype, usual.shape) == (alpha.dtype, alpha.shape):
        return None
    return f"{alpha.dtype}{list(alpha.shape)}" + ("" if rank is not None else f"={value!r}")


def _alpha(roles: Roles, note: str | None) -> LazyTensor | None:
    rank, stored = rank_of(roles), roles.get(Role.ALPHA)
    if note == _ABSENT and scale_of(roles) == 1:
        return None
    told = _NOTE.fullmatch(note) if note else None
    value = float(told["value"]) if told and told["value"] else None
    if rank is not None:
        value = item(stored) if stored is not None else float(rank)
    if told is None or value is None or not holds(told["dtype"], value):  # no note, or not one of ours
        return alpha_scalar(float(rank), factor_of(roles)) if stored is None and rank is not None else stored
    return scalar(value, told["dtype"]).reshape(*json.loads(told["shape"]))


def _notes(metadata: Mapping[str, str]) -> dict[str, str]:
    try:
        notes = json.loads(metadata.get(FIELD, "{}"))
    except (ValueError, RecursionError):
        return {}
    return {name: note for name, note in notes.items() if isinstance(note, str)} if isinstance(notes, dict) else {}


def ensure_held(adapter: Adapter, dtype: str) -> None:
    """RefusedInput for an alpha, or a scale in its place, that would be infinite in `dtype`, or zero, which it was not."""
    for key, tensor in adapter.tensors.items():
        if key.role in _SCALES and tensor.dtype in FLOATS and _leaves(tensor, dtype):
            raise RefusedInput(f"{'.'.join(key)} is {item(tensor):g}, which {dtype} does not hold",
                               mend="Give --dtype fp32 or bf16, which do.")  # fmt: skip


def _leaves(tensor: LazyTensor, dtype: str) -> bool:
    """Whether a number leaves the range of `dtype`."""
    before, after = item(tensor), item(as_dtype(tensor, dtype))
    return math.isfinite(before) and (not math.isfinite(after) or (after == 0 != before))
