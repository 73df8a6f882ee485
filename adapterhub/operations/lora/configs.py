"""The configurations of PEFT that lie beside a LoRA or in its metadata; where one tells no alpha, each program takes another."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from adapterhub.algorithms import rank_of
from adapterhub.documents import Problem
from adapterhub.files import Package
from adapterhub.layouts.base import Reading
from adapterhub.layouts.lora.diffusers import FIELD
from adapterhub.layouts.lora.peft import CONFIG
from adapterhub.layouts.lora.peft_config import components_with_config
from adapterhub.layouts.lora.placing import Fit
from adapterhub.operations.problems import warning


def without_alpha(package: Package, fit: Fit, reading: Reading) -> Iterator[Problem]:
    """Configurations that tell no alpha, or are not there though the layout keeps alpha in them."""
    ranked = {component for (component, _), tensors in reading.modules.items() if rank_of(tensors) is not None}
    for place, component, config in configs(package, fit):
        kind = str(config.get("peft_type") or "LORA").upper()
        if kind == "LORA" and component in ranked and not isinstance(config.get("lora_alpha"), int | float):
            yield warning("missing-alpha", place, "without lora_alpha: PEFT takes 8, adapterhub strength 1",
                          "Write lora_alpha; it is r for strength 1.")  # fmt: skip
    if fit.layout.name == "peft":
        yield from _no_config(package, fit, ranked)


def configs(package: Package, fit: Fit) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(place, component, configuration) of diffusers' metadata and of PEFT's documents."""
    for name, file in package.files.items():
        heads = fit.files.get(name, {})
        component = next(iter(heads.values())).component if heads else "unet"
        document = package.documents.get(_beside(name))
        if isinstance(document, dict):
            yield _beside(name), component, document
        try:
            fields = json.loads(file.metadata.get(FIELD, "{}"))
        except (ValueError, RecursionError):
            continue
        for owner, config in components_with_config(fields if isinstance(fields, dict) else {}).items():
            yield FIELD, owner or component, config


def _no_config(package: Package, fit: Fit, ranked: Collection[str]) -> Iterator[Problem]:
    for name, heads in fit.files.items():
        scaled = any(module.component in ranked for module in heads.values())
        if scaled and not isinstance(package.documents.get(_beside(name)), dict):
            yield warning("missing-alpha", _beside(name), "is not there, and alpha with it: read at strength 1, which may be wrong",
                          "Get it too: it lies beside the weights where they come from.")  # fmt: skip


def _beside(name: str) -> str:
    """The place of the configuration of a file."""
    return "/".join([*name.split("/")[:-1], CONFIG])
