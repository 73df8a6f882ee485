"""What is wrong with a whole model by its names, shapes and dtypes; its values: `values.py`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import adapterhub.architectures as architectures
from adapterhub.adapter import Role
from adapterhub.documents import Problem
from adapterhub.files import Package
from adapterhub.layouts.base import Reading
from adapterhub.layouts.checkpoint.aside import ASIDE, POSITIONS, extra_of, weights_of
from adapterhub.layouts.checkpoint.bare import bare
from adapterhub.layouts.checkpoint.mixture import mixture
from adapterhub.layouts.checkpoint.places import stacks
from adapterhub.layouts.checkpoint.scoring import TOKENS, lengthened, misfits
from adapterhub.layouts.identity import Identity
from adapterhub.layouts.wrappers import TITLES
from adapterhub.metadata import claimed
from adapterhub.operations.checkpoint import scaled
from adapterhub.operations.problems import error, warning
from adapterhub.tensors import LazyTensor

_OTHER_WIDTHS = 0.5
"""A model most of whose weights have other shapes is a smaller one with the same names; fewer, and some are wrong."""
_SHOWN = 3
_MIXED = "mixed-architectures"
_OF_MIXTURES = {"shape-mismatch", "missing-weights", "foreign-keys"}
"""What goes wrong where the components of a file are of several architectures."""


def faults(package: Package, identity: Identity, reading: Reading) -> Iterator[Problem]:
    """Every problem that the header tells."""
    wrong = [*_shapes(package, reading), *_dtypes(reading), *_gaps(reading)]
    beside = list(_beside(reading))
    yield from _mixed(package, [*wrong, *beside])
    yield from _wrapped(reading)
    yield from wrong
    yield from _longer(reading)
    yield from beside
    parts = {module.component for module in reading.modules} - {ASIDE}
    if identity.also and parts != {"vae"}:  # SD 1, 2 and XL have one and the same VAE by shape
        yield warning("ambiguous-architecture", "", f"the weights are those of {', '.join(identity.also)} as well; taken as {identity.architecture}")  # fmt: skip
    told = claimed(reading.metadata)
    if told is not None and told != reading.architecture:
        title = architectures.get(reading.architecture).title
        yield warning("metadata-contradicts", "metadata", f"claims {told}, and the weights are those of {title}",
                      "The weights count; convert writes metadata that agrees.")  # fmt: skip


def _mixed(package: Package, found: Sequence[Problem]) -> Iterator[Problem]:
    """Components of several architectures in a single file in which something was `found` that this explains."""
    if len(package.files) != 1 or not any(problem.code in _OF_MIXTURES for problem in found):
        return
    if parts := mixture(bare(package).package.only.tensors):
        titles = {head: " or ".join(architectures.get(name).title for name in names)
                  for head, names in parts.items() if len(names) < len(architectures.NAMES)}  # fmt: skip
        told = ", ".join(f"{head}* of {title}" for head, title in titles.items())
        broken = any(problem.severity == "error" for problem in found)
        yield (error if broken else warning)(_MIXED, "", f"components of several models in one file: {told}",
                                             "Get the original files: each component has to be of one model.")  # fmt: skip


def _wrapped(reading: Reading) -> Iterator[Problem]:
    """Names of a model that was saved inside a wrapper of torch."""
    for code, count in Counter(reading.mended.values()).items():
        place = next(place for place, why in reading.mended.items() if why == code)
        yield warning(code, place, f"{TITLES[code]}, with which no program knows a weight ({count} tensors)",
                      "adapterhub convert writes the usual names.")  # fmt: skip


def _shapes(package: Package, reading: Reading) -> Iterator[Problem]:
    tensors = reading.adapter.tensors
    wrong = list(misfits(tensors, reading.architecture))
    title = architectures.get(reading.architecture).title
    if len(wrong) > _OTHER_WIDTHS * len(weights_of(tensors)):
        configured = any(name.rpartition("/")[2] == "config.json" for name in package.documents)
        yield warning("other-widths", "", f"the names are those of {title}, the shapes are not: a distilled or tiny model",
                      None if configured else "A folder needs its own configurations then: --config DIR.")  # fmt: skip
        yield from _uneven(reading)
        return
    for held, shape, expected in wrong:
        yield error("shape-mismatch", ".".join(held[:2]), f"{list(shape)}, where {title} has {list(expected)}",
                    "The file is damaged, or of a model that adapterhub does not know.")  # fmt: skip


def _longer(reading: Reading) -> Iterator[Problem]:
    """More tokens or positions than the architecture has: no damage."""
    for held, rows, usual in lengthened(reading.adapter.tensors, reading.architecture):
        where, more = ".".join(held[:2]), rows - usual
        if held.module == TOKENS:
            yield warning("tokens-added", where, f"{more} token{'s' if more > 1 else ''} added",
                          "A tokenizer that does not know them never uses them.")  # fmt: skip
        else:
            yield warning("more-positions", where, f"{rows} positions, where others have {usual}",
                          "Programs that do not know of them use the first ones.")  # fmt: skip


def _uneven(reading: Reading) -> Iterator[Problem]:
    """Of a model of any widths, projections that cannot stand in one tensor."""
    for where, shape, usual in _odd(reading, lambda tensor: str(list(tensor.shape))):
        yield error("shape-mismatch", where, f"{shape}, where the projections beside it have {usual}",
                    "The file is damaged: get it again.")  # fmt: skip


def _dtypes(reading: Reading) -> Iterator[Problem]:
    for where, dtype, usual in _odd(reading, lambda tensor: tensor.dtype):
        yield warning("mixed-dtypes", where, f"{dtype}, where the projections beside it, one tensor with it in a single file, are {usual}",
                      "adapterhub convert --dtype gives them the same.")  # fmt: skip


def _odd(reading: Reading, told: Callable[[LazyTensor], str]) -> Iterator[tuple[str, str, str]]:
    """(module, what is `told` of it, what of most) of each part of a stack that is unlike most of it."""
    for _, parts in stacks(reading.adapter.tensors, reading.architecture):
        traits = {held: told(tensor) for held, tensor in parts.items()}
        ((usual, _),) = Counter(traits.values()).most_common(1)
        yield from ((".".join(held[:2]), trait, usual) for held, trait in traits.items() if trait != usual)


def _gaps(reading: Reading) -> Iterator[Problem]:
    """Components of which weights are missing."""
    model = architectures.get(reading.architecture)
    held = {(key.component, key.module, key.role) for key in reading.adapter.tensors}
    for component in dict.fromkeys(key.component for key in weights_of(reading.adapter.tensors)):
        names = [
            (path, Role.LAYER_WEIGHT if kind == "weight" else Role.LAYER_BIAS)
            for path, kind, _ in model.tensors(component)
        ]
        missing = [path for path, role in names if (component, path, role) not in held]
        if missing:
            yield error("missing-weights", component, f"{len(missing)} of {len(names)} tensors are missing: {', '.join(dict.fromkeys(missing[:_SHOWN]))} …",
                        "Get the file again.")  # fmt: skip


def _beside(reading: Reading) -> Iterator[Problem]:
    extras = {
        module.module: roles[Role.ASIDE] for module, roles in reading.modules.items() if module.component == ASIDE
    }
    counted = Counter(extra_of(name).name for name in extras)
    if strange := [name for name in extras if extra_of(name).name == "foreign"]:
        yield warning("foreign-keys", strange[0], f"{len(strange)} tensors that are no part of {reading.architecture}",
                      "They are kept; adapterhub inspect --tensors lists them.")  # fmt: skip
    if scales := scaled.scales(extras):
        yield warning("scaled-fp8", scales[0], scaled.told(scales[0]),
                      "Use it as it is, in a program that knows such models.")  # fmt: skip
    if leftovers := counted["ema"] + counted["optimizer"]:
        yield warning("leftovers", "", f"{leftovers} tensors of training that no image depends on",
                      "adapterhub convert --prune leaves them out.")  # fmt: skip
    for name, tensor in extras.items():
        if POSITIONS.fullmatch(name) and tensor.dtype != "I64":
            yield warning("position-ids", name, f"position ids as {tensor.dtype}: some readers then cut or shift prompts",
                          "adapterhub convert writes them as I64.")  # fmt: skip
