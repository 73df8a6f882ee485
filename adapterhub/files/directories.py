"""Which files of a folder make up an adapter or a checkpoint, told from names, before any is opened."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from adapterhub.errors import MalformedFile, UsageError
from adapterhub.files.folder import INDEX, WEIGHTS, Folder, listed, variant_of
from adapterhub.files.limits import LIMITS, Limits
from adapterhub.files.package import ASIDE_FILE, Problem


class Known(NamedTuple):
    """A kind of folder that names tell: `weights` as in WEIGHTS, of which the first must be there and the others may, and
    the document without which they mean nothing.
    """

    weights: tuple[str, ...]
    needs: str | None = None


PEFT = Known(("adapter_model",), needs="adapter_config.json")
KNOWN = (
    Known(("pytorch_lora_weights",)),
    PEFT,
    Known(("learned_embeds", "learned_embeds_2")),
)
"""The first that fits. Source: diffusers `loaders/lora_base.py`, `loaders/textual_inversion.py`, the training script
`textual_inversion_sdxl.py` (two files), peft `utils/constants.py`.
"""
LONE = ((".safetensors", ".pti"), (".bin", ".pt", ".ckpt"), (".png", ".webp"))
"""How a file ends that is all there is, unless there are such as stand before it. Source of `.pti`, which is safetensors:
replicate/cog-sdxl.
"""
PIPELINE = "model_index.json"
COMPONENTS = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3", "vae")
"""Folders of a diffusers pipeline that hold weights adapterhub works on."""
DOCUMENTS = (
    PIPELINE, PEFT.needs, "config.json", "scheduler_config.json", "special_params.json",
    "token_identifier.txt", "type_of_concept.txt",
)  # fmt: skip
"""Files that say something about the weights beside them: those of cog-sdxl, and of the sd-concepts-library, come last."""
SCHEDULER = "scheduler"
_OWN = "diffusion_pytorch_model."
_COMPONENT = re.compile(rf"({_OWN[:-1]}|pytorch_model|model)\.")
_CODE_FIELDS = ("auto_map", "custom_pipeline")


@dataclass
class Contents:
    """What to read of a folder, by names relative to it; `whole` if the folder as such is what is meant, and `pipeline` if it is one."""

    weights: list[str]
    documents: list[str] = field(default_factory=list)
    whole: bool = True
    pipeline: bool = False


def survey(folder: Folder, limits: Limits) -> tuple[Contents, list[Problem]]:
    """What of `folder` is to be read, and what was odd. UsageError where nothing or too much fits."""
    for recognise in (_known, _peft_components, _pipeline, _lone):
        if contents := recognise(folder, limits):
            require_variant(folder, contents.weights if contents.pipeline else None)
            return contents, folder.problems
    raise UsageError(
        f"{folder.path} holds no adapter and no model that adapterhub reads",
        mend=f"Expected {KNOWN[0].weights[0]}{WEIGHTS[0]}, {PEFT.weights[0]}{WEIGHTS[0]}, {PIPELINE} or one file of weights; "
        f"found: {listed(folder.contents) or 'nothing'}.",
    )


def read_documents(folder: Folder, names: Iterable[str], limits: Limits) -> tuple[dict[str, object], list[Problem]]:
    """The documents `names` of `folder`; a warning for each that asks for code to be run."""
    documents = {name: folder.document(name, limits) for name in names}
    return documents, _coded(documents)


def _coded(documents: Mapping[str, object]) -> list[Problem]:
    return [
        Problem("warning", "custom-code", name, f"{field} names code, which is never run")
        for name, document in documents.items()
        if isinstance(document, dict)
        for field in _CODE_FIELDS
        if field in document
    ]


def _known(folder: Folder, limits: Limits) -> Contents | None:
    for known in KNOWN:
        if weights := _weights(known, folder, folder):
            return Contents(weights, _documents(folder))
    return None


def _peft_components(folder: Folder, limits: Limits) -> Contents | None:
    contents = Contents([])
    for name in folder.folders:
        if not name.startswith("."):
            part = folder.part(name)
            if weights := _weights(PEFT, part, folder, f"{name}/"):
                contents.weights += weights
                contents.documents += _documents(part, f"{name}/")
    return contents if contents.weights else None


def _weights(known: Known, part: Folder, folder: Folder, prefix: str = "") -> list[str]:
    """The weights of a kind of folder in `part`, empty where it is no such. MalformedFile where half of it is missing."""
    first, *others = map(part.weights, known.weights)
    if known.needs and known.needs in part.files and not first:
        raise folder.missing(f"{prefix}{known.weights[0]}{WEIGHTS[0]}", part)
    if known.needs and known.needs not in part.files and first:
        raise folder.missing(f"{prefix}{known.needs}", part)
    return [prefix + name for name in (first, *others) if name] if first else []


def _pipeline(folder: Folder, limits: Limits) -> Contents | None:
    if PIPELINE not in folder.files:
        return None
    named = _named(folder, limits)
    contents = Contents([ASIDE_FILE] if ASIDE_FILE in folder.files else [], _of_pipeline(folder), pipeline=True)
    for name in (*COMPONENTS, SCHEDULER):
        part = folder.part(name) if name in folder.folders else None
        weights = preferred(part) if part else []
        if part:
            contents.weights += [f"{name}/{file}" for file in weights]
            folder.problems.extend(part.problems)
        if name in COMPONENTS and name in named and not weights:
            raise folder.missing(f"{name}/*{WEIGHTS[0]}", part or folder)
    return contents


def pipeline_documents(path: Path, *, limits: Limits = LIMITS) -> dict[str, Any]:
    """The documents of the pipeline in the folder `path`, whether its weights are there or not. UsageError where it is none."""
    folder = Folder(path)
    if not path.is_dir() or PIPELINE not in folder.files:
        raise UsageError(f"{path} is no folder with {PIPELINE}", mend="Give the folder of a whole pipeline.")
    _named(folder, limits)
    return read_documents(folder, _of_pipeline(folder), limits)[0]


def _of_pipeline(folder: Folder) -> list[str]:
    parts = [name for name in (*COMPONENTS, SCHEDULER) if name in folder.folders]
    return _documents(folder) + [one for name in parts for one in _documents(folder.part(name), f"{name}/")]


def stated(index: Mapping[str, Any]) -> dict[str, Any]:
    """What an index says of the components that the pipeline has."""
    return {name: value for name, value in index.items() if isinstance(value, list) and any(value)}


def _named(folder: Folder, limits: Limits) -> Collection[str]:
    """The components that the index of `folder` names. MalformedFile where it is no index, or a name leads out."""
    index = folder.document(PIPELINE, limits)
    if not isinstance(index, dict):
        raise MalformedFile(folder.path / PIPELINE, "not-a-pipeline", "no object: it names no components",
                            mend="Get the whole folder again.")  # fmt: skip
    named = stated(index)
    for name in named:
        folder.holds(name, folder.path / PIPELINE)
    return named


def require_variant(folder: Folder, weights: Iterable[str] | None) -> None:
    """Raises UsageError where a variant must be there that none of the `weights` of a pipeline is of; None for what is none."""
    if folder.variant is None or not folder.strict:
        return
    if weights is None:
        raise UsageError("--variant is for the folder of a pipeline, with model_index.json, that has weights of that name",
                         mend="Leave it out, and give the file that is meant.")  # fmt: skip
    if folder.variant not in map(variant_of, weights):
        there = ", ".join(sorted(_variants(folder))) or "none"
        raise UsageError(f"{folder.path} holds no weights of the variant {folder.variant!r}",
                         mend=f"Leave out --variant; there are: {there}.")  # fmt: skip


def variants_of(path: Path) -> set[str]:
    """The variants that the weights of a pipeline are there in; none where `path` is no folder of one."""
    folder = Folder(path)
    return _variants(folder) if path.is_dir() and PIPELINE in folder.files else set()


def _variants(folder: Folder) -> set[str]:
    parts = [folder.part(name) for name in COMPONENTS if name in folder.folders]
    return {variant_of(name) for part in parts for names in _weights_of(part) for name in names} - {""}


def preferred(folder: Folder) -> list[str]:
    """The weights of one component: of the variant that is asked for, else without a variant if there are such, else of the
    only variant there is.
    """
    found = _weights_of(folder)
    for wanted in (folder.variant, ""):
        if there := [name for names in found for name in names if variant_of(name) == wanted]:
            return there[:1]
    several = next(filter(None, found), [])
    choices = " or ".join(f"--variant {name}" for name in sorted({variant_of(name) for name in several}))
    return folder.at_most_one(
        several,
        f"compatible, convert, diff, extract, inspect, merge, plot and validate take {choices}; else give one of these files.",
    )


def _weights_of(folder: Folder) -> list[list[str]]:
    """The weights of one component by their endings, as in WEIGHTS, in the order in which they are looked for."""
    return [sorted(filter(_COMPONENT.match, folder.models({suffix})), key=_turn) for suffix in WEIGHTS]


def _turn(name: str) -> tuple[bool, bool, int]:
    """When weights are looked for: diffusers, whose weights have a name of their own, takes shards before one file, and
    transformers one file before shards. Source: `modeling_utils.py` of both (`from_pretrained`).
    """
    is_own, is_whole = name.startswith(_OWN), INDEX.search(name) is None
    return not is_own, is_own is is_whole, len(name)


def _lone(folder: Folder, limits: Limits) -> Contents | None:
    every = ([name for name in folder.models(endings) if name != ASIDE_FILE] for endings in LONE)
    found = next(filter(None, every), [])
    return Contents(folder.at_most_one(found), _documents(folder), whole=False) if found else None


def _documents(folder: Folder, prefix: str = "") -> list[str]:
    return [prefix + name for name in DOCUMENTS if name in folder.files]
