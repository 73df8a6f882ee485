"""A hypernetwork in another layout: tensors are moved, the structure is said in other fields."""

from __future__ import annotations

from adapterhub.adapter import Adapter
from adapterhub.documents import LedgerEntry
from adapterhub.files import SAFETENSORS
from adapterhub.layouts.base import Form
from adapterhub.layouts.hypernetwork.layout import HypernetworkLayout
from adapterhub.metadata import HASHED, utf8
from adapterhub.operations.casting import cast
from adapterhub.operations.ledger import Ledger
from adapterhub.operations.source import Source
from adapterhub.operations.titles import retitled
from adapterhub.operations.work import Made, Request


def make(opened: Source, request: Request) -> Made:
    """Every step in order, each telling the ledger."""
    layout: HypernetworkLayout = request.layout  # type: ignore[assignment] # the kind says so
    ledger = Ledger(opened.reading.places)
    adapter = opened.adapter
    if request.dtype:
        adapter = cast(adapter, request.dtype, ledger)
    adapter = noted(adapter, request.source.stem, request.form)
    encoded = layout.encode(adapter, request.form)
    entries = ledger.entries(encoded)
    entries += [LedgerEntry(source=[place], target=[], action="drop", reason=why) for place, why in opened.dropped]
    return Made(opened.adapter, adapter, encoded, entries)


def noted(adapter: Adapter, source: str, form: Form) -> Adapter:
    """The hypernetwork with metadata that is true of the new file; it is called `source` where it has no name inside."""
    fields = {field: text for field, text in adapter.metadata.items() if field not in HASHED}
    fields.setdefault("name", utf8(source))
    adapter = adapter.with_metadata(fields)
    return retitled(adapter, fields["name"]) if form.container == SAFETENSORS else adapter
