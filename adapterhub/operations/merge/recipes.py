"""The recipe of a merge: what was merged into what, so that it can be told, and repeated to the same bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adapterhub import files
from adapterhub.errors import AdapterhubError, RefusedInput
from adapterhub.files import DIGEST
from adapterhub.files.source import machine
from adapterhub.operations.merge.strengths import Part

FIELD, FROM = "adapterhub.recipe", "modelspec.merged_from"
_LARGEST = 16 << 20


@dataclass(frozen=True)
class Order:
    """Everything that the bytes of the result depend on; `digests` and `fingerprints` are those of a recipe that is
    repeated, by path.
    """

    base: Path
    parts: Sequence[Part]
    blocks: str | None = None
    factors: Mapping[str, float] | None = None
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    dtype: str | None = None
    rounding: str = "nearest"
    seed: int = 0
    architecture: str | None = None
    allow_loss: bool = False
    digests: Mapping[str, str] | None = None

    def require(self, path: Path, found: str) -> None:
        """Raises AdapterhubError where a file is not the one that the recipe was made with."""
        wanted = (self.digests or {}).get(str(path), found)
        if wanted != found:
            raise AdapterhubError(f"{path} is not the file of the recipe: its sha256 is {found}, and not {wanted}",
                                  mend="Put the file of the recipe there.")  # fmt: skip


def written(order: Order, adapters: Sequence[tuple[str, str]], base: str = DIGEST) -> str:
    """The recipe in JSON; `adapters` are the sha256 and fingerprint of each, `base` the sha256 of the base."""
    from importlib.metadata import version

    document: dict[str, Any] = {
        "adapterhub": version("adapterhub"),
        "base": {"path": str(order.base), "sha256": base},
        "adapters": [
            {
                "path": str(part.path),
                "sha256": digest,
                "fingerprint": mark,
                "unet": part.unet,
                "text_encoder": part.text,
            }
            for part, (digest, mark) in zip(order.parts, adapters, strict=True)
        ],
        **{name: value for name, value in _options(order).items() if value not in (None, [], {}, False)},
    }
    return json.dumps(document, ensure_ascii=False)


def _options(order: Order) -> dict[str, Any]:
    chance = order.rounding != "nearest"
    return {
        "blocks": None if order.factors else order.blocks, "factors": dict(order.factors or {}),
        "include": list(order.include), "exclude": list(order.exclude), "dtype": order.dtype,
        "rounding": order.rounding if chance else None, "seed": order.seed if chance else None,
        "architecture": order.architecture, "allow_loss": order.allow_loss,
    }  # fmt: skip


def merged_from(order: Order) -> str:
    """ModelSpec's field: the names of all that was merged."""
    return ", ".join(path.stem for path in (order.base, *(part.path for part in order.parts)))


def read(path: Path) -> Order:
    """The order in a recipe: a JSON file, or the metadata of a model that was merged. RefusedInput where there is none."""
    try:
        document = json.loads(_text(path))
        base, adapters = document["base"], document["adapters"]
        order = Order(
            Path(base["path"]),
            [Part(Path(one["path"]), float(one["unet"]), float(one["text_encoder"])) for one in adapters],
            digests={str(Path(one["path"])): str(one["sha256"]) for one in (base, *adapters)},
        )
        return replace(order, **{name: _typed(name, document[name]) for name in _TYPES if name in document})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RefusedInput(f"{path}: no recipe of a merge: {type(error).__name__} {error}",
                           mend="Give a merged model, or the JSON of its adapterhub.recipe.") from None  # fmt: skip


_TYPES: Mapping[str, type] = {
    "blocks": str, "factors": dict, "include": list, "exclude": list, "dtype": str, "rounding": str, "seed": int,
    "architecture": str, "allow_loss": bool,
}  # fmt: skip


def _typed(name: str, value: Any) -> Any:
    if not isinstance(value, _TYPES[name]):
        raise TypeError(f"{name} is no {_TYPES[name].__name__}")
    return value


def _text(path: Path) -> str:
    if path.is_dir() or path.suffix in (".safetensors", ".ckpt"):
        with files.read(path) as package:
            return next((file.metadata[FIELD] for file in package.files.values() if FIELD in file.metadata), "")
    with machine("read", path), path.open("rb") as stream:
        return stream.read(_LARGEST).decode()
