"""The flags of `adapterhub train`: one for each setting, from the pydantic model that says what it is."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import click

from adapterhub.cli.options import OUTPUT

if TYPE_CHECKING:
    from adapterhub.documents import TrainingSettings

_WHOLE = frozenset({"sample_prompts"})
"""Texts in which a comma separates nothing."""
_METAVARS = {bool: "", int: "N", float: "X", str: "TEXT"}


def options(kind: type[TrainingSettings]) -> list[click.Option]:
    """A flag a setting, none of which has a value unless it is given: a TOML file may have said it."""
    return [_option(name, field.annotation, _help(field)) for name, field in kind.model_fields.items()]


def _option(name: str, annotation: Any, text: str) -> click.Option:
    spelled = f"--{name.replace('_', '-')}"
    form, held = _form(annotation)
    if name == "output":
        return click.Option(["-o", "--output", name], type=OUTPUT, metavar="FOLDER", help=text)
    if form is bool:
        return click.Option([f"{spelled}/--no-{name.replace('_', '-')}", name], default=None, help=text)
    if form is dict:
        return click.Option([spelled, name], multiple=True, metavar="KEY=VALUE", help=text)
    if form is tuple:
        choices = _choices(held)
        metavar = (
            "|".join(choices) if choices else f"{_METAVARS.get(held, 'TEXT')}{'...' if name in _WHOLE else ',...'}"
        )
        return click.Option([spelled, name], multiple=True, metavar=metavar, help=text)
    if choices := _choices(annotation):
        return click.Option([spelled, name], type=click.Choice(choices), help=text)
    kind = form if form in (int, float) else str
    return click.Option([spelled, name], type=kind, metavar=_METAVARS[kind], help=text)


def _form(annotation: Any) -> tuple[Any, Any]:
    """What is asked for (a type, tuple or dict), and what a tuple holds; None and what stands beside a tuple are left out."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _form(get_args(annotation)[0])
    if origin in (Union, UnionType):
        forms = [_form(one) for one in get_args(annotation) if one is not NoneType]
        return next((one for one in forms if one[0] is tuple), forms[0])
    return (origin, get_args(annotation)[0]) if origin in (tuple, dict) else (annotation, None)


def _choices(annotation: Any) -> list[str]:
    """The words of a Literal, alone or beside None."""
    parts = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return [str(word) for part in parts if get_origin(part) is Literal for word in get_args(part)]


def _help(field: Any) -> str:
    """The description, then unit, source and default in brackets."""
    extra = field.json_schema_extra or {}
    default = () if field.is_required() or field.default in (None, (), {}) else (f"default {_shown(field.default)}",)
    notes = [*(str(extra[name]) for name in ("unit", "source") if name in extra), *default]
    told = "; ".join(notes)
    return f"{field.description} [{told}]" if told else str(field.description)


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value).lower() if value in (True, False) else str(value)  # fmt: skip


def given(kind: type[TrainingSettings], values: Mapping[str, Any]) -> dict[str, Any]:
    """What the flags say, as the model takes it: those that were not given are left out."""
    told: dict[str, Any] = {}
    for name, value in values.items():
        form, _ = _form(kind.model_fields[name].annotation)
        if value in (None, ()):
            continue
        told[name] = _read(name, form, value, _choices(kind.model_fields[name].annotation))
    return told


def _read(name: str, form: Any, value: Any, words: list[str]) -> Any:
    if form is dict:
        return dict(_pair(name, text) for text in value)
    if form is not tuple:
        return str(value) if name == "output" else value
    parts = list(value) if name in _WHOLE else [part.strip() for text in value for part in text.split(",")]
    kept = [part for part in parts if part]
    return kept[0] if len(kept) == 1 and kept[0] in words else kept


def _pair(name: str, text: str) -> tuple[str, Any]:
    """KEY=VALUE, the value as TOML has it, or a text."""
    key, equals, value = text.rpartition("=")
    if not equals:
        raise click.UsageError(f"--{name.replace('_', '-')}: {text!r} is no KEY=VALUE")
    for line in (value, json.dumps(value)):
        try:
            if (read := tomllib.loads(f"x = {line}")).keys() == {"x"}:
                return key, read["x"]
        except ValueError:
            continue
    return key, value
