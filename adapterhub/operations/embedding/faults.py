"""What is wrong with an embedding by its shapes, names and fields; its values: `values.py`."""

from __future__ import annotations

import re
from collections.abc import Iterator

import adapterhub.architectures as architectures
from adapterhub.adapter import Adapter, Module, Role, Roles
from adapterhub.documents import Problem
from adapterhub.files import Package
from adapterhub.layouts.base import Reading
from adapterhub.layouts.embedding.dictionary import dictionary, numbers
from adapterhub.layouts.embedding.encoders import BY_WIDTH
from adapterhub.layouts.embedding.layout import tokens
from adapterhub.layouts.identity import Identity
from adapterhub.metadata import claimed
from adapterhub.operations.problems import error, warning
from adapterhub.tensors import FLOATS

PROMPT = 75
"""Tokens of a prompt between its beginning and its end, in CLIP."""
EMPTY_HASH = "e3b0c442"
"""SHA-256 of nothing: what A1111's first hash, of 64 KiB at 1 MiB, gives for a file that ends before."""

# Names that a prompt cannot hold, by reader: A1111 `modules/prompt_parser.py` and `extra_networks.py`, ComfyUI
# `comfy/sd1_clip.py`.
_NAMES = (
    (re.compile(r"[()\[\]\\\\]"), "A1111 and ComfyUI take brackets and backslashes for emphasis"),
    (re.compile(r"<\w+:[^>]*>"), "A1111 takes it for an extra network and removes it from the prompt"),
    (re.compile(r"\s"), "ComfyUI's `embedding:NAME` ends at a space"),
)


def faults(package: Package, identity: Identity, reading: Reading) -> Iterator[Problem]:
    """Every problem that the header tells."""
    adapter = reading.adapter
    yield from _strays(package, reading)
    yield from _widths(identity, reading)
    for module, roles in adapter.modules().items():
        yield from _shapes(module, roles)
    for token in tokens(adapter):
        yield from _counts(adapter, token)
        yield from _name(token)
    yield from _fields(package, identity, reading)


def _strays(package: Package, reading: Reading) -> Iterator[Problem]:
    """Tensors that no reader of embeddings looks at."""
    known = {*reading.places.values(), *numbers(package)}
    for place in package.only.tensors if len(package.files) == 1 else ():
        if place not in known:
            yield error("unknown-key", place, "no part of an embedding", "--allow-loss leaves it out.")


def _widths(identity: Identity, reading: Reading) -> Iterator[Problem]:
    """Widths that no encoder has are those of a small model, if the file says for what model it is."""
    for key, tensor in reading.adapter.tensors.items():
        if tensor.shape[-1] in BY_WIDTH:
            continue
        if (told := claimed(reading.metadata)) is not None:
            yield warning("other-widths", key.module, f"vectors of {tensor.shape[-1]} for a model like {told}, whose text encoders have "
                          "others: a distilled or tiny model")  # fmt: skip
        else:
            yield error("wrong-width", key.module, f"vectors of {tensor.shape[-1]}: no text encoder that is known has such",
                        "The file is damaged, or for a model that adapterhub does not know.")  # fmt: skip
    if identity.also:
        yield warning("ambiguous-architecture", "", f"the widths are those of {', '.join(identity.also)} as well; taken as {identity.architecture}")  # fmt: skip


def _shapes(module: Module, roles: Roles) -> Iterator[Problem]:
    for role, tensor in roles.items():
        if tensor.dtype not in FLOATS:
            yield error("not-a-float", module.module, f"{role} of {module.component} are {tensor.dtype}, no floating-point numbers",
                        "The file is damaged.")  # fmt: skip
        if not tensor.size:
            yield error("no-vectors", module.module, f"no vectors for {module.component}", "The file is damaged.")


def _counts(adapter: Adapter, token: str) -> Iterator[Problem]:
    held = {key.component: tensor.shape[0] for key, tensor in adapter.tensors.items()
            if key.module == token and key.role is Role.VECTORS and len(tensor.shape) == 2}  # fmt: skip
    if len(set(held.values())) > 1:
        numbers = ", ".join(f"{count} for {component}" for component, count in held.items())
        yield error("unequal-vectors", token, f"{numbers}: the text encoders see different prompts",
                    "Get the file again, or trim it: adapterhub embedding trim.")  # fmt: skip
    if max(held.values(), default=0) > PROMPT:
        yield warning("too-many-vectors", token, f"{max(held.values())} vectors, and a prompt has {PROMPT} places",
                      "adapterhub embedding trim keeps the first.")  # fmt: skip


def is_visible(token: str) -> bool:
    """Whether anything of a token can be seen, and so typed into a prompt."""
    return any(sign.isprintable() and not sign.isspace() for sign in token)


def _name(token: str) -> Iterator[Problem]:
    for pattern, why in _NAMES:
        if is_visible(token) and pattern.search(token):
            yield warning("unusable-name", token, why, "Rename the file, or convert with --token.")


def _fields(package: Package, identity: Identity, reading: Reading) -> Iterator[Problem]:
    layout = identity.layout.name if identity.layout else ""
    fields = reading.metadata
    if layout == "ldm":
        yield warning("missing-field", "name", "no name and no step: diffusers refuses the file",
                      "adapterhub convert --to a1111 writes them.")  # fmt: skip
    if layout in ("a1111", "a1111-image"):
        for field in ("name", "step"):
            if field not in (dictionary(package) or {}):
                yield warning("missing-field", field, f"A1111's field {field} is missing",
                              "adapterhub convert --to a1111 writes the fields.")  # fmt: skip
    if fields.get("sd_checkpoint") == EMPTY_HASH:
        yield warning("empty-hash", "sd_checkpoint", f"{EMPTY_HASH} is the hash of nothing, and names no checkpoint")
    if len(tokens(reading.adapter)) > 1 and layout in ("ldm", "a1111", "diffusers"):
        yield warning("several-tokens", "", "several tokens in one file: A1111 and diffusers take files of one",
                      "adapterhub convert -o DIR/ writes a file of each.")  # fmt: skip
    told = claimed(fields)
    if told is not None and told != identity.architecture and identity.architecture:
        title = architectures.get(identity.architecture).title
        yield warning("metadata-contradicts", "metadata", f"claims {told}, and the widths are those of {title}",
                      "The vectors count; convert writes metadata that agrees.")  # fmt: skip
