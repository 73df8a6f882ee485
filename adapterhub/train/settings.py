"""Settings: put together of a TOML file, single values and flags, written back as TOML, and told without paths."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from adapterhub import documents
from adapterhub.documents import TrainingSettings
from adapterhub.errors import UnknownName, UsageError

CONFIG = "config.toml"
_ANY = "<x>"
"""What every setting that must be given may be."""
PRIVATE = frozenset({"base", "images", "output", "class_images"})
"""Settings that are paths, which files that travel do not tell."""
_TITLES = {
    "textual-inversion": "TextualInversionSettings",
    "dreambooth": "DreamBoothSettings",
    "lora": "LoraSettings",
    "hypernetwork": "HypernetworkSettings",
}


def kind_of(technique: str) -> type[TrainingSettings]:
    """The settings of a technique."""
    if technique not in _TITLES:
        raise UnknownName("technique", technique, list(_TITLES))
    found: type[TrainingSettings] = getattr(documents, _TITLES[technique])
    return found


def read(
    technique: str, config: Path | None = None, singles: Iterable[str] = (), given: Mapping[str, Any] | None = None
) -> TrainingSettings:
    """The settings of a technique: what stands in the TOML file, under `singles` (key=value, each a line of TOML), under `given`.

    UsageError says which setting is wrong, and how it is mended.
    """
    return checked(kind_of(technique), together(config, singles, given or {}))


def together(config: Path | None, singles: Iterable[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they were told, not looked at yet."""
    told = _file(config) if config is not None else {}
    for text in singles:
        told = _over(told, _single(text))
    return _over(told, given)


def checked(kind: type[TrainingSettings], told: Mapping[str, Any]) -> TrainingSettings:
    """Settings of a kind. UsageError where they are not."""
    found = kind.tried(told)
    if isinstance(found, list):
        wrong = [_wrong(kind, one) for one in found]
        raise UsageError("; ".join(what for what, _ in wrong), mend=wrong[0][1])
    return found


def _wrong(kind: type[TrainingSettings], error: Mapping[str, Any]) -> tuple[str, str]:
    """What is wrong with a setting, and how it is mended."""
    name = str(error["loc"][0]) if error["loc"] else ""
    field = kind.model_fields.get(name)
    if not name:
        return str(error["msg"]).removeprefix("Value error, "), "Change one of the two."
    if field is None:
        near = difflib.get_close_matches(name, kind.model_fields, 1)
        known = f"Is it {near[0]}?" if near else f"Known: {', '.join(kind.model_fields)}."
        return f"there is no setting {name}", known
    mend = f"{flag(name)}: {field.description}."
    if error["type"] == "missing":
        return f"{name} is not given", mend
    where = ".".join(str(one) for one in (name, *error["loc"][1:2]) if isinstance(one, int | str))
    return f"{where} is {_short(error['input'])}: {str(error['msg']).removeprefix('Value error, ')}", mend


def flag(name: str) -> str:
    """What the command line calls a setting."""
    return "-o" if name == "output" else f"--{name.replace('_', '-')}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file", mend="Give --config a TOML file of settings.") from None
    except (ValueError, RecursionError) as error:  # tomllib's errors and those of UTF-8 are ValueErrors
        raise UsageError(f"{path} is no TOML file: {error}", mend="adapterhub train … --print-config shows one.") from None  # fmt: skip


def _single(text: str) -> dict[str, Any]:
    """`key = value` as TOML; what is no TOML value is taken for a text."""
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--set {text}: not KEY=VALUE", mend="As in --set learning_rate=1e-4.")
    for line in (f"{name}={value}", f"{name}={json.dumps(value.strip())}"):
        try:
            told = tomllib.loads(line)
        except (ValueError, RecursionError):
            continue
        if len(told) == 1:
            return told
    raise UsageError(f"--set {text}: {name} is no name of a setting", mend="As in --set learning_rate=1e-4.")


def _over(told: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """`more` in the place of what was told, dictionaries entry by entry."""
    merged = dict(told)
    for name, value in more.items():
        before = merged.get(name)
        both = isinstance(before, Mapping) and isinstance(value, Mapping)
        merged[name] = {**before, **value} if both else value  # type: ignore[dict-item] # mypy does not follow `both`
    return merged


def as_toml(settings: TrainingSettings) -> str:
    """A file that `--config` reads as the same settings."""
    given = settings.model_dump(mode="json", exclude_none=True)
    return "".join(f"{name} = {_value(value)}\n" for name, value in given.items())


def template(technique: str, told: Mapping[str, Any]) -> str:
    """`as_toml` of what was told so far; what must be given, and is not, stands there as comments that say what it is."""
    kind = kind_of(technique)
    missing = [name for name, field in kind.model_fields.items() if field.is_required() and name not in told]
    lines = as_toml(checked(kind, {**told, **dict.fromkeys(missing, _ANY)})).splitlines(keepends=True)
    open_ = {name: f'# {name} = ""  # {kind.model_fields[name].description}\n' for name in missing}
    return "".join(open_.get(line.partition(" = ")[0], line) for line in lines)


def _value(value: Any) -> str:
    """TOML's arrays, strings, numbers and truth values are those of JSON; its inline tables have equals signs."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(name)} = {_value(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def shown(settings: TrainingSettings) -> dict[str, Any]:
    """The settings that a file may tell anyone: those that were given, without paths."""
    told = settings.model_dump(mode="json", exclude_none=True)
    if "templates" in told:  # a name, or a file of the person who trains
        told["templates"] = Path(told["templates"]).name
    return {name: value for name, value in told.items() if name not in PRIVATE}
