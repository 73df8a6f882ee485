"""A hypernetwork at work in a UNet of diffusers.

Forward pre-hooks on `to_k` and `to_v` change what these are given: keys and values go through different nets, and a
processor, which is given one context for both, could only be replaced by a copy of it. So every processor that calls the
projections is served (default, SDPA, xformers, sliced, IP-Adapter), and nothing of the UNet is exchanged. Projections fused
into one matrix, or replaced after attaching, would pass the hooks by: then the attention raises an error.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from adapterhub.adapter import Adapter, Kind
from adapterhub.errors import UsageError
from adapterhub.layouts.hypernetwork.structure import Net, nets, structure_of
from adapterhub.operations.hypernetwork.network import Network
from adapterhub.operations.source import open_adapter

_HALVES = {"k": "to_k", "v": "to_v"}
_AGAIN = "Call unfuse_qkv_projections(); load LoRAs before a hypernetwork is attached, or detach() it meanwhile."


@dataclass(eq=False)
class Attachment:
    """A hypernetwork that is attached, until `detach` or the end of a `with`. `strength` may be changed at any time.

    `attentions` counts those that it works on by the width of their contexts; `unmatched` are its widths that none has.
    """

    strength: float
    attentions: Mapping[int, int] = field(default_factory=dict)
    unmatched: tuple[int, ...] = ()
    _handles: list[RemovableHandle] = field(default_factory=list, repr=False)

    def detach(self) -> None:
        """Leaves the UNet as it was; other hypernetworks that are attached stay."""
        while self._handles:
            self._handles.pop().remove()

    def __enter__(self) -> Attachment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()


def attach(pipeline_or_unet: Any, file: Path | str, strength: float = 1.0) -> Attachment:
    """Applies the hypernetwork in `file` wherever the UNet has contexts of its widths, by A1111's formula.

    Computed in float32 (float64 if the UNet is), on the device of the context, and given on in the context's dtype. Several
    are chained in the order in which they were attached. Widths that nothing has are warned of; UsageError where none fits and,
    when it runs, where projections are fused.
    """
    unet = getattr(pipeline_or_unet, "unet", pipeline_or_unet)
    with open_adapter(Path(file), kinds=(Kind.HYPERNETWORK,)) as source:
        networks = _networks(source.adapter, unet)
    places = [place for place in attentions(unet) if Net(place.to_k.in_features, "k") in networks]
    found = Counter(place.to_k.in_features for place in places)
    unmatched = tuple(dict.fromkeys(net.width for net in networks if net.width not in found))
    if not found:
        raise UsageError(f"{file}: no attention of this UNet has contexts of {_listed(unmatched)}",
                         mend="Use it with the model that it was made for.")  # fmt: skip
    if unmatched:
        warnings.warn(f"{file}: no attention of this UNet has contexts of {_listed(unmatched)}", stacklevel=2)
    attachment = Attachment(strength, dict(found), unmatched)
    for place in places:
        attachment._handles.extend(_hooked(place, networks, attachment))
    return attachment


def _networks(adapter: Adapter, unet: nn.Module) -> dict[Net, Network]:
    wide = any(parameter.dtype == torch.float64 for parameter in unet.parameters())
    dtype = torch.float64 if wide else torch.float32
    return {net: Network(adapter, net, dtype) for net in nets(structure_of(adapter))}


def attentions(unet: nn.Module) -> Iterator[Any]:
    """Every attention that has projections of its own for keys and values."""
    for module in unet.modules():
        if all(isinstance(getattr(module, name, None), nn.Module) for name in _HALVES.values()):
            yield module


def _hooked(place: Any, networks: Mapping[Net, Network], attachment: Attachment) -> Iterator[RemovableHandle]:
    watch = _Watch({half: getattr(place, name) for half, name in _HALVES.items()})
    yield place.register_forward_pre_hook(watch.before)
    yield place.register_forward_hook(watch.after)
    for half, projection in watch.projections.items():
        network = networks[Net(place.to_k.in_features, half)]
        yield projection.register_forward_pre_hook(
            partial(_changed, network, attachment, partial(watch.called.add, half))
        )


def _changed(
    network: Network, attachment: Attachment, call: Callable[[], None], module: nn.Module, arguments: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    call()
    context, *others = arguments
    return (network(context, attachment.strength), *others)


class _Watch:
    """Sees to it that an attention uses the `projections` that were hooked, and is wrong rather than silent."""

    def __init__(self, projections: Mapping[str, nn.Module]) -> None:
        self.projections = projections
        self.called: set[str] = set()

    def before(self, attention: nn.Module, arguments: Any) -> None:
        self.called.clear()
        if any(getattr(attention, _HALVES[half]) is not own for half, own in self.projections.items()):
            raise UsageError("projections were replaced while a hypernetwork was attached", mend=_AGAIN)

    def after(self, attention: nn.Module, arguments: Any, output: Any) -> None:
        if self.called != self.projections.keys():
            raise UsageError("an attention went past its projections, as fused ones do: the hypernetwork had no effect",
                             mend=_AGAIN)  # fmt: skip


def _listed(widths: tuple[int, ...]) -> str:
    return ", ".join(map(str, widths))
