"""Metadata across layouts: what a new file must say anew, and what the ecosystem's readers filter by. All else is carried.

Sources: Stability-AI/ModelSpec 1.0.1; Kohya's `ss_*` and `sshs_*` (`networks/lora.py`, `library/train_util.py`); Forge
filters by the exact `modelspec.architecture` strings.
"""

from __future__ import annotations

from collections.abc import Mapping

from adapterhub.files import DIGEST

SPEC = "1.0.1"
_IMPLEMENTATION = {
    "stable-diffusion-xl-v1-base": "https://github.com/Stability-AI/generative-models",
    "stable-diffusion-xl-v1-refiner": "https://github.com/Stability-AI/generative-models",
}
"""What Kohya writes for SDXL; `diffusers` for the others."""

# Hashes of the tensor data, as a template around the digest. `sshs_legacy_hash` covers bytes of the old header too and
# cannot be made true, so it goes.
_HASHES = {"sshs_model_hash": DIGEST, "modelspec.hash_sha256": f"0x{DIGEST}"}
HASHED = frozenset(_HASHES)
"""Fields whose DIGEST the writer replaces by the sha256 of the tensor data."""

_UNTRUE_AFTER_A_CHANGE = ("sshs_legacy_hash",)

# What A1111 asks of every file that has any metadata: "sdxl_…" → SDXL, else `ss_v2` "True" → SD 2, else SD 1.
_KOHYA = {
    "stable-diffusion-v1": {"ss_base_model_version": "sd_v1", "ss_v2": "False"},
    "stable-diffusion-v2-512": {"ss_base_model_version": "sd_v2", "ss_v2": "True"},
    "stable-diffusion-xl-v1-base": {"ss_base_model_version": "sdxl_base_v1-0", "ss_v2": "False"},
    "stable-diffusion-xl-v1-refiner": {"ss_base_model_version": "sdxl_refiner_v1-0", "ss_v2": "False"},
}


def renewed(metadata: Mapping[str, str], modelspec: str, title: str) -> dict[str, str]:
    """The metadata of a new file of architecture `modelspec`: what readers filter by is there and true, the rest as it was.

    `title` is used where the old file had none. The v-prediction and 512 flavours of an architecture id are kept, and so is
    any `ss_base_model_version` of the same family ("sd_v2_v", "sdxl_…").
    """
    fields = {name: text for name, text in metadata.items() if name not in _UNTRUE_AFTER_A_CHANGE}
    told = fields.get("modelspec.architecture", "")
    fields["modelspec.architecture"] = told if _same_family(told, modelspec) else f"{modelspec}/lora"
    fields.setdefault("modelspec.sai_model_spec", SPEC)
    fields.setdefault("modelspec.implementation", _IMPLEMENTATION.get(modelspec, "diffusers"))
    fields.setdefault("modelspec.title", title)
    fields |= _kohya(fields, modelspec)
    return {**fields, **_HASHES}


def _kohya(fields: Mapping[str, str], modelspec: str) -> Mapping[str, str]:
    """Kohya's two fields, unless what stands there says the same family."""
    true = _KOHYA.get(modelspec, {})
    family = true.get("ss_base_model_version", "").partition("_base")[0].partition("_refiner")[0]
    told = fields.get("ss_base_model_version", "").replace("sd_1", "sd_v1").replace("sd_2", "sd_v2")
    same = family and told.startswith(family)
    return {name: fields[name] if same and name in fields else text for name, text in true.items()}


def _same_family(told: str, modelspec: str) -> bool:
    """Whether an id is `modelspec`'s or, for SD 2, its v-prediction twin, spelled as Forge compares it."""
    family = {"stable-diffusion-v2-512": {"stable-diffusion-v2-512", "stable-diffusion-v2-768-v"}}
    return told in {f"{name}/lora" for name in family.get(modelspec, {modelspec})}


def contradictions(metadata: Mapping[str, str], ranks: set[int], modelspec: str) -> list[tuple[str, str]]:
    """(field, message) where metadata says something that the tensors deny."""
    found = []
    dim = metadata.get("ss_network_dim", "")
    if dim.isdigit() and ranks and int(dim) not in ranks:
        found.append(("ss_network_dim", f"says {dim}, and the ranks are {', '.join(map(str, sorted(ranks)))}"))
    told = metadata.get("modelspec.architecture")
    if told and not _same_family(told.partition("/")[0] + "/lora", modelspec):
        found.append(("modelspec.architecture", f"says {told!r}, and the tensors fit {modelspec}"))
    return found
