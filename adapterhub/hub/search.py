"""`search --hub`: adapters on the Hub, by words and by the model that they are for."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING

from adapterhub.documents import HubModel, HubSearch
from adapterhub.errors import AdapterhubError, UsageError
from adapterhub.hub.addresses import endpoint
from adapterhub.hub.errors import explained
from adapterhub.hub.listing import told
from adapterhub.hub.remote import inspect
from adapterhub.hub.repository import api
from adapterhub.hub.transport import patient

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

LIMIT, MOST = 20, 1000
LOOKED = 20
"""Repositories of which headers are read, if that is asked for."""
_TAG_OF = {"lora": "lora", "embedding": "textual_inversion", "hypernetwork": "hypernetwork"}
_RELATIONS = ("adapter", "finetune", "merge", "quantized")
_TEXT, _TAGS = 200, 64
"""Characters of a tag, and tags of a repository, that are kept."""


def search_hub(
    words: str = "", *, base_model: str | None = None, kind: str | None = None, limit: int = LIMIT, look: bool = False
) -> HubSearch:
    """Repositories whose names hold `words`, the most downloaded first; with `base_model`, a Hub id, only its adapters; with `kind`
    ("lora", "embedding", "hypernetwork") only those that are tagged so, which without a base model is "lora".

    Kind and architecture are those that names and tags tell, and null where they don't: with `look` the headers of the first LOOKED
    are read, as `inspect` does.
    """
    if not 0 < limit <= MOST:
        raise UsageError(f"a limit of {limit}", mend=f"Ask for 1 to {MOST}.")
    if not words and base_model is None and kind is None:
        raise UsageError("nothing to search for", mend="Give a word, or --base-model ID.")
    endpoint()
    asked = [*_tag(kind), *([f"base_model:adapter:{base_model}"] if base_model else [])] or ["lora"]
    with patient(), explained("the Hub's search"):
        found = api().list_models(search=words or None, sort="downloads", limit=limit, full=True, filter=asked)
        rows = [_model(one) for one in islice(found, limit)]
    return HubSearch(found=[_seen(row) for row in rows[:LOOKED]] + rows[LOOKED:] if look else rows)


def _tag(kind: str | None) -> list[str]:
    if kind is None:
        return []
    if kind not in _TAG_OF:
        raise UsageError(f"the Hub has no tag for the kind {kind}", mend=f"It has for {', '.join(_TAG_OF)}.")
    return [_TAG_OF[kind]]


def _model(one: ModelInfo) -> HubModel:
    every = [tag[:_TEXT] for tag in (one.tags or [])][:_TAGS]
    bases = [tag.split(":")[1:] for tag in every if tag.startswith("base_model:")]
    relation = next((parts[0] for parts in bases if len(parts) > 1 and parts[0] in _RELATIONS), None)
    base_models = _distinct(parts[-1] for parts in bases)
    tags = [tag for tag in every if not tag.startswith(("base_model:", "region:"))]
    known = told([file.rfilename for file in one.siblings or ()], tags, base_models)
    return HubModel(
        repo=one.id, **known._asdict(), base_models=base_models, relation=relation, library=one.library_name, tags=tags,
        downloads=one.downloads, likes=one.likes,
        modified=one.last_modified.strftime("%Y-%m-%dT%H:%M:%SZ") if one.last_modified else None, gated=bool(one.gated),
    )  # fmt: skip


def _seen(row: HubModel) -> HubModel:
    """With what its header says, in place of what it was called."""
    try:
        found = inspect(f"hf://{row.repo}")
    except AdapterhubError as reason:
        return row.model_copy(update={"unread": reason.message})
    seen = {"kind": found.kind, "architecture": found.architecture, "layout": found.layout, "evidence": ["header"]}
    return row.model_copy(update=seen)


def _distinct(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
