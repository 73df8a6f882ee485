"""What a diffusers folder holds beside its weights: model_index.json, configurations, scheduler and tokenizers.

Written by hand: `pipelines/NAME.toml`, what the folders on the Hugging Face Hub say, and what each variant changes.
Source of the form: `DiffusionPipeline.save_pretrained` (diffusers), `PreTrainedConfig` and CLIPTokenizer (transformers).
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Collection, Mapping
from typing import Any

import adapterhub.architectures as architectures
from adapterhub.architectures import tokenizer
from adapterhub.architectures.inventory import FOLDER
from adapterhub.errors import UnknownName

Table = dict[str, Any]

VERSION = "0.36.0"
"""The diffusers whose form is written. Readers ask only whether it is below 0.9, whose sizes they mend."""
DTYPE = "float32"
"""What text encoders say that they are loaded as, whatever is stored, unless the reader is told. diffusers then loads its
models as float32 and transformers ≥ 5 what the configuration says; where the two differ, the pipeline cannot run.
"""


def documents(architecture: str, components: Collection[str], variants: Collection[str] = ()) -> dict[str, Any]:
    """Every file but the weights of a folder that `DiffusionPipeline.from_pretrained` opens, by relative name.

    A file is a JSON document, or text where its name ends in `.txt`; none is to be changed. `components` are those whose
    weights the folder holds: the others, and their tokenizers, are null in the index. `variants` are rows of the table:
    inpainting, instruct-pix2pix, v-prediction (SD 2 with 512 pixels is the one without it), zero-snr.
    Raises UnknownName for an architecture, component or variant that is not known.
    """
    table = _table(architecture, variants)
    scheduler, index = table["scheduler"], table["index"]
    files = {"scheduler/scheduler_config.json": _settings(scheduler)}
    slots = {"scheduler": ["diffusers", scheduler["_class_name"]]}
    for component in components:
        config = _config(architecture, table, component)
        files[f"{component}/config.json"] = _settings(config)
        slots[component] = _class(config)
        if row := table["tokenizers"].get(component):
            files |= {f"{row['folder']}/{name}": file for name, file in tokenizer.files(row["pad"]).items()}
            slots[row["folder"]] = ["transformers", tokenizer.CLASS]
    nothing = {name: [None, None] for name in _slots(table) if name not in slots}
    return {"model_index.json": _settings({**index, **slots, **nothing}), **files}


def classes(architecture: str) -> list[str]:
    """What the pipelines of an architecture are called in an index."""
    table = _stored(architecture)
    return [row["index"]["_class_name"] for row in (table, *table["variants"].values()) if "index" in row]


def _table(architecture: str, variants: Collection[str]) -> Table:
    """The table of an architecture with its configurations, and what `variants` change laid over it."""
    name, table = architectures.get(architecture).name, _stored(architecture)
    table["configs"] = json.loads((FOLDER / "configs" / f"{name}.json").read_text("utf-8"))
    known = table.pop("variants")
    for variant in sorted(variants):
        if variant not in known:
            raise UnknownName(f"variant of {architecture}", variant, tuple(known))
        table = _laid_over(table, known[variant])
    return table


def _stored(architecture: str) -> Table:
    name = architectures.get(architecture).name
    return tomllib.loads((FOLDER / "pipelines" / f"{name}.toml").read_text("utf-8"))


def _laid_over(below: Table, above: Mapping[str, Any]) -> Table:
    """`below` with the values of `above`, tables in tables merged."""
    merged = dict(below)
    for name, value in above.items():
        merged[name] = _laid_over(below[name], value) if isinstance(value, dict) else value
    return merged


def _slots(table: Table) -> list[str]:
    """What the pipeline has a place for, apart from its scheduler."""
    folders = [row["folder"] for row in table["tokenizers"].values()]
    return [*table["empty"], *table["configs"], *folders]


def _config(architecture: str, table: Table, component: str) -> Table:
    configs: dict[str, Table] = table["configs"]
    if component not in configs:
        raise UnknownName(f"component of {architecture}", component, tuple(configs))
    return configs[component]


def _class(config: Table) -> list[str]:
    if "_class_name" in config:
        return ["diffusers", config["_class_name"]]
    return ["transformers", config["architectures"][0]]


def _settings(settings: Table) -> Table:
    """Settings as diffusers or transformers write them: `torch_dtype` is the name that versions 4 and 5 both read."""
    written = {"_diffusers_version": VERSION} if "_class_name" in settings else {"torch_dtype": DTYPE}
    return dict(sorted({**settings, **written}.items()))
