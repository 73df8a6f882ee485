"""`search --hub`: adapters on the Hub, by words and by the model that they are for."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any

from adapterhub.documents import HubModel, HubSearch
from adapterhub.errors import UsageError
from adapterhub.hub.errors import explained
from adapterhub.hub.repository import api

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

LIMIT, MOST = 20, 1000
_RELATIONS = ("adapter", "finetune", "merge", "quantized")
_TEXT, _TAGS = 200, 64
"""Characters of a tag, and tags of a repository, that are kept."""


def search_hub(words: str = "", *, base_model: str | None = None, limit: int = LIMIT) -> HubSearch:
    """Repositories whose names hold `words`, the most downloaded first; with `base_model`, a Hub id, only its adapters."""
    if not 0 < limit <= MOST:
        raise UsageError(f"a limit of {limit}", mend=f"Ask for 1 to {MOST}.")
    if not words and base_model is None:
        raise UsageError("nothing to search for", mend="Give a word, or --base-model ID.")
    asked: dict[str, Any] = {"filter": f"base_model:adapter:{base_model}"} if base_model else {"filter": "lora"}
    with explained("the Hub's search"):
        found = api().list_models(search=words or None, sort="downloads", limit=limit, full=True, **asked)
        return HubSearch(found=[_model(one) for one in islice(found, limit)])


def _model(one: ModelInfo) -> HubModel:
    tags = [tag[:_TEXT] for tag in (one.tags or [])][:_TAGS]
    bases = [tag.split(":")[1:] for tag in tags if tag.startswith("base_model:")]
    relation = next((parts[0] for parts in bases if len(parts) > 1 and parts[0] in _RELATIONS), None)
    return HubModel(
        repo=one.id, base_models=_distinct(parts[-1] for parts in bases), relation=relation, library=one.library_name,
        tags=[tag for tag in tags if not tag.startswith(("base_model:", "region:"))], downloads=one.downloads, likes=one.likes,
        modified=one.last_modified.strftime("%Y-%m-%dT%H:%M:%SZ") if one.last_modified else None, gated=bool(one.gated),
    )  # fmt: skip


def _distinct(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
