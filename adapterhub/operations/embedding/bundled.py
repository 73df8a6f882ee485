"""Embeddings that travel in a LoRA file, taken out of it."""

from __future__ import annotations

from adapterhub.adapter import Adapter, Key, Kind, Module, Role
from adapterhub.errors import BrokenAdapter, NotAnAdapter
from adapterhub.layouts.embedding.encoders import BY_KEY, component_of
from adapterhub.layouts.lora.spelled import EMBEDDING
from adapterhub.operations.ledger import Ledger
from adapterhub.operations.work import NOT_ASKED_FOR
from adapterhub.tensors import LazyTensor

_FIELDS = ("emb_params", "string_to_param.*", *BY_KEY)
"""How A1111, OneTrainer and ComfyUI end the key of a bundled embedding (`bundle_emb.TOKEN.FIELD`)."""
_OUT = "_out"


def unbundled(lora: Adapter, ledger: Ledger) -> Adapter:
    """The embeddings of `lora`, as an adapter of their own. NotAnAdapter where there are none, BrokenAdapter where two
    tensors claim one place.
    """
    tensors: dict[Key, LazyTensor] = {}
    for key, tensor in lora.tensors.items():
        if key.component != EMBEDDING:
            ledger.replace([key], [], "drop", NOT_ASKED_FOR)
            continue
        now = _key(key, tensor)
        if now in tensors:
            raise BrokenAdapter(
                f"{ledger.places[key]} is a second tensor of {now.role.replace('_', ' ')} of {now.module!r} for {now.component}",
                [ledger.places[key]],
                mend="Readers differ in which they take: remove one.",
            )
        tensors[now] = tensor
        ledger.replace([key], [now], "rename")
    if not tensors:
        raise NotAnAdapter("no embedding travels in this LoRA", mend="adapterhub inspect --tensors lists what does.")
    return Adapter(Kind.EMBEDDING, lora.architecture, tensors, {})


def _key(key: Key, tensor: LazyTensor) -> Key:
    """The field's ending says for which text encoder it is; a name of no encoder's is part of the token."""
    bare = key.module.removesuffix(_OUT)
    role = Role.OUTPUT_VECTORS if bare != key.module else Role.VECTORS
    for field in _FIELDS:
        if bare.endswith(f".{field}"):
            component = BY_KEY[field].component if field in BY_KEY else component_of(tensor.shape[-1])
            return Key(*Module(component, bare.removesuffix(f".{field}")), role)
    return Key(component_of(tensor.shape[-1]), key.module, Role.VECTORS)
