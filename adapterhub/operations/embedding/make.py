"""An embedding in another layout: vectors are moved, names and tokens kept."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from adapterhub.adapter import Adapter, Key, Kind, Role
from adapterhub.documents import LedgerEntry, Problem
from adapterhub.errors import LossyConversion, UsageError
from adapterhub.files import SAFETENSORS
from adapterhub.layouts.embedding.dictionary import numbers
from adapterhub.layouts.embedding.layout import STEM, TOKEN, EmbeddingLayout, stem, tokens
from adapterhub.metadata import HASHED
from adapterhub.operations.casting import cast
from adapterhub.operations.embedding.bundled import unbundled
from adapterhub.operations.embedding.combine import Changed
from adapterhub.operations.ledger import Ledger
from adapterhub.operations.problems import warning
from adapterhub.operations.source import Source
from adapterhub.operations.titles import retitled
from adapterhub.operations.work import Made, Request
from adapterhub.tensors import stack_rows

_A_NUMBER = "the placeholder's number in a vocabulary, which no reader looks at"
_NUMBERED = re.compile(r"(.+)_([1-9]\d*)")


Change = Callable[[Adapter, Ledger, str | None], Changed]
"""What is done to the vectors beside converting them. The adapter's tensors are rows of vectors; the text is the dtype of the
result, if one was asked for.
"""


def _unchanged(adapter: Adapter, ledger: Ledger, dtype: str | None) -> Changed:
    return Changed(adapter)


def make(opened: Source, request: Request, change: Change = _unchanged, unread: Iterable[str] | None = None) -> Made:
    """Every step in order, each telling the ledger; `unread` are places that no reader looks at, if they are known."""
    layout: EmbeddingLayout = request.layout  # type: ignore[assignment] # the kind says so
    ledger = Ledger(opened.reading.places)
    source = opened.adapter
    if source.kind is Kind.LORA:
        source = unbundled(source, ledger)
    changed = change(_restacked(_in_rows(source, ledger), ledger), ledger, request.dtype)
    adapter = _restacked(changed.adapter, ledger)  # tokens that are alike only now
    if (token := request.token or _kept(adapter, layout)) is not None:
        adapter = _renamed(adapter, token, ledger)
    source = adapter
    adapter = _without_homeless(adapter, layout, request, ledger)
    if request.dtype:
        adapter = cast(adapter, request.dtype, ledger)
    adapter, problems = _noted(adapter, stem(opened.package), layout, request)
    encoded = layout.encode(adapter, request.form)
    entries = ledger.entries(encoded)
    entries += [LedgerEntry(source=[place], target=[], action="drop", reason=why) for place, why in opened.dropped]
    unread = numbers(opened.package) if unread is None else unread
    entries += [LedgerEntry(source=[place], target=[], action="metadata", reason=_A_NUMBER) for place in unread]
    return Made(source, adapter, encoded, entries, changed.approximate, changed.error, problems)


def _in_rows(adapter: Adapter, ledger: Ledger) -> Adapter:
    """One vector as one row."""
    tensors = dict(adapter.tensors)
    for key, tensor in tensors.items():
        if len(tensor.shape) == 1:
            tensors[key] = tensor.reshape(1, *tensor.shape)
            ledger.replace([key], [key], "reshape", f"{list(tensor.shape)} as {[1, *tensor.shape]}")
    return adapter.with_tensors(tensors)


def _restacked(adapter: Adapter, ledger: Ledger) -> Adapter:
    """Tokens that diffusers numbers (`t`, `t_1`, `t_2` …) as the vectors of one."""
    tensors = dict(adapter.tensors)
    for first in tokens(adapter):
        parts = [first, *_following(first, tokens(adapter))]
        for component in adapter.components() if len(parts) > 1 else ():
            keys = [key for token in parts for key in tensors if key.module == token and key.component == component]
            alike = {(key.role, tensors[key].dtype, tensors[key].shape[1:]) for key in keys}
            if len(keys) == len(parts) and len(alike) == 1:
                rows = stack_rows([tensors.pop(key) for key in keys])
                tensors[keys[0]] = rows
                ledger.replace(keys, [keys[0]], "join", f"the {rows.shape[0]} vectors of {first}")
    return adapter.with_tensors(tensors)


def _following(first: str, held: tuple[str, ...]) -> list[str]:
    """`first_1`, `first_2` … as far as they are there without a gap."""
    numbers = {int(found[2]): token for token in held if (found := _NUMBERED.fullmatch(token)) and found[1] == first}
    return [numbers[n] for n in range(1, len(numbers) + 1)] if sorted(numbers) == [*range(1, len(numbers) + 1)] else []


def _kept(adapter: Adapter, layout: EmbeddingLayout) -> str | None:
    """The token that a former layout had no place for and this one has."""
    return adapter.metadata.get(TOKEN) if layout.holds_token and len(tokens(adapter)) == 1 else None


def _renamed(adapter: Adapter, token: str, ledger: Ledger) -> Adapter:
    if len(tokens(adapter)) > 1:
        raise UsageError("--token names one token, and the file has several", mend="Convert first: -o DIR/ splits it.")
    named = {key: Key(key.component, token, key.role) for key in adapter.tensors}
    for key, now in named.items():
        ledger.replace([key], [now], "rename")
    metadata = {name: text for name, text in adapter.metadata.items() if name != TOKEN}
    return adapter.with_tensors({named[key]: t for key, t in adapter.tensors.items()}).with_metadata(metadata)


def _without_homeless(adapter: Adapter, layout: EmbeddingLayout, request: Request, ledger: Ledger) -> Adapter:
    """The embedding less what `layout` has no place for; LossyConversion unless --allow-loss."""
    homeless = {key: f"{layout.name} has no place for {_what(key)}" for key in adapter.tensors
                if layout.place(key, adapter) is None}  # fmt: skip
    if homeless and not request.allow_loss:
        losses = [(".".join(key), why) for key, why in homeless.items()]
        raise LossyConversion(
            f"{layout.name} cannot hold {len(losses)} of {len(adapter.tensors)} tensors: {losses[0][1]}", losses,
            mend=_MENDS.get(_cause(next(iter(homeless))), _SEVERAL),
        )  # fmt: skip
    if len(homeless) == len(adapter.tensors):
        raise LossyConversion(
            f"nothing of {request.source} would remain in {layout.name}", [], mend="Use another layout."
        )
    for key, why in homeless.items():
        ledger.replace([key], [], "drop", why)
    return adapter.with_tensors({key: tensor for key, tensor in adapter.tensors.items() if key not in homeless})


def _what(key: Key) -> str:
    if _cause(key) == "unet":
        return f"XTI's embedding of the UNet's block {key.component.removeprefix('unet.')}"
    return f"{key.role.replace('_', ' ')} of {key.component}"


def _cause(key: Key) -> str:
    return "unet" if key.component.startswith("unet.") else str(key.role)


_SEVERAL = "--to kohya holds every text encoder in one file, --to diffusers a file for each; --allow-loss leaves out what has no place."
_MENDS = {
    "unet": "Only Kohya's own scripts read XTI: keep the file as it is.",
    str(Role.OUTPUT_VECTORS): "--to kohya keeps OneTrainer's output vectors; --allow-loss leaves them out.",
}


def _noted(adapter: Adapter, source: str, layout: EmbeddingLayout, request: Request) -> tuple[Adapter, list[Problem]]:
    """The embedding with metadata that is true of the new file, its token and its first file's name kept in it."""
    held = tokens(adapter)
    fields = {name: text for name, text in adapter.metadata.items() if name not in HASHED}
    fields.setdefault(STEM, source)
    if layout.holds_token or len(held) > 1:
        fields.pop(TOKEN, None)
    else:
        fields.setdefault(TOKEN, held[0])
    if request.form.container == SAFETENSORS:
        if len(held) == 1:
            fields["modelspec.trigger_phrase"] = held[0]
        return retitled(adapter.with_metadata(fields), fields.get("name", source)), []
    if layout.keeps_fields:
        return adapter.with_metadata(fields), []
    kept = {request.form.stem, *(held if layout.holds_token else ())}
    lost = sorted(name for name, text in fields.items() if name not in (STEM, TOKEN) or text not in kept)
    told = [warning("metadata-lost", ", ".join(lost), f"{layout.name} in this container has no place for these fields",
                    "Write safetensors to keep them.")] if lost else []  # fmt: skip
    return adapter.with_metadata({}), told
