"""`inspect --spectrum`: how strong every change is and over how many directions it spreads, one module at a time."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

from adapterhub.adapter import Adapter, Module, Role, Roles
from adapterhub.algorithms import algorithm_of, label, rank_of
from adapterhub.documents.inspection import Audit, EnergyShare, ModuleSpectrum, Unmeasured
from adapterhub.errors import BrokenAdapter, MalformedFile, RefusedInput
from adapterhub.operations.base import Base
from adapterhub.operations.lora import deltas
from adapterhub.operations.lora.deltas.base import Additive, Delta
from adapterhub.operations.lora.deltas.lokr import LoKr
from adapterhub.operations.lora.module_faults import module_faults
from adapterhub.operations.merge.blocks import block_of as unet_block

FAR = 5.0
"""How many times the median a change may be before it is called over-scaled."""
_HELD = 0.99
"""The share of ‖ΔW‖² that `rank_99` holds."""
_IMPOSSIBLE = frozenset({"alpha-shape", "impossible-shape"})
_LIST = re.compile(r".*\.(?:transformer_blocks|attentions|resnets|layers|downsamplers|upsamplers)\.\d+\.")
_LAYER = re.compile(r"text_model\.encoder\.layers\.(\d+)\.")
_HEAD = re.compile(r"(?:(?:encoder|decoder|text_model)\.)?\w+(?:\.\d+)?")


class Change(NamedTuple):
    """A `core` with the singular values of ΔW, a matrix or the values themselves; ΔW has `elements` numbers."""

    core: Tensor
    elements: int

    @property
    def norm(self) -> float:
        """‖ΔW‖_F."""
        return float(torch.linalg.vector_norm(self.core))

    def sizes(self) -> Tensor:
        """The singular values, the largest first."""
        if not self.core.numel():  # of rank 0
            return self.core.new_zeros(1)
        if self.core.ndim == 1:
            return self.core
        sizes: Tensor = torch.linalg.svdvals(self.core)
        return sizes


@dataclass(frozen=True)
class Strength:
    """What one module does at strength 1; `weight` is ‖W‖_F, None without a base."""

    module: Module
    tensors: Roles
    change: Change
    weight: float | None
    dead: bool

    @property
    def relative(self) -> float | None:
        """‖ΔW‖ / ‖W‖."""
        return self.change.norm / self.weight if self.weight else None

    @property
    def level(self) -> float:
        """What modules are compared by: `relative` or, without a base, the root mean square of ΔW."""
        return self.relative if self.relative is not None else self.change.norm / math.sqrt(self.change.elements)


def strengths(adapter: Adapter, base: Base, told: Callable[[Unmeasured], None]) -> Iterator[Strength]:
    """What every module does, in order; those that cannot be measured are `told` with the reason."""
    for module, tensors in adapter.modules().items():
        if Role.VECTORS in tensors or Role.OUTPUT_VECTORS in tensors:
            continue  # an embedding that travels along changes no weight
        try:
            _require_possible(module, tensors)
            yield _strength(module, tensors, base)
        except MalformedFile:
            raise  # it cannot be read, whatever is asked
        except RefusedInput as fault:
            told(Unmeasured(component=module.component, module=module.module, reason=fault.message))


def _require_possible(module: Module, tensors: Roles) -> None:
    """BrokenAdapter for a tensor of a shape that no formula takes: `inspect` shows such files, and other commands refuse them."""
    for fault in module_faults(module, tensors):
        if fault.code in _IMPOSSIBLE:
            raise BrokenAdapter(fault.message)


def _strength(module: Module, tensors: Roles, base: Base) -> Strength:
    found = deltas.delta(tensors)
    weight = base.value(module)
    change = _change(found, tensors, weight)
    if not change.elements:
        raise BrokenAdapter("it changes no weight, only a bias")
    if not change.core.isfinite().all():
        raise BrokenAdapter("values are not finite")
    if weight is not None and weight.numel() != change.elements:
        raise BrokenAdapter(f"it does not fit the base's weight, {list(weight.shape)}")
    size = None if weight is None else float(torch.linalg.vector_norm(weight))
    return Strength(module, tensors, change, size, not change.norm and not _moves_bias(found, base, module))


def _change(found: Delta, tensors: Roles, weight: Tensor | None) -> Change:
    if isinstance(found, LoKr):
        svd = found.svd()
        return Change(svd.sizes, len(svd.up) * svd.down.shape[1])
    pair = found.pair() if isinstance(found, Additive) else None
    if pair is None or not isinstance(found, Additive):
        whole = deltas.change(tensors, weight)
        return Change(whole.flatten(1) if whole.ndim > 1 else whole.reshape(-1, 1), whole.numel() if whole.ndim else 0)
    with found.fitting():  # the orthogonal halves of both QRs change no singular value
        upper, lower = (torch.linalg.qr(side, mode="r").R for side in (found.scale * pair.up, pair.down.T))
        return Change(upper @ lower.T, len(pair.up) * pair.down.shape[1])


def _moves_bias(found: Delta, base: Base, module: Module) -> bool:
    moved = found.bias(base.value(module, bias=True))
    return moved is not None and bool(moved.any())


def audit(adapter: Adapter, base: Base) -> Audit:
    """Every module's spectrum, where the energy ‖ΔW‖² lies, and which modules stand out. Singular values come from the
    factors where there are some.
    """
    unmeasured: list[Unmeasured] = []
    spectra: list[ModuleSpectrum] = []
    levels: dict[Module, float] = {}
    groups: dict[Module, str] = {}
    for found in strengths(adapter, base, unmeasured.append):
        spectra.append(_spectrum(found))
        levels[found.module] = found.level
        groups[found.module] = kind_of(found.module) if found.relative is None else ""
    excess = _excess(levels, groups)
    spectra = [one.model_copy(update={"excess": excess[_module(one)]}) for one in spectra]
    return Audit(
        rule=_rule(based=bool(base.weights)),
        modules=spectra,
        components=_shares((one.component, one) for one in spectra),
        blocks=_shares((block_of(_module(one), adapter.architecture), one) for one in spectra),
        over_scaled=[".".join(_module(one)) for one in spectra if one.excess is not None and one.excess > FAR],
        dead=[".".join(_module(one)) for one in spectra if one.dead],
        unmeasured=unmeasured,
    )


def _module(one: ModuleSpectrum) -> Module:
    return Module(one.component, one.module)


def _rule(*, based: bool) -> str:
    if based:
        return f"over-scaled: ‖ΔW‖ / ‖W‖ is more than {FAR:g} times the median of all modules"
    return f"over-scaled: ‖ΔW‖ / √elements is more than {FAR:g} times the median of the modules of its kind"


def _spectrum(found: Strength) -> ModuleSpectrum:
    sizes = found.change.sizes()
    algorithm = algorithm_of(found.tensors)
    assert algorithm is not None
    return ModuleSpectrum(
        component=found.module.component, module=found.module.module, algorithm=label(found.tensors, algorithm),
        rank=rank_of(found.tensors), effective_rank=effective_rank(sizes), rank_99=held_rank(sizes),
        norm=found.change.norm, largest=float(sizes[0]), relative=found.relative, dead=found.dead,
    )  # fmt: skip


def effective_rank(sizes: Tensor) -> float:
    """exp of the entropy of σ / Σσ (Roy and Vetterli, 2007, definition 1): k for k equal ones; 0 where all are zero."""
    total = float(sizes.sum())
    if not total:
        return 0.0
    shares = sizes[sizes > 0] / total
    return math.exp(-float((shares * shares.log()).sum()))


def held_rank(sizes: Tensor, share: float = _HELD) -> int:
    """The fewest singular values that hold `share` of the sum of squares; 0 where all are zero."""
    held = sizes.square().cumsum(0)
    return int((held < share * held[-1]).sum()) + 1 if held[-1] else 0


def _excess(levels: Mapping[Module, float], groups: Mapping[Module, str]) -> dict[Module, float | None]:
    """Each level over the median of its group's, zeros left out; None where all of them are zero."""
    members: dict[str, list[float]] = defaultdict(list)
    for module, level in levels.items():
        if level:
            members[groups[module]].append(level)
    medians = {group: median(found) for group, found in members.items()}
    return {
        module: level / medians[groups[module]] if groups[module] in medians else None
        for module, level in levels.items()
    }


def _shares(named: Iterable[tuple[str, ModuleSpectrum]]) -> list[EnergyShare]:
    members: dict[str, list[float]] = defaultdict(list)
    for name, one in named:
        members[name].append(one.norm**2)
    squares = {name: math.fsum(found) for name, found in members.items()}
    total = math.fsum(squares.values())
    return [
        EnergyShare(name=name, modules=len(members[name]), norm=math.sqrt(square), share=square / total if total else 0)
        for name, square in sorted(squares.items())
    ]


def block_of(module: Module, architecture: str) -> str:
    """IN04, M00, OUT11 of the UNet and TE1 03 of a text encoder, which sort in the order of the model; what lies in no block
    by the beginning of its path.
    """
    component, path = module
    if component == "unet" and (block := unet_block(module, architecture)):
        return block
    head = _HEAD.match(path)
    place = head[0] if head else path
    if component.startswith("text_encoder"):
        layer = _LAYER.match(path)
        return f"TE{component.removeprefix('text_encoder').strip('_') or 1} {layer[1].zfill(2) if layer else place}"
    return place if component == "unet" else f"{component} {place}"


def kind_of(module: Module) -> str:
    """What a module is, wherever it lies: attn1.to_q, ff.net.2, conv1, self_attn.q_proj."""
    return _LIST.sub("", module.module)
