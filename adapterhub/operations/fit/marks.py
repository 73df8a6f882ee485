"""What is special about a module, in words that the rules of readers use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from adapterhub.adapter import Module, Role, Roles
from adapterhub.algorithms import old_glora, rank_of, scale_of
from adapterhub.files import Package
from adapterhub.layouts.base import Reading
from adapterhub.layouts.lora.peft import CONFIG
from adapterhub.tensors import item

R = Role
Marks = frozenset[str]

_CORES = frozenset({R.MID, R.HADA_T1, R.HADA_T2, R.LOKR_T2})
_INPUT_SIDE = frozenset({R.OFT_R, R.BOFT_R, R.IA3_L})
_PAIRS = frozenset({R.DOWN, R.HADA_W1_A, R.LOKR_W1, R.LOKR_W1_A, R.OFT_BLOCKS, R.IA3_WEIGHT, R.GLORA_A1})


def _has(*roles: Role) -> Callable[[Roles], bool]:
    return lambda held: any(role in held for role in roles)


def _only(*roles: Role) -> Callable[[Roles], bool]:
    return lambda held: not held.keys() - {*roles, R.ALPHA}


_MARKS: Mapping[str, Callable[[Roles], bool]] = {
    "dora": _has(R.DORA_SCALE),
    "dora-rows": lambda held: R.DORA_SCALE in held and not _along_columns(held[R.DORA_SCALE].shape),
    "dora-columns": lambda held: R.DORA_SCALE in held and _along_columns(held[R.DORA_SCALE].shape),
    "core": lambda held: not _CORES.isdisjoint(held),
    "input-side": lambda held: not _INPUT_SIDE.isdisjoint(held),
    "rescale": _has(R.RESCALE),
    "residual": _has(R.RESIDUAL_INDICES),
    "dense-residual": _has(R.RESIDUAL),
    "scalar": _has(R.SCALAR),
    "own-scale": _has(R.SCALE),
    "diff-bias": lambda held: R.DIFF_B in held and not _PAIRS.isdisjoint(held),
    "up-bias": _has(R.UP_BIAS),
    "replaces": _has(R.SET_WEIGHT),
    "bias-only": _only(R.DIFF_B),
    "norm-bias-only": _only(R.B_NORM),
    "norm-weight-only": _only(R.W_NORM),
    "constrained": lambda held: R.OFT_BLOCKS in held and R.ALPHA in held and item(held[R.ALPHA]) > 0,
    "alpha-missing": lambda held: R.ALPHA not in held,
    "scaled": lambda held: scale_of(held) != 1,
    "new-glora": lambda held: R.GLORA_A1 in held and not old_glora(held),
    "kernel": lambda held: any(len(tensor.shape) > 2 for tensor in held.values()),
    "scaled-oft": _has(R.OFT_SCALED),
    "whole-lokr": lambda held: R.LOKR_W1 in held and R.LOKR_W2 in held,
}  # fmt: skip


def marks_of(held: Roles) -> Marks:
    """The marks of a module by its own tensors."""
    return frozenset(mark for mark, applies in _MARKS.items() if applies(held))


def _along_columns(shape: tuple[int, ...]) -> bool:
    return len(shape) > 1 and shape[0] == 1 < shape[1]


def file_marks(modules: Mapping[Module, Roles], package: Package, reading: Reading) -> dict[Module, Marks]:
    """The marks that a module has by its company: an alpha that is rare in its component, a projection without the others of
    its attention, a config that is not there.
    """
    found = {module: set[str]() for module in modules}
    for component in {module.component for module in modules}:
        mine = [module for module in modules if module.component == component]
        _rare_alphas({module: modules[module] for module in mine}, found)
    _lone_projections(modules, found)
    _both_encoders(found)
    for module in modules:
        found[module] |= _of_whole(package, reading)
    return {module: frozenset(marks) for module, marks in found.items()}


def _rare_alphas(modules: Mapping[Module, Roles], found: dict[Module, set[str]]) -> None:
    """diffusers takes the commonest alpha of a component for the modules that have none or whose own it cannot place."""
    alphas = {module: item(held[R.ALPHA]) for module, held in modules.items() if R.ALPHA in held}
    if not alphas:
        return
    commonest = Counter(alphas.values()).most_common(1)[0][0]
    for module, held in modules.items():
        rank = rank_of(held)
        if module in alphas and alphas[module] != commonest:
            found[module].add("rare-alpha")
        if module not in alphas and rank is not None and rank != commonest:
            found[module].add("alpha-inherited")


_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")


def _lone_projections(modules: Mapping[Module, Roles], found: dict[Module, set[str]]) -> None:
    for module in modules:
        head, _, leaf = module.module.rpartition(".")
        if leaf in _PROJECTIONS and any(
            Module(module.component, f"{head}.{other}") not in modules for other in _PROJECTIONS
        ):
            found[module].add("lone-projection")


def _both_encoders(found: dict[Module, set[str]]) -> None:
    attentions = [module for module in found if ".self_attn." in module.module]
    if len({module.component for module in attentions}) > 1:
        for module in attentions:
            found[module].add("both-encoders")


def _of_whole(package: Package, reading: Reading) -> Marks:
    marks = set()
    if not any(name.endswith(CONFIG) for name in package.documents):
        marks.add("config-missing")
    told = reading.metadata
    if told.get("modelspec.sai_model_spec") and told.get("modelspec.architecture", "").endswith("/lora"):
        marks.add("modelspec-lora")
    return frozenset(marks)
