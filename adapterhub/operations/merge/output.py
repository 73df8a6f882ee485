"""The package of a merged model: the base's own files, names, order and documents, with other bytes where something changed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from adapterhub.adapter import Key
from adapterhub.files import ASIDE_FILE, DIRECTORY, SAFETENSORS, File, Package
from adapterhub.layouts.base import Encoded, Form
from adapterhub.layouts.checkpoint import single_file
from adapterhub.layouts.checkpoint.places import put_together
from adapterhub.metadata import HASHED
from adapterhub.operations.casting import Tally, as_dtype
from adapterhub.operations.checkpoint import folder
from adapterhub.operations.checkpoint.others import STEMS, Other
from adapterhub.operations.checkpoint.prediction import told_of
from adapterhub.operations.recipe import FIELD
from adapterhub.operations.source import Source
from adapterhub.operations.work import Request
from adapterhub.tensors import FLOATS, LazyTensor

_UNTRUE = HASHED | {"sshs_legacy_hash", FIELD}
"""Metadata that is about the base's own bytes, and how they came."""
_INDEX = "model_index.json"


def keys_by_place(opened: Source) -> dict[str, list[Key]]:
    """The keys that lie in each place of the base, in the order in which they are stacked there."""
    found: dict[str, list[Key]] = defaultdict(list)
    for key, place in opened.reading.places.items():
        found[place].append(key)
    return found


def ordered(opened: Source) -> list[Key]:
    """Every key in the order in which it will be written."""
    keys = keys_by_place(opened)
    several = len(opened.package.files) > 1
    return [key for name, file in opened.package.files.items() for tensor in file.tensors
            for key in keys.get(f"{name}:{tensor}" if several else tensor, ())]  # fmt: skip


def rebuilt(
    opened: Source, changed: Mapping[Key, LazyTensor], dtype: str | None, tally: Tally
) -> dict[str, dict[str, LazyTensor]]:
    """The tensors of every file of the base, by their names, with those that `changed`; the rest in `dtype`."""
    keys, several = keys_by_place(opened), len(opened.package.files) > 1
    made: dict[str, dict[str, LazyTensor]] = {}
    for name, file in opened.package.files.items():
        for tensor_name, tensor in file.tensors.items():
            held = keys.get(f"{name}:{tensor_name}" if several else tensor_name, [])
            made.setdefault(name, {})[tensor_name] = _tensor(opened, tensor, held, changed, _cast(dtype, held, tally))
        made.setdefault(name, {})
    return made


Cast = Callable[[LazyTensor], LazyTensor]


def _cast(dtype: str | None, held: list[Key], tally: Tally) -> Cast:
    """Weights are cast, what stands beside them is not."""

    def cast(tensor: LazyTensor) -> LazyTensor:
        aside = not held or held[0].component == "aside"
        if dtype is None or aside or tensor.dtype not in FLOATS or tensor.dtype == dtype:
            return tensor
        return as_dtype(tensor, dtype, tally)

    return cast


def _tensor(
    opened: Source, stored: LazyTensor, held: list[Key], changed: Mapping[Key, LazyTensor], cast: Cast
) -> LazyTensor:
    if changed.keys().isdisjoint(held):
        return cast(stored)
    adapter = opened.adapter
    parts = {key: changed[key] if key in changed else cast(adapter.tensors[key]) for key in held}
    if opened.layout is not single_file.LAYOUT:
        return parts[held[0]].reshape(*stored.shape)
    (whole,) = put_together(parts, adapter.architecture).values()
    return whole.reshape(*stored.shape)


def package(
    opened: Source, tensors: Mapping[str, Mapping[str, LazyTensor]], told: Mapping[str, str],
    late: Callable[[], Mapping[str, str]] | None, request: Request, beside: Sequence[Other] = (),
) -> Package:  # fmt: skip
    """What is written: `told` goes into the metadata of the single file, or of a folder's first file; `beside` are its other
    components.
    """
    made: dict[str, File] = {}
    beside_base = told_of(opened.adapter, request.source) if opened.layout is single_file.LAYOUT else {}
    telling = next(name for name in opened.package.files if name != ASIDE_FILE)
    for name, file in opened.package.files.items():
        fields = {field: text for field, text in file.metadata.items() if field not in _UNTRUE}
        made[_name(opened, name)] = File(
            tensors[name],
            {**beside_base, **fields, **told} if name == telling else fields,
            in_given_order=True,
            late=late if name == telling else None,
        )
    container = DIRECTORY if opened.package.container == DIRECTORY else SAFETENSORS
    package = Package.new(made, _documents(opened), container)
    if _INDEX in opened.package.documents:
        encoded, _ = folder.completed(Encoded(package, {}), opened.adapter, opened, request, beside)
        return replace(encoded.package, documents={**encoded.package.documents, **opened.package.documents})
    return package


def _documents(opened: Source) -> dict[str, object]:
    """Those of a folder without an index; what joined shards is not needed where these are one file."""
    return {name: document for name, document in opened.package.documents.items() if not name.endswith(".index.json")}


def _name(opened: Source, name: str) -> str:
    """What a file of the base is called in safetensors, as which every one is written; so that it is found, where it was a pickle
    in a folder.
    """
    path = PurePosixPath(name)
    stem, dot, variant = path.stem.partition(".")
    pickled = opened.package.container == DIRECTORY and opened.package.files[name].container != SAFETENSORS
    known = STEMS.get(stem, stem) if pickled else stem
    return str(path.with_name(f"{known}{dot}{variant}.safetensors"))


def place_of(opened: Source, place: str) -> str:
    """Where what lies in a place of the base will lie."""
    if len(opened.package.files) == 1:
        return place
    name, _, tensor = place.partition(":")
    return f"{_name(opened, name)}:{tensor}"


def request(opened: Source, dtype: str | None, allow_loss: bool, stem: str) -> Request:
    """What a folder is completed by: as if the base were converted into its own layout."""
    path = opened.package.path
    assert path is not None
    return replace(Request(path, opened.layout, Form(SAFETENSORS, stem)), dtype=dtype, allow_loss=allow_loss)
