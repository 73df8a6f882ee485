"""A trained model onto the disk: the base's own files, byte for byte, with the trained weights in the place of the old ones.

Whole or not at all: a folder is made beside its place and renamed, and whatever else is asked for is made of it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from adapterhub import files
from adapterhub.documents import DreamBoothSettings, Target
from adapterhub.errors import UsageError
from adapterhub.files import ASIDE_FILE, File, Package, publishing
from adapterhub.files.beside import inside
from adapterhub.files.source import machine
from adapterhub.layouts.checkpoint import diffusers
from adapterhub.layouts.checkpoint.aside import extra_of
from adapterhub.operations.casting import Tally, as_dtype
from adapterhub.operations.convert import convert
from adapterhub.operations.lora.extract import extract
from adapterhub.operations.problems import warning
from adapterhub.operations.recipe import respelled
from adapterhub.operations.wish import DTYPES
from adapterhub.tensors import LazyTensor
from adapterhub.train.results import Made, metadata
from adapterhub.train.samples import scheduling

INDEX, SCHEDULER = "model_index.json", "scheduler/scheduler_config.json"
_STALE = frozenset({"ema", "optimizer", "training"})
"""Classes of what a base keeps aside that are of its own training, and not true after another."""
_NEAREST = {"F64": "F32", "F8_E4M3": "F16", "F8_E5M2": "F16"}
"""What is written where the base has weights in a dtype that results are not rounded to."""


def ensure_free(settings: DreamBoothSettings) -> None:
    """UsageError where something that is no model lies where the trained one is to go."""
    folder = Path(settings.output).resolve()
    if (place := folder / folder.name).exists() and not (place / INDEX).is_file():
        raise UsageError(f"{place} is no model, and is not replaced by one", mend="Give another output folder.")


def ensure_own(folder: Path) -> None:
    """MalformedFile where something of the base that is to be copied is a link out of it."""
    for path in _untouched(folder, ()):
        inside(folder, str(path), folder)


def written(made: Made, package: Package) -> tuple[Made, list[Target]]:
    """Writes the model of `made` in its layouts and, if a rank is given, what it learned as a LoRA; `package` is its base's
    folder. Gives `made` with what there is to tell of casts, and what was written.
    """
    settings: DreamBoothSettings = made.loop.settings  # type: ignore[assignment] # those of this trainer
    tally, casts = Tally(), Counter[str]()
    trained = _trained(made, package, lambda now, before: _rounded(now, before, settings.dtype, tally, casts))
    targets: list[Target] = []
    with _place(made) as folder:
        _write_folder(folder, trained, made, package)
        if "diffusers" in made.layouts:
            targets.append(Target(path=str(folder), sha256=None, layout="diffusers"))
        if "single-file" in made.layouts:
            targets.append(_respelled(folder, made.folder / made.name("single-file")))
        if settings.extract_rank is not None:
            targets.append(_extracted(folder, made, settings.extract_rank))
    told = [warning("cast", "", f"{count} tensors that were trained in F32 are rounded to {dtype}", "--dtype fp32 keeps them.")
            for dtype, count in casts.items()]  # fmt: skip
    return replace(made, problems=[*made.problems, *told, *tally.problems()]), targets


def _trained(
    made: Made, package: Package, as_stored: Callable[[LazyTensor, LazyTensor], LazyTensor]
) -> dict[str, File]:
    """The files of the components that were trained; their tensors have the names that the base has there."""
    reading = diffusers.LAYOUT.decode(package)
    now, before = made.adapter.tensors, reading.adapter.tensors
    components = {held.component for held in now if now[held] is not before[held]}
    found: dict[str, dict[str, LazyTensor]] = {diffusers.FILES[component]: {} for component in components}
    for held, place in reading.places.items():
        file, _, name = place.partition(":")
        if (component := file.partition("/")[0]) in components:
            same = now[held] is before[held]
            found[diffusers.FILES[component]][name] = now[held] if same else as_stored(now[held], before[held])
    return {name: File(tensors, {"format": "pt"}) for name, tensors in found.items()}


def _rounded(now: LazyTensor, before: LazyTensor, dtype: str | None, tally: Tally, casts: Counter[str]) -> LazyTensor:
    """A trained tensor in `dtype`, or in that of the base."""
    wanted = DTYPES[dtype] if dtype else _NEAREST.get(before.dtype, before.dtype)
    if wanted == now.dtype:
        return now
    casts[wanted] += 1
    return as_dtype(now, wanted, tally)


@contextmanager
def _place(made: Made) -> Iterator[Path]:
    """Where the folder goes; where it is only wanted for what is made of it, it is gone afterwards."""
    place = made.folder / made.folder.resolve().name
    if "diffusers" in made.layouts:
        yield place
    else:
        with publishing.unpublished_folder(place) as (temporary, _):
            yield temporary / place.name


def _write_folder(folder: Path, trained: dict[str, File], made: Made, package: Package) -> None:
    aside = package.files[ASIDE_FILE].tensors if ASIDE_FILE in package.files else {}
    kept = {name: tensor for name, tensor in aside.items() if extra_of(name).name not in _STALE}
    with publishing.unpublished_folder(folder) as (temporary, _), machine("write", folder):
        for path in _untouched(made.loop.base.folder, trained):
            _copy(inside(made.loop.base.folder, str(path), made.loop.base.folder), temporary / path)
        if told := scheduling(made.loop.settings):
            config = json.loads((temporary / SCHEDULER).read_text("utf-8"))
            (temporary / SCHEDULER).write_text(json.dumps(config | told, indent=2) + "\n", "utf-8")
        for name, file in {**trained, ASIDE_FILE: File(kept, metadata(made))}.items():
            files.write(Package.new({Path(name).name: file}), temporary / name)
        publishing.publish_folder(temporary, folder, force=True)


def _untouched(folder: Path, trained: Collection[str]) -> Iterator[Path]:
    """What of a base's folder is copied: its index and all of the parts that this names, but weights that are trained anew."""
    index = json.loads((folder / INDEX).read_text("utf-8"))
    changed = {name.partition("/")[0] for name in trained}
    yield Path(INDEX)
    for part in (name for name, value in index.items() if isinstance(value, list) and any(value)):
        for path in sorted((folder / part).rglob("*")):
            weights = path.suffix != ".json" or path.name.endswith(".index.json")
            if path.is_file() and not (part in changed and weights):
                yield path.relative_to(folder)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as read, target.open("xb") as write:
        shutil.copyfileobj(read, write, 1 << 20)
        write.flush()
        os.fsync(write.fileno())


def _respelled(folder: Path, path: Path) -> Target:
    with respelled():
        return convert(folder, path, to="single-file", force=True).target


def _extracted(folder: Path, made: Made, rank: int) -> Target:
    base = Path(made.loop.settings.base)
    path = made.folder / f"{made.folder.resolve().name}-lora.safetensors"
    return extract(folder, base if base.exists() else made.loop.base.folder, path, rank=rank, force=True).target
