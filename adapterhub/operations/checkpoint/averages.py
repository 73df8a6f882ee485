"""The moving averages of a training (`model_ema.…`) instead of the weights that it ended with.

CompVis `ldm/modules/ema.py` names them like the weights, without dots; d8ahazard's DreamBooth extension also without
`diffusion_model`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from adapterhub.adapter import Adapter
from adapterhub.errors import BrokenAdapter, NotAnAdapter
from adapterhub.layouts.checkpoint.aside import aside
from adapterhub.layouts.checkpoint.places import Placed, rows, take_apart
from adapterhub.operations.ledger import Ledger
from adapterhub.operations.work import AVERAGED

_EMA, _MODEL, _UNET = "model_ema.", "model.", "model.diffusion_model."
_SHOWN = 3
_MEND = "Leave out --ema, or get the file again."


def instead(adapter: Adapter, ledger: Ledger) -> Adapter:
    """The model with its averaged weights. NotAnAdapter where it has none, BrokenAdapter where they are not one whole UNet."""
    stored = _stored(adapter)
    averaged = take_apart({place: adapter.tensors[aside(name)] for place, name in stored.items()}, adapter.architecture)
    _require_shapes(adapter, averaged, stored)
    spent = {aside(name) for name in stored.values()}
    tensors = {held: tensor for held, tensor in adapter.tensors.items() if held not in spent}
    for held, place in averaged.places.items():  # a UNet has one tensor of ours in each of its places
        ledger.replace([held], [], "drop", AVERAGED)
        ledger.replace([aside(stored[place])], [held], "rename", "the moving average of the weight")
    return adapter.with_tensors({**tensors, **averaged.tensors})


def _stored(adapter: Adapter) -> Mapping[str, str]:
    """The name of the average for every place of the UNet."""
    places = [place for place in rows(adapter.architecture) if place.startswith(_UNET)]
    spelled = [{place: _EMA + place.removeprefix(start).replace(".", "") for place in places} for start in (_MODEL, _UNET)]  # fmt: skip
    found = [there for names in spelled
             if (there := {place: name for place, name in names.items() if aside(name) in adapter.tensors})]  # fmt: skip
    if not found:
        raise NotAnAdapter("the model has no moving averages", mend="Leave out --ema.")
    if len(found) > 1:
        told = " and ".join(f"{len(names)} as {next(iter(names.values()))}" for names in found)
        raise BrokenAdapter(f"the model has moving averages in two spellings: {told}", mend=_MEND)
    (stored,) = found
    _require_none("have no moving average", (place for place in places if place not in stored), len(places))
    return stored


def _require_shapes(adapter: Adapter, averaged: Placed, stored: Mapping[str, str]) -> None:
    """Raises BrokenAdapter unless each average has the shape of its weight, as far as that is there."""
    fits = {place for held, place in averaged.places.items()
            if held not in adapter.tensors or averaged.tensors[held].shape == adapter.tensors[held].shape}  # fmt: skip
    _require_none("have a moving average of another shape", (p for p in stored if p not in fits), len(stored))


def _require_none(what: str, places: Iterable[str], count: int) -> None:
    if bad := list(places):
        more = ", …" if len(bad) > _SHOWN else ""
        raise BrokenAdapter(f"{len(bad)} of {count} weights of the UNet {what}: {', '.join(bad[:_SHOWN])}{more}", bad,
                            mend=_MEND)  # fmt: skip
