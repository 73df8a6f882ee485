"""What is wrong with an adapter by its header and its alphas: keys, pairs, ranks, shapes. Other values: `values.py`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress

import adapterhub.architectures as architectures
from adapterhub.adapter import Module, Role, Roles
from adapterhub.algorithms import rank_of
from adapterhub.documents import Problem
from adapterhub.errors import NeedsDownload
from adapterhub.files import Package, items
from adapterhub.layouts.base import Reading
from adapterhub.layouts.identity import Identity
from adapterhub.layouts.lora.identity import told_architecture
from adapterhub.layouts.lora.peft_config import changed_bases
from adapterhub.layouts.lora.placing import AlphaPlace, Fit, LoraLayout
from adapterhub.layouts.wrappers import TITLES
from adapterhub.operations.lora.module_faults import is_number, is_plain, module_faults
from adapterhub.operations.problems import error, warning
from adapterhub.tensors import LazyTensor, item

R = Role
_ALPHA = R.ALPHA  # see algorithms.py

# Spellings that are read although nobody should write them, and what is odd about each.
_ODD = {
    "text-model-missing": "CLIP names as transformers ≥ 5.6 has them, without `text_model.`, which most tools do not read",
    "to-out-without-index": "`to_out` without its index, which most tools do not read",
    "trailing-underscore": "a trailing underscore behind the module's name",
    "processor-name": "the name of an attention processor instead of a module's",
    "lycoris-prefix": "the prefix of the LyCORIS wrapper, which only ComfyUI reads",
    "oft-prefix": "the prefix of Kohya's OFT, which only Kohya reads",
    "doubled-prefix": "a doubled prefix, the mark of a broken converter; no tool reads it",
    "double-underscore": "a doubled underscore behind the prefix",
    "first-encoder-numbered": "the number of SDXL's first text encoder where there is only one",
    "second-encoder-numbered": "the number of SDXL's second text encoder where there is only one",
    "first-encoder-unnumbered": "SD 1's prefix for SDXL's first text encoder",
    "ldm-names": "original (LDM) names where the layout has diffusers' names",
    "no-transformer-level": "ComfyUI's text encoder names without `transformer.`",
    "model-prefix": "a checkpoint's prefix before the module",
    **TITLES,
    "adapter-name": "the name of an adapter inside the key, as a raw state dict has it",
    "undotted-suffix": "an underscore instead of a dot before `lora_down` or `lora_up`",
}
_MEND = "adapterhub convert writes the usual names."


def faults(package: Package, identity: Identity, reading: Reading, *, plain: bool) -> Iterator[Problem]:
    """Every problem that the header tells, errors first where they concern the whole file. `plain` says that no module has a
    fault of its own.
    """
    fit = identity.fit
    assert fit is not None
    yield from _whole(package, identity, fit)
    yield from _mended(fit)
    if plain:
        return
    for module, tensors in reading.modules.items():
        if not is_plain(tensors):
            yield from module_faults(module, tensors)


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
        yield warning(code, places[0], f"{_ODD[code]} ({len(places)} keys)", _MEND)


def alphas(modules: Mapping[Module, Roles]) -> dict[Module, float]:
    """The alpha of every module that has one, as far as they can be had. These few bytes are read."""
    stored = {
        module: alpha
        for module, tensors in modules.items()
        if (alpha := tensors.get(_ALPHA)) is not None and is_number(alpha)
    }
    try:
        return dict(zip(stored, items(stored.values()), strict=True))
    except NeedsDownload:  # of a remote file whose alphas lie too far apart, which is a problem told of it
        return dict(_at_hand(stored))


def _at_hand(stored: Mapping[Module, LazyTensor]) -> Iterator[tuple[Module, float]]:
    for module, alpha in stored.items():
        with suppress(NeedsDownload):
            yield module, item(alpha)


def alpha_faults(
    layout: LoraLayout, modules: Mapping[Module, Roles], found: Mapping[Module, float]
) -> Iterator[Problem]:
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
