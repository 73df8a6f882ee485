"""An adapter opened for work: read, identified, decoded, and refused if it contradicts itself."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import adapterhub.architectures as architectures
import adapterhub.layouts as layouts
from adapterhub import files
from adapterhub.adapter import Adapter, Kind
from adapterhub.documents import Problem
from adapterhub.errors import BrokenAdapter, LossyConversion, NotAnAdapter
from adapterhub.files import Package
from adapterhub.files.directories import PIPELINE
from adapterhub.layouts.base import Layout, Reading
from adapterhub.layouts.identity import Identity
from adapterhub.operations import work
from adapterhub.operations.problems import error, grouped

# What leaving something out can mend; every other error leaves nothing to work on.
_DROPPABLE = {"unknown-key", "missing-pair", "orphan-key", "shape-mismatch", "missing-weights"}


@dataclass(frozen=True)
class Source:
    """`reading` is whole; `dropped` are places left out because --allow-loss said so, or because they stand beside the weights,
    each with the reason; what else is opened on the `stack` closes with it.
    """

    package: Package
    identity: Identity
    reading: Reading
    problems: tuple[Problem, ...]
    dropped: tuple[tuple[str, str], ...] = ()
    stack: ExitStack = field(default_factory=ExitStack)

    @property
    def adapter(self) -> Adapter:
        return self.reading.adapter

    @property
    def layout(self) -> Layout:
        """The layout that it was read in, though some of its keys may have been left out."""
        found = self.identity.whole or self.identity.fit
        assert found is not None
        return found.layout


@contextmanager
def open_adapter(
    given: Path | Package,
    *,
    architecture: str | None = None,
    variant: str | None = None,
    strict: bool = True,
    allow_loss: bool = False,
    kinds: Collection[Kind] = layouts.KINDS,
    forgiven: Collection[str] = (),
) -> Iterator[Source]:
    """The adapter at a path (see `files.read`) or in an opened package, of one of `kinds`; a file that changes while it is open is refused at
    the end. Problems whose code is in `forgiven` do not count: who opens it mends them.
    """
    with files.opened(given, variant, strict=strict) as package:
        identity = layouts.identify(package, architecture=architecture)
        reading = identity.decode(package)
        if reading is None or identity.kind not in kinds:
            raise _not_one(package, identity, kinds)
        _, problems = work.of(identity.kind).examine(package, identity, reading)
        counted = grouped(problem for problem in problems if problem.code not in forgiven)
        beside = tuple((place, work.BESIDE) for place in package.beside)
        source = _checked(Source(package, identity, reading, tuple(counted), beside), allow_loss)
        with source.stack:
            yield source
        package.ensure_unchanged()


def _not_one(package: Package, identity: Identity, kinds: Collection[Kind]) -> NotAnAdapter:
    path, wanted = package.path, " or ".join(map(titled, kinds))
    if identity.foreign is not None and identity.foreign.kind in kinds:
        known = ", ".join(architectures.get(name).title for name in architectures.NAMES)
        return NotAnAdapter(f"{path}: {identity.foreign.title}{_pipeline(package)}, which is not supported: of no architecture "
                            "that adapterhub knows", mend=f"It works on {known}.")  # fmt: skip
    if identity.foreign is not None:
        return NotAnAdapter(f"{path}: {identity.foreign.title}, and not {wanted}")
    if identity.kind in layouts.KINDS and identity.kind not in kinds:
        return NotAnAdapter(f"{path}: {titled(identity.kind)}, and not {wanted}")
    return NotAnAdapter(f"{path}: no layout explains its keys", mend="adapterhub inspect --tensors lists them.")


def _pipeline(package: Package) -> str:
    """Which pipeline a folder is for, and what it is made of."""
    index = package.documents.get(PIPELINE)
    if not isinstance(index, dict):
        return ""
    parts = ", ".join(dict.fromkeys(name.partition("/")[0] for name in package.files if "/" in name))
    return f" for {index.get('_class_name', 'a pipeline')} ({parts})"


def titled(kind: Kind) -> str:
    """A file of a kind, for people."""
    if kind is Kind.UNKNOWN:
        return "a file of no known kind"
    return "a LoRA" if kind is Kind.LORA else f"an {kind}" if kind is Kind.EMBEDDING else f"a {kind}"


def _checked(source: Source, allow_loss: bool) -> Source:
    """The source without its broken parts, if those may go; refused if not."""
    errors = [problem for problem in source.problems if problem.severity == "error"]
    hopeless = [problem for problem in errors if problem.code not in _DROPPABLE]
    if hopeless or (errors and _only_broken(errors) and not allow_loss):
        first = (hopeless or errors)[0]
        raise BrokenAdapter(
            f"{source.package.path}: {first.where + ': ' if first.where else ''}{first.message}"
            + (f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""),
            [problem.where for problem in errors],
            mend=first.mend or "adapterhub validate lists everything.",
        )
    if not errors:
        return source
    if not allow_loss:
        unknown = [(problem.where, problem.message) for problem in errors]
        raise LossyConversion(
            f"{source.package.path}: {len(unknown)} keys would be lost, the first being {unknown[0][0]}",
            unknown, mend="--allow-loss leaves them out and lists them.",
        )  # fmt: skip
    return _without(source, errors)


def _only_broken(errors: list[Problem]) -> bool:
    """Whether something other than unknown keys is wrong: the adapter itself is damaged."""
    return any(problem.code != "unknown-key" for problem in errors)


def _without(source: Source, errors: list[Problem]) -> Source:
    broken = {problem.where: problem.message for problem in errors if problem.code != "unknown-key"}
    dropped = [(problem.where, problem.message) for problem in errors if problem.code == "unknown-key"]
    reading = source.reading
    gone = [module for module in reading.modules if ".".join(module) in broken]
    dropped += [(name, broken[".".join(module)]) for module in gone for name in reading.names[module].values()]
    kept = {module: roles for module, roles in reading.modules.items() if module not in gone}
    names = {module: named for module, named in reading.names.items() if module not in gone}
    return replace(source, reading=replace(reading, modules=kept, names=names), dropped=(*source.dropped, *dropped))


def decoded(package: Package, identity: Identity) -> tuple[Reading | None, list[Problem]]:
    """The adapter in a package; None, and what is wrong, where the config or metadata that it takes cannot be read."""
    try:
        return identity.decode(package), []
    except BrokenAdapter as fault:
        return None, [error("configuration", ", ".join(fault.places), fault.message, fault.mend)]


def warnings_of(package: Package) -> list[Problem]:
    """What was odd about the container."""
    return [
        Problem(severity="warning", code=found.code, where=found.where, message=found.message)
        for found in package.problems
    ]
