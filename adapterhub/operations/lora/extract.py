"""What a fine-tuned model changed in its base, as a LoRA: W_tuned − W_base, module by module, by its singular values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from adapterhub.adapter import Adapter, Key, Kind, Module, Role, Roles
from adapterhub.documents import Conversion, Problem
from adapterhub.errors import BrokenAdapter, RefusedInput, UsageError
from adapterhub.operations.ledger import Ledger
from adapterhub.operations.lora import deltas
from adapterhub.operations.lora.effect import Effect
from adapterhub.operations.lora.joining import keys, label_of
from adapterhub.operations.lora.low_rank import Bound, bound, decomposed
from adapterhub.operations.lora.pairs import factors
from adapterhub.operations.lora.rework import Changed, Output, rework, told_anew
from adapterhub.operations.lora.threads import each, sizes
from adapterhub.operations.problems import warning
from adapterhub.operations.recipe import recorded
from adapterhub.operations.work import NOT_EXTRACTED, SAME_IN_BOTH, SAME_ROUNDED, Cut, Request
from adapterhub.tensors import DTYPE_BITS, LazyTensor

R = Role
_TABLES = ".embeddings."
"""Inside the path of what looks rows up and multiplies nothing: no reader takes a LoRA of it."""
_WEIGHTS = frozenset({R.LAYER_WEIGHT, R.LAYER_BIAS})


@recorded("extract", "tuned", "base")
def extract(
    tuned: Path | str,
    base: Path | str,
    target: Path | str,
    *,
    rank: int | None = None,
    tolerance: float | None = None,
    biases: bool = False,
    norms: bool = False,
    to: str | None = None,
    for_tool: str | None = None,
    dtype: str | None = None,
    architecture: str | None = None,
    variant: str | None = None,
    dry_run: bool = False,
    force: bool = False,
) -> Conversion:
    """Writes the LoRA that turns the model `base` into the model `tuned`, UNet and text encoders, to `target`.

    Each changed weight by its best approximation of `rank`, or of the smallest rank with a relative error (Frobenius) of at
    most `tolerance`; convolutions too (LoCon). Small matrices are decomposed exactly, large ones by a randomised method with a
    fixed seed (`low_rank.randomised`); what is told is measured on the written file. `biases` and `norms` add what these changed
    by. Weights that are the same, or the same once rounded to the dtype of the other model, take nothing. Factors have `dtype`,
    else F32. `variant` is that of each folder whose weights are there in several.

    Raises RefusedInput where the models are of different architectures or shapes, or nothing differs.
    """
    within = bound(rank, tolerance)
    if within is None:
        raise UsageError("say how small it is to be", mend="Give --rank or --tolerance.")

    def change(adapter: Adapter, ledger: Ledger, request: Request) -> Changed:
        both = _Models(*_apart(adapter))
        both.ensure_fitting()
        found = _Extraction(both, within, request.dtype or "F32", biases, norms)
        read = both.sizes()
        for module, taken in zip(read, each(found.taken, read), strict=True):
            found.add(module, taken, ledger)
        if not found.tensors:
            raise RefusedInput(f"{tuned} and {base} do not differ in anything that a LoRA changes",
                               mend="adapterhub diff shows where they differ; --biases and --norms take more.")  # fmt: skip
        made = told_anew(Adapter(Kind.LORA, adapter.architecture, found.tensors))
        return Changed(made, found.wanted, found.cuts, list(found.problems()), tolerance, approximate=True)

    output = Output(target, to, for_tool, dtype, architecture, dry_run, force, variant)
    return rework("extract", [Path(tuned), Path(base)], output, change, kind=Kind.CHECKPOINT, joined=True)


def _apart(adapter: Adapter) -> tuple[dict[Module, Roles], dict[Module, Roles]]:
    """The two models that were joined."""
    models: tuple[dict[Module, Roles], dict[Module, Roles]] = ({}, {})
    for labelled, roles in adapter.modules().items():
        number, module = label_of(labelled)
        models[number][module] = roles
    return models


@dataclass(frozen=True)
class _Models:
    """The weights of both."""

    tuned: Mapping[Module, Roles]
    base: Mapping[Module, Roles]

    def sizes(self) -> dict[Module, int]:
        """All modules that either has, and their bytes."""
        return sizes({**self.tuned, **self.base})

    def ensure_fitting(self) -> None:
        """RefusedInput that names all weights that have another shape in the other model."""
        other = [".".join(module) for module in self.tuned for role in _WEIGHTS if self._shapes(module, role) == 2]
        if other:
            raise RefusedInput(f"{len(other)} weights have another shape in the base: {', '.join(other)}",
                               mend="Give the model that was trained on: of the same architecture and variant.")  # fmt: skip

    def _shapes(self, module: Module, role: Role) -> int:
        return len({model[module][role].shape for model in (self.tuned, self.base) if role in model.get(module, {})})

    def same(self, module: Module, role: Role) -> bool:
        """Whether a tensor is the same in both, byte for byte."""
        a, b = self.tuned.get(module, {}).get(role), self.base.get(module, {}).get(role)
        return a is not None and b is not None and a.dtype == b.dtype and a.read() == b.read()

    def narrower(self, module: Module, role: Role) -> str | None:
        """The dtype of fewer bits where the two have different ones."""
        found = [model[module][role].dtype for model in (self.tuned, self.base)]
        return None if found[0] == found[1] else min(found, key=DTYPE_BITS.__getitem__)

    def same_rounded(self, module: Module, role: Role, dtype: str) -> bool:
        """Whether a tensor of one model is that of the other rounded to `dtype`."""
        found = [model[module][role] for model in (self.tuned, self.base)]
        bits = [
            tensor.read() if tensor.dtype == dtype else deltas.lazy(deltas.tensor(tensor), dtype).read()
            for tensor in found
        ]
        return bits[0] == bits[1]

    def has(self, module: Module, role: Role) -> bool:
        """Whether both models have a tensor."""
        return all(role in model.get(module, {}) for model in (self.tuned, self.base))

    def alone(self) -> Counter[str]:
        """How many weights of each component only one of the models has."""
        modules = self.tuned.keys() | self.base.keys()
        return Counter(
            module.component for module in modules for role in _WEIGHTS
            if (role in self.tuned.get(module, {})) != (role in self.base.get(module, {}))
        )  # fmt: skip

    def difference(self, module: Module, role: Role) -> Tensor:
        """tuned − base in float64."""
        return deltas.tensor(self.tuned[module][role]) - deltas.tensor(self.base[module][role])


class _Taken(NamedTuple):
    """What comes of a tensor, and why: `cut` if it was approximated; `left` is what differs and was left out; `rounded` the dtype
    of one model that is narrower than the other's.
    """

    role: Role
    tensors: Roles
    reason: str
    cut: Cut | None = None
    left: str | None = None
    rounded: str | None = None


@dataclass
class _Extraction:
    """What has been extracted so far."""

    both: _Models
    within: Bound
    dtype: str
    biases: bool
    norms: bool
    tensors: dict[Key, LazyTensor] = field(default_factory=dict)
    cuts: dict[Module, Cut] = field(default_factory=dict)
    left: Counter[str] = field(default_factory=Counter)
    rounded: Counter[tuple[str, bool]] = field(default_factory=Counter)

    def taken(self, module: Module) -> list[_Taken]:
        """What comes of every tensor of a module."""
        models = (self.both.tuned, self.both.base)
        return [
            self._taken(module, role)
            for role in dict.fromkeys(role for model in models for role in model.get(module, {}))
        ]

    def add(self, module: Module, taken: Sequence[_Taken], ledger: Ledger) -> None:
        """Keeps what was taken, and tells the ledger of the tensors in both models."""
        for one in taken:
            stood = [key for number, model in enumerate((self.both.tuned, self.both.base))
                     if one.role in model.get(module, {}) for key in keys(number, module, [one.role])]  # fmt: skip
            made = {Key(*module, role): tensor for role, tensor in one.tensors.items()}
            ledger.replace(stood, made, "compute" if made else "drop", one.reason)
            self.tensors |= made
            if one.cut is not None:
                self.cuts[module] = one.cut
            if one.left is not None:
                self.left[one.left] += 1
            if one.rounded is not None:
                self.rounded[one.rounded, bool(made)] += 1

    def _taken(self, module: Module, role: Role) -> _Taken:
        if self.both.same(module, role):
            return _Taken(role, {}, SAME_IN_BOTH)
        if role not in _WEIGHTS or not self.both.has(module, role):
            return _Taken(role, {}, NOT_EXTRACTED)
        difference = self.both.difference(module, role)
        if not difference.any():  # the same numbers in two dtypes
            return _Taken(role, {}, SAME_IN_BOTH)
        narrower = self.both.narrower(module, role)
        if narrower is not None and self.both.same_rounded(module, role, narrower):
            return _Taken(role, {}, SAME_ROUNDED, rounded=narrower)
        return self._changed(module, role, difference)._replace(rounded=narrower)

    def _changed(self, module: Module, role: Role, difference: Tensor) -> _Taken:
        weight = self.both.tuned[module].get(R.LAYER_WEIGHT)
        is_norm, is_weight = weight is None or len(weight.shape) < 2, role is R.LAYER_WEIGHT
        fixed = module.component == "vae" or _TABLES in f".{module.module}."
        if fixed or not self._asked(is_norm=is_norm, is_weight=is_weight):
            return _Taken(role, {}, NOT_EXTRACTED, left=_name(module, is_norm=is_norm, is_weight=is_weight))
        if is_weight and not is_norm:
            return self._factors(module, difference)
        stored = R.W_NORM if is_weight else R.B_NORM if is_norm else R.DIFF_B
        return _Taken(role, {stored: deltas.lazy(difference, self.dtype)}, "tuned − base")

    def _asked(self, *, is_norm: bool, is_weight: bool) -> bool:
        return self.norms if is_norm else is_weight or self.biases

    def _factors(self, module: Module, difference: Tensor) -> _Taken:
        if not difference.isfinite().all():
            raise BrokenAdapter(f"{'.'.join(module)}: values are not finite", [".".join(module)])
        svd = decomposed(difference.flatten(1), self.within)
        cut = svd.cut(self.within.of(svd))
        rank = cut.up.shape[1]
        made = factors(cut, tuple(difference.shape[1:]), self.dtype)
        reason = f"rank {rank} keeps {1 - cut.error**2:.4%} of ‖ΔW‖²"
        return _Taken(R.LAYER_WEIGHT, made, reason, Cut(rank, cut.error))

    def wanted(self, module: Module) -> Effect:
        """What the module should do: the difference itself, of what was taken."""
        roles = {key.role for key in self.tensors if key[:2] == module}
        weighted = R.W_NORM in roles or R.UP in roles
        weight = self.both.difference(module, R.LAYER_WEIGHT).flatten() if weighted else None
        biased = not roles.isdisjoint({R.DIFF_B, R.B_NORM})
        return Effect(weight, self.both.difference(module, R.LAYER_BIAS).flatten() if biased else None)

    def problems(self) -> Iterator[Problem]:
        """What differs, or cannot be compared, and was left out."""
        for what, count in self.left.items():
            mend = _MENDS.get(what)
            yield warning("not-extracted", "", f"{count} {what} differ, and are not in the LoRA", mend)
        for (dtype, taken), count in sorted(self.rounded.items()):
            told = ("differ, in one model rounded to {}, and that rounding is part of what was taken" if taken else
                    "differ by nothing but rounding to {}, and are not in the LoRA")  # fmt: skip
            yield warning("rounding", "", f"{count} tensors {told.format(dtype)}", _ONE_DTYPE if taken else None)
        for component, count in sorted(self.both.alone().items()):
            yield warning("in-one-model", component, f"{count} weights are in one model only, and not in the LoRA",
                          "Give two models that both have them.")  # fmt: skip


_ONE_DTYPE = "Give both models in the dtype of the wider one, if they are to be had so."
_MENDS = {"biases": "--biases takes them.", "tensors of normalisations": "--norms takes them."}


def _name(module: Module, *, is_norm: bool, is_weight: bool) -> str:
    if module.component == "vae":
        return "tensors of the VAE"
    if _TABLES in f".{module.module}.":
        return "tables of embeddings"
    return "tensors of normalisations" if is_norm else "weights" if is_weight else "biases"
