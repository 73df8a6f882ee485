"""What the numbers of a hypernetwork say, what ComfyUI reads otherwise, and whether the optimizer's file belongs to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from adapterhub import files
from adapterhub.adapter import Adapter, Key, Role
from adapterhub.documents import HypernetworkStructure, Problem
from adapterhub.errors import MalformedFile
from adapterhub.files import Package
from adapterhub.layouts.base import Reading
from adapterhub.layouts.hypernetwork.layout import Content, HypernetworkLayout
from adapterhub.layouts.hypernetwork.structure import LINEAR, nets, structure_of
from adapterhub.layouts.identity import Identity
from adapterhub.operations.problems import error, warning
from adapterhub.tensors import FLOATS, LazyTensor, values

FAR = 100
"""How many times longer a layer may make a random context. Trained ones stay below 2."""
OPTIMIZER = ".optim"
_COMFYUI = frozenset("linear relu leakyrelu elu swish tanh sigmoid softsign mish".split())
"""The activations that ComfyUI knows (`comfy_extras/nodes_hypernetwork.py`)."""
_TOUCHES_ZERO = frozenset("sigmoid hardsigmoid logsigmoid softplus softmin softmax softmax2d logsoftmax".split())
"""Activations that make something of nothing."""


def value_faults(package: Package, identity: Identity, reading: Reading) -> Iterator[Problem]:
    """Tensor by tensor; then what else the whole file tells."""
    silent: set[Key] = set()
    for key, tensor in reading.adapter.tensors.items():
        if tensor.dtype in FLOATS:
            yield from _tensor(key, tensor, silent)
    yield from _idle(reading.adapter, silent)
    layout = identity.layout
    if isinstance(layout, HypernetworkLayout) and layout.name in ("a1111", "nai"):
        yield from _comfyui(layout.content(package), structure_of(reading.adapter))
        yield from _optimizer(package)


def _tensor(key: Key, tensor: LazyTensor, silent: set[Key]) -> Iterator[Problem]:
    import numpy as np

    numbers = values(tensor)
    finite = np.isfinite(numbers)
    place = key.module
    if not finite.all():
        yield error("not-finite", place, f"{int((~finite).sum())} of {numbers.size} numbers are NaN or infinite",
                    "The training diverged: get an earlier file.")  # fmt: skip
        return
    wide = numbers.astype("f8")
    if not wide.any():
        silent.add(key)
    gain = float(np.sqrt(np.square(wide).sum() / max(len(wide), 1)))
    if ".linear." in place and key.role is Role.LAYER_WEIGHT and gain > FAR:
        yield warning("exploded-norm", place, f"makes a random context about {gain:.3g} times longer",
                      "The training diverged: get an earlier file, or adapterhub hypernetwork scale.")  # fmt: skip


def _idle(adapter: Adapter, silent: set[Key]) -> Iterator[Problem]:
    """Nets whose last layer is zero, and nothing behind it."""
    structure = structure_of(adapter)
    if structure.layer_norm or structure.skip_connection:
        return
    if structure.activate_output and structure.activation in _TOUCHES_ZERO:
        return
    last = len(structure.layer_structure) - 2
    for net in nets(structure):
        if {net.key("linear", last, role) for role in (Role.LAYER_WEIGHT, Role.LAYER_BIAS)} <= silent:
            yield warning("zero-net", f"{net.width}.{net.half}", "its last layer is zero: it changes nothing")


def _comfyui(content: Content, structure: HypernetworkStructure) -> Iterator[Problem]:
    """Source: ComfyUI `comfy_extras/nodes_hypernetwork.py` (`load_hypernetwork_patch`)."""
    found = []
    if structure.activation not in _COMFYUI:
        found.append(("activation_func", f"does not know {structure.activation} and loads nothing"))
    if structure.activation != LINEAR and "activate_output" in content.missing:
        found.append(("activate_output", "takes False where it is missing, and A1111 True"))
    if structure.activation != LINEAR and structure.layer_norm and not structure.activate_output:
        found.append(("is_layer_norm", "activates the last layer too if there are layer norms"))
    if structure.dropout and structure.dropout != list(content.noted):
        found.append(("use_dropout", "leaves dropout switched on: no two pictures are the same"))
    if structure.skip_connection:
        found.append(("skip_connection", "does not know it, nor does A1111 without its extension"))
    for field, why in found:
        yield warning("comfyui-differs", field, f"ComfyUI {why}", "adapterhub convert --to a1111 mends what can be.")


def _optimizer(package: Package) -> Iterator[Problem]:
    """Whether `x.pt.optim`, from which A1111 continues the training of `x.pt`, was saved with it.

    It holds A1111's short hash: 10 digits of the SHA-256, before 2023 the 8 of its first hash.
    """
    beside = Path(f"{package.path}{OPTIMIZER}")
    if package.path is None or not beside.is_file():
        return
    try:
        with files.read(beside) as optimizer:
            tree = optimizer.only.tree
    except MalformedFile as fault:
        yield warning("optimizer-unreadable", beside.name, fault.message)
        return
    told = tree.get("hash") if isinstance(tree, dict) else None
    digests = files.every_digest(package.path)
    if told not in (digests["autov1"], str(digests["sha256"])[:10]):
        yield warning("optimizer-differs", beside.name, f"is of a file whose hash is {told}: A1111 begins anew",
                      "Remove it, or get the file that it was saved with.")  # fmt: skip
