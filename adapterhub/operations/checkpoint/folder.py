"""What makes a folder of weights a diffusers pipeline: configurations, scheduler, tokenizers, the index; and shards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import adapterhub.architectures as architectures
from adapterhub.adapter import Adapter
from adapterhub.architectures import pipeline
from adapterhub.documents import Problem
from adapterhub.errors import MalformedFile, UsageError
from adapterhub.files import ASIDE_FILE, DIRECTORY, File, Package
from adapterhub.files.directories import COMPONENTS, PIPELINE, pipeline_documents, stated
from adapterhub.files.tokenizer import BESIDE, CONFIG, TOKENIZERS, tokenizer_from
from adapterhub.layouts.base import Encoded
from adapterhub.layouts.checkpoint.aside import ASIDE
from adapterhub.layouts.checkpoint.scoring import POSITIONS, TOKENS, channels, lengthened
from adapterhub.operations.checkpoint import edm, vae
from adapterhub.operations.checkpoint.others import Other
from adapterhub.operations.checkpoint.prediction import variants
from adapterhub.operations.problems import warning
from adapterhub.operations.source import Source
from adapterhub.operations.work import Request
from adapterhub.tensors import LazyTensor

_CONFIG, _UNET = "config.json", "unet/config.json"
_LENGTHS = {TOKENS: "vocab_size", POSITIONS: "max_position_embeddings"}
_SAFETY, _CHECKER = "requires_safety_checker", "safety_checker"
_ORIGIN, _CHANNELS = "_name_or_path", "in_channels"
_KINDS = ("_class_name", "model_type")
"""Fields of a configuration that tell what it is of."""
_MAKE = ("use_linear_projection", "addition_embed_type")
"""Fields of a UNet's configuration that tell architectures from one another at any width."""


def completed(
    encoded: Encoded, adapter: Adapter, opened: Source, request: Request, beside: Sequence[Other] = ()
) -> tuple[Encoded, list[Problem]]:
    """The package with everything that `DiffusionPipeline.from_pretrained` wants and the components `beside`, in shards where
    that was asked for.

    Configurations come from the folder that was given, or that is converted, else from what is known of the architecture.
    """
    parts = [part for part in adapter.components() if part != ASIDE]
    told, problems = variants(adapter, request.source)
    documents = pipeline.documents(adapter.architecture, parts, told)
    if (sampled := edm.sampled(documents, adapter)) is not None:
        documents = sampled
    elif (marker := edm.marker(adapter)) is not None:
        problems.append(warning("scheduler-untold", marker, "the model is sampled by EDM, and its markers do not tell how",
                                "Give a folder that does, with --config."))  # fmt: skip
    given = _given(opened, request, adapter)
    documents = _with_given(documents, given, parts, beside)
    documents = _with_lengths(_with_projections(documents, adapter), adapter)
    documents = _with_tokenizers(documents, opened, request)
    held = dict(encoded.package.files)
    for other in beside:
        held |= other.files
        documents |= other.documents
    encoded = replace(encoded, package=Package.new(held, documents, DIRECTORY))
    if request.whole.shard_size is not None:
        encoded = _sharded(encoded, request.whole.shard_size)
    if request.whole.only is not None:
        encoded = _alone(encoded, parts[0])
    guessed = edm.SCHEDULER in documents and edm.SCHEDULER not in given
    untold = vae.untold_scale(opened) if parts == [vae.VAE] and vae.CONFIG not in given else []
    return encoded, [*(problems if guessed else []), *_unknown_tokens(adapter, opened, request), *untold]


def _given(opened: Source, request: Request, adapter: Adapter) -> Mapping[str, Any]:
    """The documents of the folder that configurations are to be taken from. MalformedFile where one holds no settings, UsageError
    where they are of another architecture, or of another input.
    """
    config = request.whole.config
    given = _own(opened, adapter) if config is None else pipeline_documents(config)
    folder = config or opened.package.path or Path()
    for name, document in given.items():
        if name.endswith(_CONFIG) and not isinstance(document, dict):
            raise MalformedFile(folder / name, "no-settings", "no object: it holds no settings", mend="Get the whole folder again.")  # fmt: skip
    if config is not None:
        _require_fit(given, opened, request, adapter)
    return given


def _own(opened: Source, adapter: Adapter) -> Mapping[str, Any]:
    """The documents beside the weights; the configuration of a component alone by the name that it has in a pipeline."""
    documents, parts = opened.package.documents, [part for part in adapter.components() if part != ASIDE]
    if PIPELINE in documents or not isinstance(own := documents.get(_CONFIG), dict) or len(parts) != 1:
        return documents
    name = f"{parts[0]}/{_CONFIG}"
    usual = pipeline.documents(adapter.architecture, parts)[name]
    is_of_part = all(own.get(told) == usual.get(told) for told in _KINDS)
    return {name: own, **documents} if is_of_part else documents


def _require_fit(given: Mapping[str, Any], opened: Source, request: Request, adapter: Adapter) -> None:
    there = stated(given[PIPELINE]).keys() & {*COMPONENTS}
    parts = {part for part in adapter.components() if part != ASIDE}
    model = architectures.get(adapter.architecture)
    wanted = _make(pipeline.documents(adapter.architecture, ["unet"]))
    others = " or ".join(opened.identity.also)
    first = f"Say --architecture {others} if it is of that" if others else "Give the folder of one"
    mend = f"{first}, or leave --config out."
    if not parts <= there <= model.parts.keys() or _make(given) not in (wanted, []):
        raise UsageError(f"{request.whole.config} is no pipeline of {model.title}", mend=mend)
    ours, theirs = channels(adapter.tensors), given.get(_UNET, {}).get(_CHANNELS)
    if None not in (ours, theirs) and ours != theirs:
        raise UsageError(f"the UNet of {request.source} takes {ours} channels of input, and that of {request.whole.config} {theirs}",
                         mend=mend)  # fmt: skip


def _make(documents: Mapping[str, Any]) -> list[bool]:
    """What a UNet has at any width; nothing where there is none."""
    return [bool(documents[_UNET].get(name)) for name in _MAKE] if _UNET in documents else []


def _with_given(
    documents: dict[str, Any], given: Mapping[str, Any], parts: Iterable[str], beside: Sequence[Other]
) -> dict[str, Any]:
    """`documents` with those of another folder, whose index names only what is written here."""
    wanted = {PIPELINE, edm.SCHEDULER, *(f"{part}/{_CONFIG}" for part in parts)}
    taken = {name: _without_origin(document) for name, document in given.items() if name in wanted}
    rows = {other.name: other.row for other in beside}
    if PIPELINE in taken:
        index = _index(documents[PIPELINE], taken[PIPELINE])
        if _SAFETY in index and _CHECKER not in rows:
            index[_SAFETY] = False
        taken[PIPELINE] = index | rows
    return {**documents, **taken}


def _index(ours: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The index of another folder, of the components that are written: as it has them, or as `ours` has those that it lacks."""
    written = stated(ours)
    rows = {name: row if any(row) and name in written else written.get(name, [None, None])
            for name, row in given.items() if isinstance(row, list)}  # fmt: skip
    return {**given, **rows, **{name: row for name, row in written.items() if name not in given}}


def _without_origin(document: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without the place that its component once came from: a path of somebody's disk, or another model."""
    return {name: value for name, value in document.items() if name != _ORIGIN}


def _with_projections(documents: dict[str, Any], adapter: Adapter) -> dict[str, Any]:
    """`documents` whose UNet has the projections that are written, whatever the folder's had."""
    linear, config = _MAKE[0], documents.get(_UNET)
    usual = bool(pipeline.documents(adapter.architecture, ["unet"])[_UNET].get(linear))
    if config is None or bool(config.get(linear)) == usual:
        return documents
    return {**documents, _UNET: {**config, linear: usual}}


def _with_lengths(documents: dict[str, Any], adapter: Adapter) -> dict[str, Any]:
    """`documents` whose text encoders have as many tokens and positions as their weights, where these are more than usual."""
    for held, rows, _ in lengthened(adapter.tensors, adapter.architecture):
        name = f"{held.component}/{_CONFIG}"
        if name in documents:
            documents = {**documents, name: {**documents[name], _LENGTHS[held.module]: rows}}
    return documents


def _unknown_tokens(adapter: Adapter, opened: Source, request: Request) -> Iterator[Problem]:
    """A warning where tokens were added, and nobody gives a tokenizer that may know them."""
    if request.whole.tokenizer is not None or opened.package.container == DIRECTORY:
        return
    for held, rows, usual in lengthened(adapter.tensors, adapter.architecture):
        if held.module == TOKENS:
            yield warning("unknown-tokens", held.component, f"the tokenizer that is written does not know what was added ({rows - usual})",
                          "--tokenizer takes the one that the model was trained with.")  # fmt: skip


def _with_tokenizers(documents: dict[str, Any], opened: Source, request: Request) -> dict[str, Any]:
    """`documents` with the tokenizers of a folder that was given, or that is converted, in place of ours: never a mixture of two
    vocabularies. Ours says the length and the special tokens where theirs says neither: no pipeline can use one without.
    """
    folder = request.whole.tokenizer or (opened.package.path if opened.package.container == DIRECTORY else None)
    if folder is None:
        return documents
    for name in TOKENIZERS:
        ours = {file for file in documents if file.startswith(f"{name}/")}
        place = folder / name if (folder / name).is_dir() else request.whole.tokenizer
        if ours and place is not None:
            theirs = {f"{name}/{file}": document for file, document in tokenizer_from(place).items()}
            ours -= set() if f"{name}/{CONFIG}" in theirs else {f"{name}/{file}" for file in BESIDE}
            documents = {file: document for file, document in documents.items() if file not in ours} | theirs
    return documents


def _alone(encoded: Encoded, part: str) -> Encoded:
    """One component as the folder that its own class opens."""
    made, start = encoded.package, f"{part}/"
    held = {name.removeprefix(start): file for name, file in made.files.items() if name.startswith(start)}
    documents = {name.removeprefix(start): told for name, told in made.documents.items() if name.startswith(start)}
    places = {key: place and (place.removeprefix(start) if len(held) > 1 else place.partition(":")[2])
              for key, place in encoded.places.items()}  # fmt: skip
    return Encoded(Package.new(held, documents, DIRECTORY), places)


def _sharded(encoded: Encoded, size: int) -> Encoded:
    """Files above `size` bytes in shards that an index joins, as huggingface_hub splits them: in order, each as full as can
    be.
    """
    made: dict[str, File] = {}
    documents = dict(encoded.package.documents)
    moved: dict[tuple[str, str], str] = {}
    for name, file in encoded.package.files.items():
        groups = _groups(file.tensors, size)
        if name == ASIDE_FILE or len(groups) < 2:
            made[name] = file
            continue
        stem = name.removesuffix(".safetensors")
        for number, group in enumerate(groups, 1):
            shard = f"{stem}-{number:05}-of-{len(groups):05}.safetensors"
            made[shard] = File(group, file.metadata)
            moved |= {(name, tensor): shard for tensor in group}
        total = sum(tensor.nbytes for tensor in file.tensors.values())
        weight_map = {tensor: moved[name, tensor].rpartition("/")[2] for tensor in file.tensors}
        documents[f"{name}.index.json"] = {"metadata": {"total_size": total}, "weight_map": weight_map}
    places = {held: _moved(place, moved) for held, place in encoded.places.items()}
    return Encoded(Package.new(made, documents, DIRECTORY), places)


def _groups(tensors: Mapping[str, LazyTensor], size: int) -> list[dict[str, LazyTensor]]:
    groups: list[dict[str, LazyTensor]] = [{}]
    used = 0
    for name, tensor in tensors.items():
        if groups[-1] and used + tensor.nbytes > size:
            groups.append({})
            used = 0
        groups[-1][name] = tensor
        used += tensor.nbytes
    return groups


def _moved(place: str | None, moved: Mapping[tuple[str, str], str]) -> str | None:
    if place is None:
        return None
    file, _, name = place.partition(":")
    return f"{moved[file, name]}:{name}" if (file, name) in moved else place
