"""What the tensors of a hypernetwork tell of its structure, which counts more than what its fields say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from adapterhub.adapter import Key, Role
from adapterhub.documents import HypernetworkStructure
from adapterhub.layouts.hypernetwork.structure import LINEAR, OLD_DROPOUT, Net, multiple, net_of, sizes, stages
from adapterhub.tensors import LazyTensor


def corrected(
    told: HypernetworkStructure, tensors: Mapping[Key, LazyTensor], names: Mapping[Key, str] | None = None
) -> HypernetworkStructure:
    """The structure that fits `tensors`, with what they do not tell as it was `told`.

    `names` are what a state_dict calls them: gaps between their indices are modules without tensors.
    """
    parts = {key.module.split(".")[2] for key in tensors}
    layers = _layer_structure(told, tensors)
    structure = told.model_copy(
        update={
            "layer_structure": layers,
            "layer_norm": "norm" in parts,
            "upsample_linear": "upsample" in parts,
            "skip_connection": told.skip_connection or "upsample" in parts,
            **({"activation": "prelu"} if "activation" in parts else {}),
            **({"dropout": None} if told.dropout and len(told.dropout) != len(layers) else {}),
        }
    )
    return _fitting(structure, names) if names and not structure.skip_connection else structure


def _outputs(net: Net, tensors: Mapping[Key, LazyTensor]) -> list[int]:
    """How wide each linear layer's output is."""
    found: list[int] = []
    while (tensor := tensors.get(net.key("linear", len(found), Role.LAYER_WEIGHT))) and len(tensor.shape) == 2:
        found.append(tensor.shape[0])
    return found


def _layer_structure(told: HypernetworkStructure, tensors: Mapping[Key, LazyTensor]) -> list[int | float]:
    """As told if any net is like that, else what the first shows. The input and the output are as wide as the context."""
    nets = dict.fromkeys(map(net_of, tensors))
    measured = [(net.width, outputs) for net in nets if (outputs := _outputs(net, tensors))]
    ends = told.layer_structure[0], told.layer_structure[-1]
    if not measured or (ends == (1, 1) and any(sizes(told, width)[1:] == outputs for width, outputs in measured)):
        return told.layer_structure
    width, outputs = measured[0]
    return [1, *(multiple(max(size, 1), width) for size in outputs[:-1]), 1]


def _fitting(structure: HypernetworkStructure, names: Mapping[Key, str]) -> HypernetworkStructure:
    """The first variant whose modules with tensors stand where the tensors do; `structure` itself if none does."""
    first = next(iter(map(net_of, names)))
    there = {name.rpartition(".")[0] for key, name in names.items() if net_of(key) == first}
    variants = (structure, *_variants(structure))
    return next((variant for variant in variants if _places(variant) == there), structure)


def _variants(structure: HypernetworkStructure) -> Iterator[HypernetworkStructure]:
    """Without dropout, with that of 2022 behind every hidden layer, and each without the activation."""
    hidden = len(structure.layer_structure) - 2
    for activation in dict.fromkeys((structure.activation, LINEAR)):
        for dropout in (structure.dropout, None, [0.0, *[OLD_DROPOUT] * hidden, 0.0]):
            yield structure.model_copy(update={"activation": activation, "dropout": dropout})


def _places(structure: HypernetworkStructure) -> set[str]:
    """The names of the modules that have tensors."""
    own = {"linear", "norm", "upsample", *(["activation"] if structure.activation == "prelu" else [])}
    return {stage.name for stage in stages(structure) if stage.part in own}
