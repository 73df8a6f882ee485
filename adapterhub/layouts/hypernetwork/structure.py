"""What a net is made of: its stages in the order in which A1111 builds them, where each stands, and what tensors it has.

Sources: A1111 `modules/hypernetworks/hypernetwork.py` (`HypernetworkModule.__init__`, `parse_dropout_structure`); of nets with
skip connections, aria1th/Hypernetwork-MonkeyPatch-Extension `patches/hypernetwork.py` (`ResBlock`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from adapterhub.adapter import Adapter, Key, Role
from adapterhub.documents import HypernetworkStructure
from adapterhub.errors import BrokenAdapter
from adapterhub.tensors import Shape

STRUCTURE = "adapterhub.hypernetwork"
"""The metadata field that holds the structure as JSON."""
UNET = "unet"
LINEAR = "linear"
OLD_DROPOUT = 0.3
"""A1111's probability before files stored one."""
_OF_TORCH = (
    "threshold relu rrelu hardtanh relu6 sigmoid hardsigmoid tanh silu mish hardswish elu celu selu glu gelu hardshrink "
    "leakyrelu logsigmoid softplus softshrink multiheadattention prelu softsign tanhshrink softmin softmax softmax2d logsoftmax"
).split()
UNUSABLE = frozenset({"glu", "threshold", "multiheadattention"})
"""Activations that A1111's table has and that no net can be built with."""
ACTIVATIONS = frozenset({LINEAR, "swish", *_OF_TORCH}) - UNUSABLE
"""A1111's names: the classes of torch.nn.modules.activation in lower case; `swish` is Hardswish."""
MIXING = frozenset({"softmin", "softmax", "softmax2d", "logsoftmax"})
"""Activations that look at more than one number."""
HOMOGENEOUS = frozenset({"relu", "rrelu", "leakyrelu", "prelu"})
"""Activations with act(c·z) = c·act(z) for every c ≥ 0."""


class Stage(NamedTuple):
    """One module of a net: the `number`-th `part`, called `name` in a state_dict."""

    part: str
    number: int
    name: str


class Net(NamedTuple):
    """Half of what happens to contexts of one width: `half` is "k" or "v"."""

    width: int
    half: str

    def key(self, part: str, number: int, role: Role) -> Key:
        """The key of one of its tensors."""
        return Key(UNET, f"{self.width}.{self.half}.{part}.{number}", role)


def nets(structure: HypernetworkStructure) -> list[Net]:
    """All nets, by width."""
    return [Net(width, half) for width in structure.widths for half in ("k", "v")]


def net_of(key: Key) -> Net:
    """The net that a key belongs to."""
    width, half, _, _ = key.module.split(".")
    return Net(int(width), half)


def stages(structure: HypernetworkStructure) -> list[Stage]:
    """The modules of every net in the order of computation; those without tensors take their index all the same."""
    layers = range(len(structure.layer_structure) - 1)
    if structure.skip_connection:
        return [stage for layer in layers for stage in _block(structure, layer)]
    parts = [(part, layer) for layer in layers for part in _layer(structure, layer)]
    return _numbered((part, f"linear.{index}") for index, (part, _) in enumerate(parts))


def _layer(structure: HypernetworkStructure, layer: int) -> Iterator[str]:
    last = layer == len(structure.layer_structure) - 2
    yield "linear"
    if structure.activation != LINEAR and (structure.activate_output or not last):
        yield "activation"
    if structure.layer_norm:
        yield "norm"
    if structure.dropout and structure.dropout[layer + 1]:
        yield "dropout"


def _block(structure: HypernetworkStructure, layer: int) -> Iterator[Stage]:
    """HN-ext's order; every layer is activated, the last too."""
    if structure.upsample_linear:
        yield Stage("upsample", layer, f"linear.{layer}.upsample_layer")
    parts = ["linear"]
    parts += ["norm"] * structure.layer_norm
    parts += ["dropout"] * bool(structure.dropout and structure.dropout[layer + 1])
    parts += ["activation"] * (structure.activation != LINEAR)
    for index, part in enumerate(parts):
        yield Stage(part, layer, f"linear.{layer}.linear.{index}")


def _numbered(parts: Iterator[tuple[str, str]]) -> list[Stage]:
    counts: dict[str, int] = {}
    made = []
    for part, name in parts:
        made.append(Stage(part, counts.get(part, 0), name))
        counts[part] = counts.get(part, 0) + 1
    return made


def is_linear(structure: HypernetworkStructure) -> bool:
    """Whether f is a matrix and a bias."""
    return not any(stage.part in ("activation", "norm") for stage in stages(structure))


def sizes(structure: HypernetworkStructure, width: int) -> list[int]:
    """How wide the input and each layer of a net are; A1111 cuts fractions off."""
    return [int(width * multiple) for multiple in structure.layer_structure]


def expected(structure: HypernetworkStructure, net: Net) -> dict[Key, tuple[str, Shape]]:
    """Every tensor that a net must have: what it is called in a state_dict, and its shape."""
    made: dict[Key, tuple[str, Shape]] = {}
    wide = sizes(structure, net.width)
    layer = -1
    for part, number, name in stages(structure):
        layer += part == ("upsample" if structure.upsample_linear else "linear")
        for role, shape in _shapes(part, structure.activation, wide[layer], wide[layer + 1]).items():
            made[net.key(part, number, role)] = (f"{name}.{SUFFIXES[role]}", shape)
    return made


def _shapes(part: str, activation: str, before: int, after: int) -> dict[Role, Shape]:
    weight, bias = Role.LAYER_WEIGHT, Role.LAYER_BIAS
    if part == "linear":
        return {weight: (after, before), bias: (after,)}
    if part == "norm":
        return {weight: (after,), bias: (after,)}
    if part == "upsample":
        return {weight: (after, before)}
    return {weight: (1,)} if (part, activation) == ("activation", "prelu") else {}


SUFFIXES: Mapping[Role, str] = {Role.LAYER_WEIGHT: "weight", Role.LAYER_BIAS: "bias"}
ROLES: Mapping[str, Role] = {suffix: role for role, suffix in SUFFIXES.items()}


def multiple(size: int, width: int) -> int | float:
    """The number whose product with `width`, fraction cut off, is `size`."""
    if size % width == 0:
        return size // width
    near = size / width
    return near if int(width * near) == size else math.nextafter(near, math.inf)


def structure_of(adapter: Adapter) -> HypernetworkStructure:
    """The structure of a hypernetwork."""
    return HypernetworkStructure.model_validate_json(adapter.metadata[STRUCTURE])


def with_structure(metadata: Mapping[str, str], structure: HypernetworkStructure) -> dict[str, str]:
    """The metadata of an adapter of this structure."""
    return {**metadata, STRUCTURE: structure.model_dump_json(exclude_defaults=True)}


def checked(fields: Mapping[str, Any], widths: Iterable[int]) -> HypernetworkStructure:
    """The structure that a file tells. BrokenAdapter where a field cannot be."""
    try:
        return HypernetworkStructure.of({"layer_structure": [1, 1], **fields, "widths": sorted(widths)})
    except ValueError as invalid:
        place, _, why = str(invalid).partition(": ")
        raise BrokenAdapter(
            f"no hypernetwork has such a {place}: {why}", (place,), mend="Get the file again, or mend this field."
        ) from None
