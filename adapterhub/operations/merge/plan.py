"""What is to be done to which tensor, and what cannot be done, all of it known before a byte is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import adapterhub.architectures as architectures
from adapterhub.adapter import Adapter, Key, Module, Role, Roles
from adapterhub.documents import LedgerEntry
from adapterhub.errors import BrokenAdapter, LossyConversion, NotAnAdapter, RefusedInput
from adapterhub.operations import values
from adapterhub.operations.lora.shapes import misfit
from adapterhub.operations.merge.strengths import Part, Selection
from adapterhub.operations.merge.terms import BIASES, Term
from adapterhub.operations.source import Source
from adapterhub.tensors import FLOATS

_EMBEDDING = "an embedding is called by its token, and no weight of a model holds that"
_ABSENT = "the base has no such module"
_UNBIASED = "the base has no bias there"
NOT_WANTED = "strength 0, or not selected"
_SHOWN = 3


@dataclass
class Opened:
    """An adapter that is to be merged, under the sha256 of its files."""

    part: Part
    source: Source
    digest: str

    def place(self, name: str) -> str:
        return f"{self.part.path}:{name}"


@dataclass
class Plan:
    """`terms` of each tensor of the base, in the order given; `entries` of the adapters' tensors, whose targets are keys of the
    base until it is known where these lie; `losses` are what cannot be merged, and why.
    """

    terms: dict[Key, list[Term]] = field(default_factory=dict)
    targets: list[tuple[list[str], list[Key], str]] = field(default_factory=list)
    drops: list[LedgerEntry] = field(default_factory=list)
    losses: list[tuple[str, str]] = field(default_factory=list)

    def add(self, base: Adapter, module: Module, term: Term) -> list[Key]:
        """The keys of `base` that `term` changes."""
        keys = [Key(*module, Role.LAYER_WEIGHT)] if term.changes_weight else []
        bias = Key(*module, Role.LAYER_BIAS)
        if term.changes_bias and bias in base.tensors:
            keys.append(bias)
        for key in keys:
            self.terms.setdefault(key, []).append(term)
        return keys

    def require_whole(self, allow_loss: bool) -> None:
        """Raises LossyConversion where something cannot be merged and must not be left out, or nothing is left."""
        if self.losses and not allow_loss:
            first = "; ".join(f"{place}: {why}" for place, why in self.losses[:_SHOWN])
            more = f" (and {len(self.losses) - _SHOWN} more)" if len(self.losses) > _SHOWN else ""
            raise LossyConversion(f"{len(self.losses)} modules cannot be merged: {first}{more}", self.losses,
                                  mend="--allow-loss leaves them out and lists them.")  # fmt: skip
        if self.losses and not self.terms:
            raise LossyConversion(
                "nothing would be merged", self.losses, mend=f"The first reason: {self.losses[0][1]}."
            )


def require_same_model(base: Adapter, opened: Sequence[Opened]) -> None:
    """Raises NotAnAdapter, naming every adapter that is for another architecture."""
    others = [one for one in opened if one.source.adapter.architecture not in ("", base.architecture)]
    if others:
        title = architectures.get(base.architecture).title
        told = "; ".join(f"{one.part.path} is for {architectures.get(one.source.adapter.architecture).title}"
                         for one in others)  # fmt: skip
        raise NotAnAdapter(
            f"the base is a model of {title}, and {told}", mend="Give adapters of the base's architecture."
        )


def require_numbers(opened: Sequence[Opened]) -> None:
    """Raises BrokenAdapter, naming every module with values that are NaN or infinite. Reads every tensor."""
    bad = [f"{one.part.path}: {'.'.join(key)}" for one in opened for key, tensor in one.source.adapter.tensors.items()
           if tensor.dtype in FLOATS and key.role is not Role.ALPHA and values.numbers(tensor).broken]  # fmt: skip
    if bad:
        raise BrokenAdapter(f"{len(bad)} tensors hold values that are NaN or infinite, the first being {bad[0]}", bad,
                            mend="The training failed: get an earlier or a float32 file.")  # fmt: skip


def require_sums(plan: Plan) -> None:
    """Raises RefusedInput where taking the adapters out is no subtraction."""
    if bad := sorted({term.title for terms in plan.terms.values() for term in terms if not term.commutes}):
        raise RefusedInput(f"what {', '.join(bad)} did to a weight cannot be subtracted: it depends on the weight itself",
                           mend="unmerge --undo restores the base, if merge wrote such a file.")  # fmt: skip


def add_lora(plan: Plan, base: Adapter, opened: Opened, selection: Selection) -> None:
    """Every module of a LoRA."""
    names = opened.source.reading.names
    for module, roles in opened.source.adapter.modules().items():
        places = [opened.place(name) for name in dict.fromkeys(names.get(module, {}).values())]
        strength = selection.strength(module, opened.part)
        if not strength:
            plan.drops.append(LedgerEntry(source=places, target=[], action="drop", reason=NOT_WANTED))
            continue
        if whys := list(misfits(base, module, roles)):
            plan.losses += [(f"{opened.part.path}: {'.'.join(module)}", why) for why in whys]
            plan.drops.append(LedgerEntry(source=places, target=[], action="drop", reason="; ".join(whys)))
            continue
        keys = plan.add(base, module, Term(roles, strength, (opened.digest, strength)))
        plan.targets.append((places, keys, f"merged × {strength:g}"))


def misfits(base: Adapter, module: Module, roles: Roles) -> Iterator[str]:
    """Why a module cannot be merged into `base`; nothing where it can."""
    if Role.VECTORS in roles or Role.OUTPUT_VECTORS in roles:
        yield _EMBEDDING
        return
    term = Term(roles, 1.0, ("", 1.0))
    weight = base.tensors.get(Key(*module, Role.LAYER_WEIGHT))
    bias = base.tensors.get(Key(*module, Role.LAYER_BIAS))
    if weight is None:
        yield _ABSENT
        return
    if term.changes_weight and (why := misfit(roles, weight.shape)):
        yield f"{why} the base, whose weight is {list(weight.shape)}"
    if term.changes_bias and bias is None and Role.IA3_L not in roles:
        yield _UNBIASED
    if bias is not None and (wrong := [role for role in BIASES & roles.keys() if roles[role].size != bias.size]):
        yield f"its {', '.join(sorted(wrong))} does not fit the base's bias of {bias.size} numbers"
    for tensor in (weight, bias):
        if tensor is not None and tensor.dtype not in FLOATS:
            yield f"the base stores it as {tensor.dtype}, which cannot be computed with"
