"""Into which modules of a model an adapter goes: by names and shapes, as `merge` would find them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from adapterhub.adapter import Adapter, Key, Kind, Role
from adapterhub.documents import Problem
from adapterhub.documents.compatibility import Misfit, ModelFit
from adapterhub.layouts.checkpoint.aside import ASIDE
from adapterhub.layouts.checkpoint.scoring import VARIANTS
from adapterhub.layouts.hypernetwork.structure import UNET, nets, structure_of
from adapterhub.operations.checkpoint.prediction import VELOCITY, variants
from adapterhub.operations.merge.plan import misfits
from adapterhub.operations.problems import warning
from adapterhub.operations.source import Source

_TOKENS = "text_model.embeddings.token_embedding"
_ABSENT = "absent"


def fit_to(adapter: Source, model: Source, path: Path) -> ModelFit:
    """Whether the modules of `adapter` are in `model`, which is at `path`, and in which they do not fit."""
    base = model.adapter
    found = dict(_KINDS[adapter.reading.kind](adapter.adapter, base))
    told, _ = variants(base, path)
    has = {key.component for key in base.tensors} - {ASIDE}
    wants = {name.partition(".")[0] for name in found}
    return ModelFit(
        path=str(path), architecture=base.architecture, variants=told,
        same_architecture=_is_for(adapter, base.architecture),
        present=sum(why is None for why in found.values()), modules=len(found),
        absent=[name for name, why in found.items() if why == _ABSENT],
        misfits=[Misfit(module=name, reason=why) for name, why in found.items() if why not in (None, _ABSENT)],
        lacking=sorted(wants - has), problems=list(_differences(adapter, told)),
    )  # fmt: skip


def _is_for(adapter: Source, architecture: str) -> bool:
    """One that no model is known for may be for any."""
    return architecture in (adapter.identity.architecture or architecture, *adapter.identity.also)


Found = Iterator[tuple[str, str | None]]
"""Each module, and why it does not go into the model."""


def _lora(adapter: Adapter, base: Adapter) -> Found:
    for module, roles in adapter.modules().items():
        if Role.VECTORS in roles or Role.OUTPUT_VECTORS in roles:
            continue  # it is called by its token, and changes no weight
        there = Key(*module, Role.LAYER_WEIGHT) in base.tensors
        yield ".".join(module), next(iter(misfits(base, module, roles)), None) if there else _ABSENT


def _embedding(adapter: Adapter, base: Adapter) -> Found:
    for key, tensor in adapter.tensors.items():
        table = base.tensors.get(Key(key.component, _TOKENS, Role.LAYER_WEIGHT))
        name, width = f"{key.component}.{key.module}", tensor.shape[-1]
        if table is None:
            yield name, _ABSENT
        else:
            yield name, None if table.shape[-1] == width else f"is {width} wide, and the tokens are {table.shape[-1]}"


def _hypernetwork(adapter: Adapter, base: Adapter) -> Found:
    widths = {tensor.shape[1] for key, tensor in base.tensors.items()
              if key.component == UNET and key.role is Role.LAYER_WEIGHT and key.module.endswith(".to_k")}  # fmt: skip
    for net in nets(structure_of(adapter)):
        yield f"{UNET}.{net.width}.{net.half}", None if net.width in widths else _ABSENT


_KINDS: Mapping[Kind, Callable[[Adapter, Adapter], Found]] = {
    Kind.LORA: _lora,
    Kind.EMBEDDING: _embedding,
    Kind.HYPERNETWORK: _hypernetwork,
}


def _differences(adapter: Source, told: list[str]) -> Iterator[Problem]:
    """Flavours that differ: it loads, and may not do what it was made for."""
    said = adapter.reading.metadata.get("modelspec.prediction_type")
    fit = adapter.identity.fit
    if said and said.startswith("v") != (VELOCITY in told):
        yield warning("prediction-differs", "modelspec.prediction_type",
                      f"was trained to predict {'velocity' if said.startswith('v') else 'noise'}, and the model predicts the other",
                      "It loads; results may be wrong.")  # fmt: skip
    if fit is not None and (fit.variant or _ORDINARY) != _input_of(told):
        yield warning("input-differs", "unet.conv_in",
                      f"was trained on a model of {fit.variant or _ORDINARY} input, and this one is of {_input_of(told)}",
                      "It loads; results may be weaker.")  # fmt: skip


_ORDINARY = "ordinary"
_INPUTS = frozenset(VARIANTS.values())


def _input_of(told: list[str]) -> str:
    return next((name for name in told if name in _INPUTS), _ORDINARY)
