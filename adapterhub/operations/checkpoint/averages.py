"""The moving averages of a training (`model_ema.…`) instead of the weights that it ended with.

CompVis `ldm/modules/ema.py` names them like the weights, without dots; d8ahazard's DreamBooth extension also without
`diffusion_model`.
"""

from __future__ import annotations

from collections.abc import Iterator

from adapterhub.adapter import Adapter
from adapterhub.errors import NotAnAdapter
from adapterhub.layouts.checkpoint.aside import aside
from adapterhub.layouts.checkpoint.places import rows, take_apart
from adapterhub.operations.ledger import Ledger
from adapterhub.operations.work import AVERAGED

_EMA, _MODEL, _UNET = "model_ema.", "model.", "model.diffusion_model."


def instead(adapter: Adapter, ledger: Ledger) -> Adapter:
    """The model with its averaged weights. NotAnAdapter where it has none."""
    stored = {place: found for place in rows(adapter.architecture) if place.startswith(_UNET)
              for found in _spellings(place) if aside(found) in adapter.tensors}  # fmt: skip
    if not stored:
        raise NotAnAdapter("the model has no moving averages", mend="Leave out --ema.")
    averaged = take_apart({place: adapter.tensors[aside(name)] for place, name in stored.items()}, adapter.architecture)
    spent = {aside(name) for name in stored.values()}
    tensors = {held: tensor for held, tensor in adapter.tensors.items() if held not in spent}
    for held, place in averaged.places.items():  # a UNet has one tensor of ours in each of its places
        ledger.replace([held], [], "drop", AVERAGED)
        ledger.replace([aside(stored[place])], [held], "rename", "the moving average of the weight")
    return adapter.with_tensors({**tensors, **averaged.tensors})


def _spellings(place: str) -> Iterator[str]:
    for start in (_MODEL, _UNET):
        yield _EMA + place.removeprefix(start).replace(".", "")
