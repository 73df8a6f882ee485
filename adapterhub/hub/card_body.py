"""Our part of a card's body, from facts: sections that users of the Hub know, each left out where there is nothing to say."""

from __future__ import annotations

from adapterhub.adapter import Kind
from adapterhub.documents import Recipe
from adapterhub.hub.card_facts import Facts
from adapterhub.hub.card_snippets import UNKNOWN, snippet
from adapterhub.hub.card_training import rows
from adapterhub.hub.markdown import code, codes, escaped, title
from adapterhub.operations.recipe import FIELD

_TITLES = {
    Kind.LORA: "A LoRA", Kind.EMBEDDING: "An embedding (textual inversion)", Kind.HYPERNETWORK: "A hypernetwork",
    Kind.CHECKPOINT: "A whole model",
}  # fmt: skip
_TRAINED = {
    "modelspec.author": "Author", "modelspec.date": "Date", "ss_training_comment": "Comment", "ss_network_module": "Module",
    "ss_num_train_images": "Pictures", "ss_num_epochs": "Epochs", "ss_steps": "Steps", "ss_max_train_steps": "Steps planned",
    "ss_batch_size_per_device": "Batch size", "ss_learning_rate": "Learning rate", "ss_unet_lr": "Learning rate, UNet",
    "ss_text_encoder_lr": "Learning rate, text encoders", "ss_optimizer": "Optimizer", "ss_lr_scheduler": "Schedule",
    "ss_resolution": "Resolution", "ss_clip_skip": "Clip skip", "ss_noise_offset": "Noise offset", "ss_mixed_precision":
    "Precision", "ss_seed": "Seed",
}  # fmt: skip
"""Kohya's fields (`library/train_util.py`) and ModelSpec's, as a card calls them."""
_NOTHING = frozenset({"", "None", "null", "{}", "[]"})
_LISTED = 24
_HYPERNETWORK = (
    "For A1111 and Forge: put the `.pt` file into `models/hypernetworks` and choose it under *Hypernetwork* in the settings. "
    "The `.safetensors` file is adapterhub's own form of it."
)


def body(facts: Facts) -> str:
    """The whole of it, headings included."""
    sections = [
        ("", [f"# {title(facts.name)}", *(["<Gallery />"] if facts.pictures else []), *_description(facts)]),
        ("What it is", _identity(facts)), ("Trigger words", _triggers(facts)), ("Files", _files(facts)),
        ("Use it", _use(facts)), ("Training", _training(facts)), ("Fidelity", _fidelity(facts)),
        ("Lineage", _lineage(facts)), ("Licence", _licence(facts)),
    ]  # fmt: skip
    parts = [part for heading, lines in sections if lines for part in ([f"## {heading}"] if heading else []) + lines]
    return "\n\n".join(parts) + "\n"


def _rows(rows: dict[str, str]) -> list[str]:
    lines = [f"- {name}: {value}" for name, value in rows.items() if value]
    return ["\n".join(lines)] if lines else []


def _description(facts: Facts) -> list[str]:
    told = facts.metadata.get("modelspec.description", "")
    return [escaped(told, 2000)] if told.strip() else []


def _identity(facts: Facts) -> list[str]:
    found = facts.found
    variant = f", {code(found.variant)}" if found.variant else ""
    return _rows({
        "Kind": _TITLES[facts.kind],
        "Architecture": f"{code(found.architecture or '')}{variant}" if found.architecture else "",
        "For": code(facts.base_model or ""),
        "Algorithms": codes([f"{name}: {count}" for name, count in found.algorithms.items()]),
        "Ranks": codes([f"{name}: {count}" for name, count in found.ranks.items()][:_LISTED]),
        "Components": codes([f"{name}: {count}" for name, count in found.components.items()]),
        "Vectors": str(found.vectors or ""),
        "Size": f"{found.parameters:,} numbers ({codes(list(found.dtypes))})",
        "Fingerprint": code(found.fingerprint or ""),
    })  # fmt: skip


def _triggers(facts: Facts) -> list[str]:
    said = [facts.instance_prompt] if facts.instance_prompt else []
    words = list(dict.fromkeys([*said, *facts.triggers]))
    return [f"Use {codes(words[:_LISTED])} in the prompt."] if words else []


def _files(facts: Facts) -> list[str]:
    shown = [f"- {code(name)}" for name in facts.files[:_LISTED]]
    more = [f"- and {len(facts.files) - _LISTED} more"] if len(facts.files) > _LISTED else []
    return ["\n".join([*shown, *more])]


def _use(facts: Facts) -> list[str]:
    shown = snippet(facts)
    if not shown:
        return [_HYPERNETWORK]
    hint = f"Write the model that it is for in the place of `{UNKNOWN}`." if f'"{UNKNOWN}"' in shown else ""
    return [*([hint] if hint else []), f"```python\n{shown}```"]


def _training(facts: Facts) -> list[str]:
    said = {label: facts.metadata.get(name, "").strip() for name, label in _TRAINED.items()}
    told = {label: text for label, text in said.items() if text not in _NOTHING} | rows(facts.metadata)
    return _rows({label: code(text, 160) for label, text in told.items()})


def _fidelity(facts: Facts) -> list[str]:
    lines = []
    for done in facts.fidelity:
        error = "" if done.max_error is None else f", max error {done.max_error:.3g} over {done.modules} modules"
        lines.append(f"- {code(done.layout)}: {done.exactness}{error}")
    head = "What was converted for this repository was opened again and compared with its source:"
    return [f"{head}\n\n" + "\n".join(lines)] if lines else []


def _lineage(facts: Facts) -> list[str]:
    try:
        recipe = Recipe.read(facts.metadata.get(FIELD, "").encode())
    except ValueError:
        return []
    rows = [f"- {code(one.name)}" + (f" (sha256 {code(one.sha256)})" if one.sha256 else "") for one in recipe.inputs]
    return [f"Made by {code(f'adapterhub {recipe.command}')} of:\n\n" + "\n".join(rows[:_LISTED])] if rows else []


def _licence(facts: Facts) -> list[str]:
    return [code(facts.license["license"])] if "license" in facts.license else []
