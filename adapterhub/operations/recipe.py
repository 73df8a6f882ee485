"""The recipe of a file: the command that wrote it, with what, and of what. It stands in the file's metadata and in the registry, so
that a file tells where it came from, and can be made again.

Inputs are named without their folders, for files travel and folders are private; digests say which they were.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import wraps
from importlib.metadata import version
from pathlib import Path
from typing import Any, ParamSpec

import adapterhub.layouts as layouts
from adapterhub import files
from adapterhub.documents import Conversion, Ingredient, Recipe
from adapterhub.errors import AdapterhubError
from adapterhub.files import DIGEST, SAFETENSORS, Package
from adapterhub.metadata import utf8
from adapterhub.operations.digests import digest_of

P = ParamSpec("P")

FIELD = "adapterhub.recipe"
"""The metadata field."""
TRAINED = "adapterhub.training"
"""The metadata field that tells of the settings, the data and the losses of a training."""
INPUT = "input"
"""The key of what stands in parameters in place of an input's path: its number."""
MARKED = 64 << 20
"""Bytes of an adapter above which its fingerprint is left to the registry: it takes longer than most conversions."""
HASHED = 1 << 30
"""Bytes of an input above which it is hashed only where digests are asked for: it takes longer than a copy."""
_NOT_THE_RESULT = frozenset({"target", "dry_run", "force", "check", "digests", "verify"})
"""Arguments that change nothing in what is written."""


@dataclass
class Making:
    """One call of a command, and what its inputs turn out to be."""

    command: str
    parameters: Mapping[str, Any]
    inputs: list[Path]
    checked: bool
    told: bool
    output: str
    known: Recipe | None = field(default=None, init=False)
    zeros: Recipe | None = field(default=None, init=False)

    def recipe(self) -> Recipe:
        """With digests of the inputs, so far as these are asked for or cost little."""
        if self.known is None:
            self.known = self.of([self._ingredient(path) for path in self.inputs])
        return self.known

    def draft(self) -> Recipe:
        """The recipe at its final length, with zeros for the digests."""
        if self.zeros is None:
            self.zeros = self.of([self._ingredient(path, draft=True) for path in self.inputs])
        return self.zeros

    def of(self, inputs: list[Ingredient], parameters: Mapping[str, Any] | None = None) -> Recipe:
        """The recipe with these inputs and, if they say more than the arguments, these parameters."""
        given = dict(self.parameters if parameters is None else parameters)
        return Recipe(
            command=self.command, version=version("adapterhub"), parameters=given, inputs=inputs, output=self.output
        )

    def _ingredient(self, path: Path, *, draft: bool = False) -> Ingredient:
        name = named(path)
        if not self.checked:
            return Ingredient(name=name)
        try:
            with files.read(path, variant=self._variant(), strict=False) as package:
                hashed = self.told or package.size <= HASHED
                marked = package.size <= MARKED
                if draft:
                    return Ingredient(
                        name=name, sha256=DIGEST if hashed else None, fingerprint=DIGEST if marked else None
                    )
                return Ingredient(name=name, sha256=digest_of(package) if hashed else None,
                                  fingerprint=_fingerprint(package) if marked else None)  # fmt: skip
        except AdapterhubError:  # no model: a picture, a folder of tokenizers
            digest = (DIGEST if draft else files.sha256(path)) if path.is_file() else None
            return Ingredient(name=name, sha256=digest)

    def _variant(self) -> str | None:
        """The variant that was asked for, of whatever folder has it."""
        asked = self.parameters.get("variant")
        return asked if isinstance(asked, str) else None


def _fingerprint(package: Package) -> str:
    """Zeros where there is none, because what was left room for is written."""
    from adapterhub.fingerprint import fingerprint

    reading = layouts.identify(package).decode(package)
    return DIGEST if reading is None else fingerprint(reading.adapter)


def named(path: Path) -> str:
    """A file's own name, which tells nothing of its folders."""
    name = path.resolve().name if path.name in ("", "..") else path.name
    return utf8(name)


_CURRENT: ContextVar[Making | None] = ContextVar("making", default=None)
_RESPELLED: ContextVar[bool] = ContextVar("respelled", default=False)


@contextmanager
def respelled() -> Iterator[None]:
    """Commands inside leave a file the recipe that it has: they spell what one command made in one more way."""
    token = _RESPELLED.set(True)
    try:
        yield
    finally:
        _RESPELLED.reset(token)


def recorded(command: str, *inputs: str) -> Callable[[Callable[P, Conversion]], Callable[P, Conversion]]:
    """A function that writes a file: what it is called with is the file's recipe; the arguments `inputs` are paths that it reads."""

    def decorate(function: Callable[P, Conversion]) -> Callable[P, Conversion]:
        signature = inspect.signature(function)

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> Conversion:
            if _CURRENT.get() is not None or _RESPELLED.get():  # a command that calls another
                return function(*args, **kwargs)
            making = _making(command, signature.bind(*args, **kwargs), signature, inputs)
            token = _CURRENT.set(making)
            try:
                done = function(*args, **kwargs)
            finally:
                _CURRENT.reset(token)
            return done if done.dry_run else done.model_copy(update={"recipe": making.recipe()})

        return call

    return decorate


def _making(
    command: str, bound: inspect.BoundArguments, signature: inspect.Signature, inputs: Collection[str]
) -> Making:
    given: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        parameter = signature.parameters[name]
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            given |= {option: asked for option, asked in value.items() if asked not in (None, False)}
        elif parameter.kind is inspect.Parameter.VAR_POSITIONAL or value != parameter.default:
            given[name] = value
    paths: list[Path] = []
    parameters = {
        name: _told(value, paths if name in inputs else None)
        for name, value in given.items()
        if name not in _NOT_THE_RESULT
    }
    output = output_name(str(bound.arguments["target"]))
    return Making(command, parameters, paths, given.get("check", True), given.get("digests", True), output)


def output_name(target: str) -> str:
    """The name of what is written, with a slash for a folder."""
    return named(Path(target)) + ("/" if target.endswith("/") or Path(target).is_dir() else "")


def _told(value: Any, paths: list[Path] | None) -> Any:
    """A value as JSON has it; in an argument that is read, every path as the number of the input."""
    if isinstance(value, list | tuple):
        return [_told(one, paths) for one in value]
    if isinstance(value, Mapping):
        return {str(name): _told(one, paths) for name, one in value.items()}
    if isinstance(value, Path | str) and paths is not None:
        paths.append(Path(value))
        return {INPUT: len(paths) - 1}
    return str(value) if isinstance(value, Path) else value


def tell(inputs: list[Ingredient], parameters: Mapping[str, Any] | None = None) -> Recipe | None:
    """Says what the running command reads, where that is known already, and with what it can be repeated, where its arguments
    do not say that. Gives its recipe; None where no command runs.
    """
    making = _CURRENT.get()
    if making is None:
        return None
    making.known = making.of(inputs, parameters)
    return making.known


@contextmanager
def written_into(package: Package) -> Iterator[Package]:
    """The package with the recipe in the metadata of its first file, where that is safetensors; digests are computed beside."""
    making, told = _CURRENT.get(), drafted(package)
    if making is None or told is package:
        yield package
        return
    with ThreadPoolExecutor(1) as beside:
        found = beside.submit(making.recipe)
        name, file = next((name, file) for name, file in told.files.items() if file is not package.files[name])
        first = replace(file, late=lambda: {FIELD: as_text(found.result())})
        yield replace(told, files={**told.files, name: first})


def drafted(package: Package) -> Package:
    """The package with the recipe's draft in its place; itself where it is to have none."""
    making = _CURRENT.get()
    first = next(
        (name for name, file in package.files.items() if file.container == SAFETENSORS and name != files.ASIDE_FILE),
        None,
    )
    if making is None or first is None:
        return package
    file = package.files[first]
    told = replace(file, metadata={**file.metadata, FIELD: as_text(making.draft())})
    return replace(package, files={**package.files, first: told})


def as_text(recipe: Recipe) -> str:
    """The recipe as metadata holds it: without the name of the file, so that a recipe makes the same bytes under any."""
    return json.dumps(recipe.model_dump(exclude_none=True, exclude={"output"}, mode="json"), ensure_ascii=True)
