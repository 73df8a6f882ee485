"""What is wrong with an adapter by its header and its alphas: keys, pairs, ranks, shapes. Other values: `values.py`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import adapterhub.architectures as architectures
from adapterhub.adapter import Module, Role, Roles
from adapterhub.algorithms import Algorithm, algorithm_of, missing, rank_of, surplus
from adapterhub.documents import Problem
from adapterhub.errors import BrokenAdapter
from adapterhub.files import Package
from adapterhub.layouts.base import AlphaPlace, Fit, Layout, Reading
from adapterhub.layouts.identity import Identity, told_architecture
from adapterhub.layouts.peft_config import changed_bases
from adapterhub.tensors import FLOATS, LazyTensor, item

R = Role

# Spellings that are read although nobody should write them: (what is odd, whether that is worth a warning).
_ODD = {
    "no-unet-prefix": None,
    "first-generation": None,
    "first-encoder-numbered": None,
    "second-encoder-numbered": None,
    "text-model-missing": "CLIP names as transformers ≥ 5.6 has them, without `text_model.`, which most tools do not read",
    "to-out-without-index": "`to_out` without its index, which most tools do not read",
    "trailing-underscore": "a trailing underscore behind the module's name",
    "processor-name": "the name of an attention processor instead of a module's",
    "lycoris-prefix": "the prefix of the LyCORIS wrapper, which only ComfyUI reads",
    "oft-prefix": "the prefix of Kohya's OFT, which only Kohya reads",
    "doubled-prefix": "a doubled prefix, the mark of a broken converter; no tool reads it",
    "double-underscore": "a doubled underscore behind the prefix",
    "first-encoder-unnumbered": "SD 1's prefix for SDXL's first text encoder",
    "ldm-names": "original (LDM) names where the layout has diffusers' names",
    "no-transformer-level": "ComfyUI's text encoder names without `transformer.`",
    "model-prefix": "a checkpoint's prefix before the module",
    "compiled": "the mark of a compiled or sharded module",
    "distributed": "the mark of a distributed module",
    "adapter-name": "the name of an adapter inside the key, as a raw state dict has it",
    "undotted-suffix": "an underscore instead of a dot before `lora_down` or `lora_up`",
}
_MEND = "adapterhub convert writes the usual names."


def decoded(package: Package, identity: Identity) -> tuple[Reading | None, list[Problem]]:
    """The adapter in a package; None, and what is wrong, where the config or metadata that it takes cannot be read."""
    if identity.fit is None:
        return None, []
    try:
        return identity.fit.layout.decode(package, identity.fit), []
    except BrokenAdapter as fault:
        return None, [error("configuration", ", ".join(fault.places), fault.message, fault.mend)]


def faults(package: Package, identity: Identity, reading: Reading | None) -> Iterator[Problem]:
    """Every problem that the header tells, errors first where they concern the whole file."""
    fit = identity.fit
    if fit is None or reading is None:
        return
    yield from _whole(package, identity, fit)
    yield from _mended(fit)
    for module, tensors in reading.modules.items():
        if not _is_plain(tensors):
            yield from _module(module, tensors)


def _whole(package: Package, identity: Identity, fit: Fit) -> Iterator[Problem]:
    if identity.mixed:
        names = " and ".join(identity.mixed)
        yield error(
            "mixed-architectures", "", f"keys of {names} stand side by side", "Two files were mixed; get the originals."
        )
    for name in fit.unplaced:
        yield error("unknown-key", name, f"no module of {fit.architecture} in the {fit.layout.name} layout has this key",
                     "Nothing can say what it does; --allow-loss leaves it out.")  # fmt: skip
    for name in fit.doubles:
        yield error("duplicate-module", name, "a second spelling of a tensor that the file has already",
                     "Readers differ in which they take: remove one.")  # fmt: skip
    title = architectures.get(fit.architecture).title
    if identity.other_widths:
        yield warning(
            "other-widths", "", f"the names are those of {title}, the widths are not: a distilled or tiny model"
        )
    else:
        weights = architectures.get(fit.architecture).weights
        for module in fit.misfits:
            yield error("shape-mismatch", ".".join(module),
                         f"does not fit {title}, whose weight is {list(weights[module.component][module.module])}",
                         "It was trained on another model, or is damaged.")  # fmt: skip
    for place, method in changed_bases(package):
        yield warning("changed-base", place, f"{method} changed the base before training: this is no change of the original",
                       "Have PEFT convert it: path_initial_model_for_weight_conversion.")  # fmt: skip
    if identity.also:
        yield warning("ambiguous-architecture", "", f"the tensors fit {', '.join(identity.also)} as well; taken as {fit.architecture}",
                       "Say --architecture NAME if that is wrong.")  # fmt: skip
    told = told_architecture(package)
    if told is not None and told != fit.architecture:
        yield warning("metadata-contradicts", "metadata", f"claims {told}, and the tensors are those of {fit.architecture}",
                       "The tensors count; convert writes metadata that agrees.")  # fmt: skip


def _mended(fit: Fit) -> Iterator[Problem]:
    counted: dict[str, list[str]] = {}
    for place, code in fit.mended.items():
        counted.setdefault(code, []).append(place)
    for code, places in counted.items():
        if said := _ODD.get(code):
            yield warning(code, places[0], f"{said} ({len(places)} keys)", _MEND)


def _is_plain(tensors: Roles) -> bool:
    """Whether a module is a pair whose ranks meet, with a proper alpha or none: most are, and have no fault to look for."""
    down, up, alpha = tensors.get(R.DOWN), tensors.get(R.UP), tensors.get(R.ALPHA)
    if (
        down is None
        or up is None
        or len(tensors) > (2 if alpha is None else 3)
        or min(len(up.shape), len(down.shape)) < 2
    ):
        return False
    return 0 < down.shape[0] == up.shape[1] and (alpha is None or is_number(alpha))


def _module(module: Module, tensors: Roles) -> Iterator[Problem]:
    where = ".".join(module)
    algorithm = algorithm_of(tensors)
    if algorithm is None:
        roles = ", ".join(sorted(tensors))
        yield error(
            "orphan-key", where, f"{roles} without the tensors that it belongs to", "The file was cut or edited."
        )
        return
    if lacking := missing(tensors, algorithm):
        yield error("missing-pair", where, f"{algorithm.name} without {', '.join(sorted(lacking))}",
                     "Half a module does nothing: get the whole file, or --allow-loss leaves it out.")  # fmt: skip
        return
    if left := surplus(tensors, algorithm):
        yield error("orphan-key", where, f"{algorithm.name} has no use for {', '.join(sorted(left))}")
    yield from _ranks(where, tensors, algorithm)
    for role in (R.ALPHA, R.SCALE, R.SCALAR):
        if role in tensors and not is_number(tensors[role]):
            yield error("alpha-shape", where, f"{role} is {tensors[role].dtype} {list(tensors[role].shape)}, and must be one number")  # fmt: skip


def _ranks(where: str, tensors: Roles, algorithm: Algorithm) -> Iterator[Problem]:
    for left, left_axis, right, right_axis, without in _MEETING.get(algorithm.name, ()):
        if left not in tensors or right not in tensors or without in tensors:
            continue
        a, b = tensors[left].shape, tensors[right].shape
        if len(a) <= left_axis or len(b) <= right_axis:
            yield error("rank-mismatch", where, f"{left} {list(a)} and {right} {list(b)} are no matrices")
        elif a[left_axis] != b[right_axis]:
            yield error("rank-mismatch", where, f"{left} has rank {a[left_axis]}, {right} has rank {b[right_axis]}",
                        "The halves come from different files.")  # fmt: skip
    rank = rank_of(tensors)
    if rank is None and algorithm.name == "glora":
        yield error("rank-mismatch", where, "factors that are no matrices")
    elif rank == 0:
        yield warning("rank-zero", where, "rank 0: it does nothing")


# (factor, axis, factor, axis): the axes along which two factors meet; not so where the core that follows stands between.
_MEETING: Mapping[str, tuple[tuple[Role, int, Role, int, Role | None], ...]] = {
    "lora": (
        (R.UP, 1, R.DOWN, 0, R.MID), (R.UP, 1, R.MID, 0, None), (R.MID, 1, R.DOWN, 0, None),
    ),
    "loha": (
        (R.HADA_W1_A, 1, R.HADA_W1_B, 0, R.HADA_T1), (R.HADA_W2_A, 1, R.HADA_W2_B, 0, R.HADA_T2),
        (R.HADA_W1_A, 0, R.HADA_T1, 0, None), (R.HADA_T1, 1, R.HADA_W1_B, 0, None),
        (R.HADA_W2_A, 0, R.HADA_T2, 0, None), (R.HADA_T2, 1, R.HADA_W2_B, 0, None),
    ),
    "lokr": (
        (R.LOKR_W1_A, 1, R.LOKR_W1_B, 0, None), (R.LOKR_W2_A, 1, R.LOKR_W2_B, 0, R.LOKR_T2),
        (R.LOKR_W2_A, 0, R.LOKR_T2, 0, None), (R.LOKR_T2, 1, R.LOKR_W2_B, 0, None),
    ),
}  # fmt: skip


def alphas(modules: Mapping[Module, Roles]) -> dict[Module, float]:
    """The alpha of every module that has one. These few bytes are read."""
    return {module: item(tensors[R.ALPHA]) for module, tensors in modules.items()
            if R.ALPHA in tensors and is_number(tensors[R.ALPHA])}  # fmt: skip


def is_number(tensor: LazyTensor) -> bool:
    """Whether a tensor holds a single number, of a dtype that is computed with."""
    return (not tensor.shape or tensor.size == 1) and tensor.dtype in _NUMBERS


def alpha_faults(layout: Layout, modules: Mapping[Module, Roles], found: Mapping[Module, float]) -> Iterator[Problem]:
    """What is odd about the alphas that were `found`, module by module: absent, zero, negative or not finite."""
    if not found and layout.alpha is not AlphaPlace.TENSOR:
        return
    for module, tensors in modules.items():
        if module in found and found[module] > 0 and found[module] < math.inf:
            continue
        rank = rank_of(tensors)
        if rank is None or R.SCALE in tensors:
            continue
        if module in found:
            yield _odd_alpha(".".join(module), rank, found[module])
        elif R.ALPHA not in tensors:
            yield _no_alpha(".".join(module), rank, some_have=bool(found))


def _no_alpha(where: str, rank: int, *, some_have: bool) -> Problem:
    diffusers = "the commonest alpha of the file over rank in diffusers ≤ 0.42" if some_have else "and in diffusers too"
    others = "though other modules have one" if some_have else "nor in any module"
    return warning("missing-alpha", where,
                   f"no alpha here, {others}: strength 1 in Kohya, A1111, ComfyUI and InvokeAI; {diffusers}",
                   f"adapterhub convert writes alpha = {rank}, which is strength 1 everywhere.")  # fmt: skip


def _odd_alpha(where: str, rank: int, alpha: float) -> Problem:
    if not math.isfinite(alpha):
        return error("alpha-not-finite", where, f"alpha is {alpha}", f"Set it to {rank} for strength 1.")
    if alpha == 0:
        return warning("alpha-zero", where, "alpha is 0: A1111 and ComfyUI apply nothing, trainers read it as the rank",
                       f"If it should act, alpha = {rank} is strength 1.")  # fmt: skip
    return warning("alpha-negative", where, f"alpha is {alpha:.6g}: diffusers' converter never returns from it",
                   "adapterhub convert --to diffusers writes it where diffusers reads it as it is.")  # fmt: skip


def grouped(problems: Iterable[Problem]) -> list[Problem]:
    """Problems in their order, but one for all modules where more than 8 have the same: the first, with their count.

    Keys that nothing explains are listed each.
    """
    problems = list(problems)
    counted = Counter(problem.code for problem in problems)
    found: dict[str, Problem] = {}
    for place, problem in enumerate(problems):
        count = counted[problem.code]
        if count <= _MANY or problem.code in _OF_KEYS:
            found[f"{problem.code} {place}"] = problem
        else:
            said = f"{problem.message} (and {count - 1} more like it)"
            found.setdefault(problem.code, problem.model_copy(update={"message": said}))
    return list(found.values())


_MANY = 8
_NUMBERS = FLOATS | {"BOOL", "I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64"}
_OF_KEYS = frozenset({"unknown-key", "duplicate-module"})


def error(code: str, where: str, message: str, mend: str | None = None) -> Problem:
    return Problem(severity="error", code=code, where=where, message=message, mend=mend)


def warning(code: str, where: str, message: str, mend: str | None = None) -> Problem:
    return Problem(severity="warning", code=code, where=where, message=message, mend=mend)
