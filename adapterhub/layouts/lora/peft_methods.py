"""What an `adapter_config.json` must say for PEFT to build the very tensors that stand beside it, method by method.

PEFT makes its tensors from one config and the model before it loads any, so a directory whose modules no one config
describes is one that it cannot load, and writing it is refused.
Source: huggingface/peft 0.21 `tuners/*/layer.py` (`update_layer`), `tuners/*/config.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from adapterhub.adapter import Module, Role, Roles
from adapterhub.algorithms import algorithm_of
from adapterhub.layouts.lora import peft_config
from adapterhub.tensors import Shape, item

NEUMANN_TERMS = 5  # OFTConfig.num_cayley_neumann_terms
# The first whose Neumann series is today's: PEFT warns of files that do not say so.
_NEUMANN_VERSION = "0.18.0"


class _Member(NamedTuple):
    """One module of a directory; `positions` is how many its kernel has, 1 for a linear layer."""

    target: str
    tensors: Roles
    positions: int


def config(modules: Mapping[Module, Roles], component: str, weights: Mapping[str, Shape]) -> dict[str, Any]:
    """The config of one component, whose modules have `weights`. Raises LossyConversion where there is none."""
    members = [_Member(peft_config.target(name), tensors, math.prod(weights[name][2:]))
               for (owner, name), tensors in modules.items() if owner == component]  # fmt: skip
    method = _only_method(members, component)
    fields = peft_config.config_of(modules, component)
    common = {"peft_type": method, "task_type": None, "inference_mode": True, "base_model_name_or_path": None,
              "target_modules": fields["target_modules"]}  # fmt: skip
    return {**common, **_METHODS[method](fields, members)}


def _only_method(members: Iterable[_Member], component: str) -> str:
    methods = {_method(member.tensors) for member in members}
    if len(methods) > 1 or None in methods:
        found = ", ".join(sorted(map(str, methods)))
        raise peft_config.refusal(f"PEFT keeps one method a directory, and the {component} holds {found}", [component])
    method = str(methods.pop())
    magnitudes = [member.target for member in members if Role.DORA_SCALE in member.tensors]
    if magnitudes and method != "LORA":
        raise peft_config.refusal(f"PEFT has DoRA for LoRA alone, and not for {method}", magnitudes)
    return method


def _method(tensors: Roles) -> str | None:
    algorithm = algorithm_of(tensors)
    return algorithm and peft_config.PEFT_TYPES.get(algorithm.name)


def _lora(fields: dict[str, Any], members: list[_Member]) -> dict[str, Any]:
    named = ("r", "rank_pattern", "alpha_pattern", "use_dora", "lora_bias")
    return {"lora_alpha": fields["alpha"], **{name: fields[name] for name in named}}


def _product(fields: dict[str, Any], effective: bool) -> dict[str, Any]:
    named = ("r", "rank_pattern", "alpha", "alpha_pattern")
    return {**{name: fields[name] for name in named}, "use_effective_conv2d": effective}


def _loha(fields: dict[str, Any], members: list[_Member]) -> dict[str, Any]:
    effective = any(Role.HADA_T1 in member.tensors for member in members)
    odd = [member.target for member in members
           if (Role.HADA_T1 in member.tensors) != (effective and member.positions > 1)]  # fmt: skip
    if odd:
        raise peft_config.refusal("PEFT has cores in all of a directory's LoHa convolutions or in none", odd)
    return _product(fields, effective)


class _Kronecker(NamedTuple):
    """A LoKr module: the sizes (o1, o2) and (i1, i2), and which factors are whole."""

    target: str
    rows: tuple[int, int]
    columns: tuple[int, int]
    whole1: bool
    whole2: bool
    core: bool
    ranks: frozenset[int]
    positions: int

    def is_built(self, rank: int, factor: int, *, both: bool, effective: bool) -> bool:
        """Whether PEFT's config makes these shapes of the module."""
        (o1, o2), (i1, i2) = self.rows, self.columns
        return (
            self.ranks <= {rank}
            and _factors(o1 * o2, factor) == self.rows
            and _factors(i1 * i2, factor) == self.columns
            and self.whole1 == (not both or 2 * rank >= max(o1, i1))
            and self.whole2 == (2 * rank >= max(o2, i2))
            and self.core == (not self.whole2 and effective and self.positions > 1)
        )


def _kronecker(member: _Member) -> _Kronecker:
    shapes = {role: tensor.shape for role, tensor in member.tensors.items()}
    whole1, whole2, core = (role in shapes for role in (Role.LOKR_W1, Role.LOKR_W2, Role.LOKR_T2))
    ranks = {shapes[role][0] for role in (Role.LOKR_W1_B, Role.LOKR_W2_B) if role in shapes}
    o1, i1 = shapes[Role.LOKR_W1] if whole1 else (shapes[Role.LOKR_W1_A][0], shapes[Role.LOKR_W1_B][1])
    if whole2:
        o2, i2 = shapes[Role.LOKR_W2][:2]
    else:
        o2 = shapes[Role.LOKR_W2_A][1 if core else 0]
        i2 = shapes[Role.LOKR_W2_B][1] // (1 if core else member.positions)
    return _Kronecker(member.target, (o1, o2), (i1, i2), whole1, whole2, core, frozenset(ranks), member.positions)


def _lokr(fields: dict[str, Any], members: list[_Member]) -> dict[str, Any]:
    found = [_kronecker(member) for member in members]
    both, effective = any(not module.whole1 for module in found), any(module.core for module in found)
    ranks = {module.target: fields["rank_pattern"].get(module.target, fields["r"]) for module in found}
    odd: list[str] = []
    for factor in (-1, *sorted({size for module in found for size in (module.rows[0], module.columns[0])})):
        odd = [module.target for module in found
               if not module.is_built(ranks[module.target], factor, both=both, effective=effective)]  # fmt: skip
        if not odd:
            return {**_product(fields, effective), "decompose_both": both, "decompose_factor": factor}
    raise peft_config.refusal("PEFT makes the factors of all LoKr modules by one rule, and these follow none", odd)


def _factors(size: int, factor: int) -> tuple[int, int]:
    """PEFT's `factorization`: `factor` first where it divides, else the divisor nearest the root that is not above it."""
    if factor > 0 and size % factor == 0:
        return factor, size // factor
    limit = min(math.isqrt(size), factor if factor > 0 else size)
    first = next(divisor for divisor in range(limit, 0, -1) if size % divisor == 0)
    return first, size // first


def _ia3(fields: dict[str, Any], members: list[_Member]) -> dict[str, Any]:
    forward = [member.target for member in members if peft_config.on_input(member.tensors[Role.IA3_L])]
    return {"feedforward_modules": sorted(forward)}


def _oft(fields: dict[str, Any], members: list[_Member]) -> dict[str, Any]:
    shapes = {member.target: member.tensors[Role.OFT_R].shape for member in members}
    blocks = {name: (shape[0], (1 + math.isqrt(1 + 8 * shape[1])) // 2) for name, shape in shapes.items()}
    terms = {member.target: _terms(member.tensors) for member in members}
    number = _same(terms, "number of Neumann terms")
    size, count = _size_or_number(blocks)
    rotation = {"use_cayley_neumann": number > 0, "num_cayley_neumann_terms": number or NEUMANN_TERMS}
    # One block is shared by all, or is all there is: sharing says both.
    shared = all(blocks_of_it == 1 for blocks_of_it, _ in blocks.values())
    return {"peft_version": _NEUMANN_VERSION, "r": count, "oft_block_size": size, **rotation, "coft": False,
            "block_share": shared}  # fmt: skip


def _terms(tensors: Roles) -> int:
    return int(item(tensors[Role.OFT_TERMS])) if Role.OFT_TERMS in tensors else NEUMANN_TERMS


def _boft(fields: dict[str, Any], members: list[_Member]) -> dict[str, Any]:
    shapes = {member.target: member.tensors[Role.BOFT_R].shape for member in members}
    factor = _same({name: shape[0] for name, shape in shapes.items()}, "number of butterfly factors")
    size, count = _size_or_number({name: (shape[1], shape[2]) for name, shape in shapes.items()})
    return {"boft_block_size": size, "boft_block_num": count, "boft_n_butterfly_factor": factor}


def _size_or_number(blocks: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
    """(size, 0) where all modules have blocks of one size, (0, number) where they have equally many."""
    numbers, sizes = ({pair[axis] for pair in blocks.values()} for axis in (0, 1))
    if len(sizes) == 1:
        return sizes.pop(), 0
    if len(numbers) == 1:
        return 0, numbers.pop()
    raise peft_config.refusal(
        "PEFT has blocks of one size, or one number of blocks, in a whole directory", list(blocks)
    )


def _same(values: Mapping[str, int], name: str) -> int:
    if len(set(values.values())) > 1:
        raise peft_config.refusal(f"PEFT has one {name} a directory", list(values))
    return next(iter(values.values()))


_METHODS: Mapping[str, Callable[[dict[str, Any], list[_Member]], dict[str, Any]]] = {
    "LORA": _lora, "LOHA": _loha, "LOKR": _lokr, "IA3": _ia3, "OFT": _oft, "BOFT": _boft,
}  # fmt: skip
