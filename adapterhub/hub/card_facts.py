"""What a card says, gathered from documents and metadata: nothing is guessed, and what is missing is a warning."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from adapterhub.adapter import Kind
from adapterhub.documents import Inspection, Problem
from adapterhub.documents.publication import Fidelity
from adapterhub.operations.problems import warning

LICENCES = frozenset(
    "apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m openrail++ bigcode-openrail-m afl-3.0 artistic-2.0 "
    "bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 "
    "cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 "
    "cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 agpl-3.0 gfdl gpl gpl-2.0 "
    "gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl mpl-2.0 odc-by odbl openrail-m osl-3.0 postgresql ofl-1.1 ncsa "
    "unlicense zlib pddl wtfpl unknown other".split()
)
"""Identifiers that the Hub knows. Source: hub-docs `repositories-licenses.md`."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_FOLDERS = frozenset(
    "model models checkpoint checkpoints ckpt ckpts stable-diffusion output outputs train training data lora loras "
    "diffusers weights pretrained home mnt tmp root content workspace user users base".split()
)
"""What a relative path begins with, and no user of the Hub is called."""
_WEIGHTS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".sft", ".gguf")
_BASES = ("ss_sd_model_name", "ss_base_model_id", "base_model_id", "base_model")
_NESTED = "lora_adapter_metadata"
_TRIGGERS = ("modelspec.trigger_phrase", "trigger_phrase", "ss_trigger_words", "trigger_words")


@dataclass(frozen=True)
class Options:
    """What a person says of it."""

    base_model: str | None = None
    license: str | None = None
    instance_prompt: str | None = None


@dataclass(frozen=True)
class Facts:
    """What the card tells. `name` and `repo` are the repository's, `metadata` is clean, `files` the names of what is pushed."""

    repo: str
    found: Inspection
    metadata: Mapping[str, str]
    files: Sequence[str]
    fidelity: Sequence[Fidelity]
    base_model: str | None = None
    license: Mapping[str, str] = field(default_factory=dict)
    instance_prompt: str | None = None
    triggers: Sequence[str] = ()
    pictures: Sequence[tuple[str, str]] = ()
    """Names, and the prompt that each was made with."""
    told: frozenset[str] = frozenset()
    """Fields that were given by options."""

    @property
    def kind(self) -> Kind:
        return self.found.kind

    @property
    def name(self) -> str:
        return self.repo.rpartition("/")[2]

    @property
    def prompt(self) -> str:
        """Something to call it with."""
        return self.instance_prompt or ", ".join(self.triggers) or "a photo"


def gathered(
    repo: str, found: Inspection, metadata: Mapping[str, str], files: Sequence[str], fidelity: Sequence[Fidelity],
    options: Options, pictures: Sequence[tuple[str, str]] = (), inherited: Mapping[str, str] | None = None,
) -> Facts:  # fmt: skip
    """The facts: options first, then what the metadata says; `inherited` is the licence of the base."""
    chosen = base_of(metadata, options)
    licence = license_of(metadata, options) or dict(inherited or {})
    told = {name for name, value in vars(options).items() if value is not None}
    return Facts(repo, found, metadata, files, fidelity, chosen, licence, options.instance_prompt,
                 triggers_of(found, metadata), pictures, frozenset(told))  # fmt: skip


def base_of(metadata: Mapping[str, str], options: Options) -> str | None:
    """The id of the base on the Hub: what was given, or what metadata calls by an id and not by a path."""
    if options.base_model is not None:
        return options.base_model
    said = [metadata.get(name, "") for name in _BASES]
    return next((text for text in [*said, *_nested(metadata.get(_NESTED, ""))] if is_hub_id(text)), None)


def is_hub_id(text: str) -> bool:
    """Whether this can only be USER/NAME, and not a path."""
    owner = text.partition("/")[0].lower()
    return bool(_HUB_ID.fullmatch(text)) and owner not in _FOLDERS and not text.lower().endswith(_WEIGHTS)


def _nested(text: str) -> Iterator[str]:
    """What PEFT's configuration calls its base, wherever diffusers' metadata holds one."""
    try:
        told = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return
    for name, value in told.items() if isinstance(told, dict) else ():
        if str(name).endswith("base_model_name_or_path") and isinstance(value, str):
            yield value


def license_of(metadata: Mapping[str, str], options: Options) -> dict[str, str]:
    """The licence as front matter has it; nothing where nobody says one that the Hub knows."""
    told = options.license or metadata.get("modelspec.license", "").strip().lower()
    return {"license": told} if options.license or told in LICENCES else {}


def triggers_of(found: Inspection, metadata: Mapping[str, str]) -> list[str]:
    """The words that call it: tokens of an embedding, else what metadata says."""
    if found.tokens:
        return list(dict.fromkeys(token.token for token in found.tokens))
    said = [word.strip() for name in _TRIGGERS for word in metadata.get(name, "").split(",")]
    return [word for word in dict.fromkeys(said) if word][:20]


def lacking(facts: Facts) -> list[Problem]:
    """What the Hub looks for, and the card does not have."""
    rows: list[tuple[Any, str, str, str]] = [
        (facts.base_model or facts.kind is Kind.CHECKPOINT, "no-base-model", "base_model",
         "no metadata says a Hub id of the model that it is for: say it with --base-model"),
        (facts.license, "no-license", "license", "no licence is known: say it with --license"),
    ]  # fmt: skip
    return [warning(code, where, message, None) for there, code, where, message in rows if not there]
