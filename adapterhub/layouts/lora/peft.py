"""PEFT: a directory per component with `adapter_config.json` and `adapter_model.safetensors`; also the latter alone.

Source: huggingface/peft `utils/save_and_load.py` (`get_peft_model_state_dict`), `tuners/*/config.py`. Rank and alpha are in
the config; one directory holds one method.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import adapterhub.architectures as architectures
from adapterhub.adapter import Adapter, Key, Kind, Module, Role
from adapterhub.architectures import Architecture
from adapterhub.files import DIRECTORY, File, Package
from adapterhub.layouts.base import Encoded, Reading
from adapterhub.layouts.lora import peft_config, peft_methods
from adapterhub.layouts.lora.peft_methods import NEUMANN_TERMS
from adapterhub.layouts.lora.placing import AlphaPlace, Fit, fit_of, reading_of
from adapterhub.layouts.lora.spelled import Spelled
from adapterhub.layouts.lora.spellings import without_text_model
from adapterhub.layouts.lora.suffixes import PEFT, READ_ONLY
from adapterhub.tensors import scalar

PREFIX = "base_model.model."
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_READABLE = frozenset(suffix[1:] for suffix in (*PEFT.values(), *READ_ONLY))
KEPT = "adapterhub.adapter_config"
"""Where other layouts keep what the configs said and no tensor tells."""
_FLATTENED = ("text_encoder",)  # CLIPTextModel; CLIPTextModelWithProjection keeps its `text_model.`
_ROLES: dict[Role, str] = {role: suffix for role, suffix in PEFT.items() if role is not Role.ADALORA_E}
_ROLES[Role.OFT_TERMS] = ""


@dataclass(frozen=True)
class Peft:
    """See the module."""

    name: str = "peft"
    kind: Kind = Kind.LORA
    summary: str = "a directory per component: `adapter_config.json` + `adapter_model.safetensors`"
    alpha: AlphaPlace = AlphaPlace.METADATA
    containers: Mapping[str, str] = field(default_factory=lambda: {"": DIRECTORY})
    writes: bool = True

    def explains(self, package: Package, spelled: Mapping[str, Spelled], architecture: Architecture,
                 *, lenient: bool = False) -> Fit | None:  # fmt: skip
        """Every file, by the component that its folder names or, where that says nothing, by the first that fits."""
        files: dict[str, Mapping[str, Module]] = {}
        for file, source in spelled.items():
            if not lenient and (source.unsplit or not source.suffixes <= _READABLE):
                return None
            if not any(head.startswith(PREFIX) for head in source.heads):
                return None
            found = self._component(file, source, architecture, files)
            if found is None or (not lenient and len(found) < len(source.heads)):
                return None
            files[file] = found
        return fit_of(self, architecture, spelled, files, readable=_READABLE)

    def _component(self, file: str, source: Spelled, architecture: Architecture,
                   taken: Mapping[str, Mapping[str, Module]]) -> Mapping[str, Module] | None:  # fmt: skip
        folder = file.rpartition("/")[0]
        candidates = [name for name in architecture.weights if folder in ("", name) and name != "vae"]
        tables = [_table(architecture.name, name) for name in candidates]
        placed = [{head: table[head] for head in source.heads if head in table} for table in tables]
        fits = [fit_of(self, architecture, {file: source}, {file: heads}) for heads in placed]
        ranked = sorted(zip(fits, placed, strict=True), key=lambda pair: len(pair[0].unplaced) + len(pair[0].misfits))
        return ranked[0][1] if ranked and ranked[0][1] else None

    def decode(self, package: Package, fit: Fit) -> Reading:
        """The tensors of every file, with alpha and the like from the config beside it."""
        metadata = {name: text for file in package.files.values() for name, text in file.metadata.items()}
        reading = reading_of(self.kind, package, fit, metadata)
        peft_config.magnitude_in(reading)
        configs: dict[str, Mapping[str, Any]] = {}
        for file, heads in fit.files.items():
            place = "/".join([*file.split("/")[:-1], CONFIG])
            config = package.documents.get(place)
            if isinstance(config, dict) and heads:
                component = next(iter(heads.values())).component
                configs[component] = config
                peft_config.require_known(config, place)
                peft_config.read_alphas(reading, component, config, place)
                peft_config.read_multipliers(reading, component, config)
                _read_rotations(reading, component, config)
        peft_config.keep(reading, KEPT, configs)
        return reading

    def roles(self, component: str) -> Mapping[Role, str]:
        """What PEFT's methods store; the rotation's number of terms is in the config. AdaLoRA is written as LoRA."""
        return _ROLES

    def place(self, key: Key, architecture: str) -> str | None:
        """`component/adapter_model.safetensors:base_model.model.…`; the config for what is kept there."""
        head = _inverse(architecture).get(Module(key.component, key.module))
        if head is None or key.role not in self.roles(key.component):
            return None
        if key.role is Role.OFT_TERMS:
            return f"{key.component}/{CONFIG}"
        return f"{key.component}/{WEIGHTS}:{head}{PEFT[key.role]}"

    def encode(self, adapter: Adapter) -> Encoded:
        """One folder a component."""
        modules = adapter.modules()
        kept = peft_config.kept(adapter.metadata.get(KEPT))
        metadata = {name: text for name, text in adapter.metadata.items() if name != KEPT}
        files: dict[str, File] = {}
        documents: dict[str, Any] = {}
        places: dict[Key, str | None] = {}
        for component in adapter.components():
            weights = architectures.get(adapter.architecture).weights[component]
            config = peft_methods.config(modules, component, weights)
            documents[f"{component}/{CONFIG}"] = _restored(config, kept.get(component, {}))
            tensors = {}
            for key, tensor in adapter.tensors.items():
                if key.component != component:
                    continue
                place = self.place(key, adapter.architecture)
                places[key] = place or f"{component}/{CONFIG}"
                if place and key.role is not Role.OFT_TERMS:
                    shaped = peft_config.multiplier_out(key, tensor, weights[key.module])
                    tensors[place.partition(":")[2]] = peft_config.magnitude_out(key, shaped)
            files[f"{component}/{WEIGHTS}"] = File(tensors, {**metadata, "format": "pt"})
        return Encoded(Package.new(files, documents), places)


def _restored(config: Mapping[str, Any], kept: Mapping[str, Any]) -> dict[str, Any]:
    """A config with what was kept of one of the same method, wherever it says nothing itself."""
    if kept.get("peft_type") != config["peft_type"]:
        return dict(config)
    return {**config, **{name: value for name, value in kept.items() if config.get(name) is None}}


def _read_rotations(reading: Reading, component: str, config: Mapping[str, Any]) -> None:
    """How many terms turn OFT_R into a rotation; 0 is the exact Cayley transform (OFTConfig.use_cayley_neumann)."""
    if str(config.get("peft_type")).upper() != "OFT":
        return
    series = config.get("use_cayley_neumann", True)
    terms = int(config.get("num_cayley_neumann_terms", NEUMANN_TERMS)) if series else 0
    if terms == NEUMANN_TERMS:
        return
    for module, tensors in reading.modules.items():
        if module.component == component and Role.OFT_R in tensors:
            tensors[Role.OFT_TERMS] = scalar(terms, "I32")


@cache
def _table(architecture: str, component: str) -> dict[str, Module]:
    paths = architectures.get(architecture).weights[component]
    short = {PREFIX + name: Module(component, path) for path in paths if (name := without_text_model(component, path))}
    return {**short, **{PREFIX + path: Module(component, path) for path in paths}}


@cache
def _inverse(architecture: str) -> dict[Module, str]:
    """Written as transformers ≥ 5.6 has them: PEFT loads nothing under a name that the model lacks, and says so at most."""
    weights = architectures.get(architecture).weights
    return {
        Module(component, path): PREFIX + (path.removeprefix("text_model.") if component in _FLATTENED else path)
        for component in weights
        if component != "vae"
        for path in weights[component]
    }


LAYOUT = Peft()
