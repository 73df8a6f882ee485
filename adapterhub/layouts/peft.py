"""PEFT: a directory per component with `adapter_config.json` and `adapter_model.safetensors`; also the latter alone.

Source: huggingface/peft `utils/save_and_load.py` (`get_peft_model_state_dict`), `tuners/*/config.py`. Rank and alpha are in
the config; one directory holds one method.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import adapterhub.architectures as architectures
from adapterhub.adapter import Adapter, Key, Kind, Module, Role, Roles
from adapterhub.algorithms import algorithm_of
from adapterhub.architectures import Architecture
from adapterhub.errors import LossyConversion
from adapterhub.files import File, Package
from adapterhub.layouts import peft_config
from adapterhub.layouts.base import AlphaPlace, Encoded, Fit, Reading, fit_of, reading_of
from adapterhub.layouts.spelled import Spelled
from adapterhub.layouts.spellings import without_text_model
from adapterhub.layouts.suffixes import PEFT, READ_ONLY
from adapterhub.tensors import item, scalar

PREFIX = "base_model.model."
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_READABLE = frozenset(suffix[1:] for suffix in (*PEFT.values(), *READ_ONLY))
_NEUMANN_TERMS = 5  # OFTConfig.num_cayley_neumann_terms


@dataclass(frozen=True)
class Peft:
    """See the module."""

    name: str = "peft"
    kind: Kind = Kind.LORA
    summary: str = "a directory per component: `adapter_config.json` + `adapter_model.safetensors`"
    alpha: AlphaPlace = AlphaPlace.METADATA
    directory: bool = True
    writes: bool = True

    def explains(self, package: Package, spelled: Mapping[str, Spelled], architecture: Architecture,
                 *, lenient: bool = False) -> Fit | None:  # fmt: skip
        """Every file, by the component that its folder names or, where that says nothing, by the first that fits."""
        files: dict[str, Mapping[str, Module]] = {}
        for file, source in spelled.items():
            if not lenient and not source.suffixes <= _READABLE:
                return None
            if not any(head.startswith(PREFIX) for head in source.heads):
                return None
            found = self._component(file, source, architecture, files)
            if found is None or (not lenient and len(found) < len(source.heads)):
                return None
            files[file] = found
        codes = {head: "text-model-missing" for heads in files.values() for head, module in heads.items()
                 if PREFIX + module.module != head}  # fmt: skip
        return fit_of(self, architecture, spelled, files, readable=_READABLE, codes=codes)

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
        for file, heads in fit.files.items():
            place = "/".join([*file.split("/")[:-1], CONFIG])
            config = package.documents.get(place)
            if isinstance(config, dict) and heads:
                component = next(iter(heads.values())).component
                peft_config.read_alphas(reading, component, config, place)
                _read_rotations(reading, component, config)
        return reading

    def roles(self, component: str) -> Mapping[Role, str]:
        """What PEFT's methods store; the rotation's number of terms is in the config."""
        return {**PEFT, Role.OFT_TERMS: ""}

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
        files: dict[str, File] = {}
        documents: dict[str, Any] = {}
        places: dict[Key, str | None] = {}
        for component in adapter.components():
            documents[f"{component}/{CONFIG}"] = _config(modules, component)
            tensors = {}
            for key, tensor in adapter.tensors.items():
                if key.component != component:
                    continue
                place = self.place(key, adapter.architecture)
                places[key] = place or f"{component}/{CONFIG}"
                if place and key.role is not Role.OFT_TERMS:
                    tensors[place.partition(":")[2]] = peft_config.magnitude_out(key, tensor)
            files[f"{component}/{WEIGHTS}"] = File(tensors, {**adapter.metadata, "format": "pt"})
        return Encoded(Package.new(files, documents), places)

    def default_name(self, path: Path) -> Path:
        """The folder itself."""
        return path


def _config(modules: Mapping[Module, Roles], component: str) -> dict[str, Any]:
    """`adapter_config.json` of one component."""
    mine = [tensors for module, tensors in sorted(modules.items()) if module.component == component]
    methods = {_method(tensors) for tensors in mine}
    if len(methods) > 1 or None in methods:
        raise LossyConversion(
            f"PEFT keeps one method a directory, and the {component} holds {', '.join(sorted(map(str, methods)))}",
            [(component, "several methods")], mend="Use --as lora, or another layout.",
        )  # fmt: skip
    (method,) = methods
    fields = peft_config.config_of(modules, component)
    config = {"peft_type": method, "task_type": None, "inference_mode": True, "bias": "none", "base_model_name_or_path": None,
              "target_modules": fields["target_modules"]}  # fmt: skip
    return {**config, **_METHODS[str(method)](fields, mine)}


def _lora_fields(fields: dict[str, Any], mine: list[Roles]) -> dict[str, Any]:
    named = ("r", "rank_pattern", "alpha_pattern", "use_dora", "lora_bias")
    return {"lora_alpha": fields["alpha"], **{name: fields[name] for name in named}}


def _product_fields(fields: dict[str, Any], mine: list[Roles]) -> dict[str, Any]:
    conv = any(role in tensors for tensors in mine for role in (Role.HADA_T1, Role.LOKR_T2))
    named = ("r", "rank_pattern", "alpha", "alpha_pattern")
    return {**{name: fields[name] for name in named}, "use_effective_conv2d": conv}


def _lokr_fields(fields: dict[str, Any], mine: list[Roles]) -> dict[str, Any]:
    both = any(Role.LOKR_W1_A in tensors for tensors in mine)
    return {**_product_fields(fields, mine), "decompose_both": both, "decompose_factor": -1}


def _ia3_fields(fields: dict[str, Any], mine: list[Roles]) -> dict[str, Any]:
    forward = [name for name, tensors in zip(fields["target_modules"], mine, strict=True)
               if tensors[Role.IA3_L].shape[0] == 1]  # fmt: skip
    return {"feedforward_modules": forward}


def _oft_fields(fields: dict[str, Any], mine: list[Roles]) -> dict[str, Any]:
    terms = {int(item(tensors[Role.OFT_TERMS])) if Role.OFT_TERMS in tensors else _NEUMANN_TERMS for tensors in mine}
    width = {int((1 + (1 + 8 * tensors[Role.OFT_R].shape[1]) ** 0.5) / 2) for tensors in mine}
    number = max(terms)
    return {"r": 0, "oft_block_size": max(width), "use_cayley_neumann": number > 0,
            "num_cayley_neumann_terms": number or _NEUMANN_TERMS, "coft": False, "block_share": False}  # fmt: skip


def _boft_fields(fields: dict[str, Any], mine: list[Roles]) -> dict[str, Any]:
    shape = mine[0][Role.BOFT_R].shape
    return {"boft_block_size": shape[-1], "boft_block_num": 0, "boft_n_butterfly_factor": shape[0]}


_METHODS = {
    "LORA": _lora_fields, "LOHA": _product_fields, "LOKR": _lokr_fields,
    "IA3": _ia3_fields, "OFT": _oft_fields, "BOFT": _boft_fields,
}  # fmt: skip


def _method(tensors: Roles) -> str | None:
    algorithm = algorithm_of(tensors)
    return algorithm and peft_config.PEFT_TYPES.get(algorithm.name)


def _read_rotations(reading: Reading, component: str, config: Mapping[str, Any]) -> None:
    """How many terms turn OFT_R into a rotation; 0 is the exact Cayley transform (OFTConfig.use_cayley_neumann)."""
    if str(config.get("peft_type")).upper() != "OFT":
        return
    terms = int(config.get("num_cayley_neumann_terms", _NEUMANN_TERMS)) if config.get("use_cayley_neumann", True) else 0
    if terms == _NEUMANN_TERMS:
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
    weights = architectures.get(architecture).weights
    return {
        Module(component, path): PREFIX + path
        for component in weights
        if component != "vae"
        for path in weights[component]
    }


LAYOUT = Peft()
