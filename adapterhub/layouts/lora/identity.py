"""Which layout and architecture a LoRA is in: every layout is asked what it explains; metadata only breaks ties."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import adapterhub.architectures as architectures
import adapterhub.metadata as metadata
from adapterhub.adapter import Kind
from adapterhub.files import Package
from adapterhub.layouts.foreign import family_of
from adapterhub.layouts.identity import Identity
from adapterhub.layouts.lora.placing import Fit, LoraLayout
from adapterhub.layouts.lora.spelled import Spelled, split

# A layout that explains less than this share of the keys does not say what the file is.
_NEAREST = 0.5


def identify(package: Package, layouts: Sequence[LoraLayout], *, architecture: str | None = None) -> Identity:
    """The kind, layout and architecture of `package`; `architecture` narrows the choice to one."""
    names = (architecture,) if architecture else architectures.NAMES
    spelled = {name: split(file.tensors) for name, file in package.files.items()}
    strict = _fits(package, spelled, layouts, names, lenient=False)
    fewest = min((len(fit.misfits) for fit in strict), default=None)
    if fewest == 0:
        return _chosen(package, strict, spelled)
    foreign = family_of(name for file in package.files.values() for name in file.tensors)
    if foreign is not None and not strict:
        return Identity(foreign.kind, foreign=foreign, spelled=spelled)
    if not any(source.heads or source.unsplit for source in spelled.values()):
        return Identity(Kind.UNKNOWN, spelled=spelled)
    spelled = {name: source.unwrap() for name, source in spelled.items()}
    fits = _fits(package, spelled, layouts, names, lenient=True)
    whole = [fit for fit in fits if not fit.unplaced and (fewest is None or len(fit.misfits) < fewest)]
    if whole or strict:
        return _chosen(package, whole or strict, spelled)
    return _nearest(package, fits, spelled)


def _fits(
    package: Package,
    spelled: Mapping[str, Spelled],
    layouts: Iterable[LoraLayout],
    names: Iterable[str],
    *,
    lenient: bool,
) -> list[Fit]:
    """What each layout explains. Of those that explain all of an architecture the first is enough: a suffix means one
    role everywhere, so they decode to the same keys.
    """
    found = []
    for name in names:
        for layout in layouts:
            fit = layout.explains(package, spelled, architectures.get(name), lenient=lenient)
            if fit is not None and fit.heads:
                found.append(fit)
                if not lenient:
                    break
    return found


def _chosen(package: Package, fits: list[Fit], spelled: Mapping[str, Spelled]) -> Identity:
    """The fit with the fewest wrong shapes and odd spellings; among equals what metadata says, then the first."""
    fits = _fewest(fits, lambda fit: len(fit.misfits))
    if len({fit.architecture for fit in fits}) > 1:
        fits = _fewest(fits, lambda fit: fit.bent)
    candidates = list(dict.fromkeys(fit.architecture for fit in fits))
    vote = told_architecture(package)
    chosen = vote if vote in candidates else candidates[0]
    also = tuple(name for name in candidates if name != chosen) if vote not in candidates else ()
    mine = [fit for fit in fits if fit.architecture == chosen]
    best = min(mine, key=lambda fit: (len(fit.mended), _told_layout(package) != fit.layout.name))
    evidence = (*best.evidence, *([f"metadata: {chosen}"] if vote == chosen and len(candidates) > 1 else []))
    return Identity(best.layout.kind, best, also=also, evidence=evidence, spelled=spelled)


def _fewest(fits: list[Fit], count: Callable[[Fit], int]) -> list[Fit]:
    counts = [count(fit) for fit in fits]
    return [fit for fit, number in zip(fits, counts, strict=True) if number == min(counts)]


def _nearest(package: Package, fits: list[Fit], spelled: Mapping[str, Spelled]) -> Identity:
    """Nothing explains all of it: the layout that explains most, if that is half, and what else it is mixed with."""
    total = sum(len(file.tensors) for file in package.files.values())
    if not fits:
        return Identity(Kind.UNKNOWN, spelled=spelled)
    best = min(fits, key=lambda fit: (len(fit.unplaced), len(fit.misfits), len(fit.mended)))
    if len(best.unplaced) > _NEAREST * total:
        return Identity(Kind.UNKNOWN, spelled=spelled)
    left = set(best.unplaced)
    mixed = {fit.architecture for fit in fits if left & (_placed(fit) - _wrong(fit))}
    both = (best.architecture, *sorted(mixed - {best.architecture})) if mixed - {best.architecture} else ()
    return Identity(best.layout.kind, best, mixed=both, evidence=best.evidence, spelled=spelled)


def _placed(fit: Fit) -> set[str]:
    return {
        name
        for file, heads in fit.files.items()
        for head in heads
        for name in fit.spelled[file].heads[head].values()
    } - set(fit.unplaced)  # fmt: skip


def _wrong(fit: Fit) -> set[str]:
    misfits = set(fit.misfits)
    return {
        name
        for file, heads in fit.files.items()
        for head, module in heads.items()
        if module in misfits
        for name in fit.spelled[file].heads[head].values()
    }


def _told_layout(package: Package) -> str | None:
    """OMI marks its files, and nothing else does."""
    return "omi" if any(file.metadata.get("ot_branch") == "omi_format" for file in package.files.values()) else None


def told_architecture(package: Package) -> str | None:
    """The architecture that the metadata of a file of the package claims."""
    return next((name for file in package.files.values() if (name := metadata.claimed(file.metadata))), None)
