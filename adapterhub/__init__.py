"""The Python API: one function per command, each returning the document that its `--json` prints.

    import adapterhub

    adapterhub.inspect("style.safetensors").architecture      # "sdxl"
    adapterhub.convert("style.safetensors", "style-diffusers", to="diffusers").max_error      # 0.0

Everything is imported on first use, so that `import adapterhub` costs nothing. What goes wrong on purpose is an
`AdapterhubError`; the tree is in `adapterhub.errors`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adapterhub.documents import ArchitectureInfo, LayoutInfo
    from adapterhub.errors import AdapterhubError
    from adapterhub.files.progress import watched
    from adapterhub.operations.convert import convert
    from adapterhub.operations.diff import diff
    from adapterhub.operations.fit.compatible import compatible
    from adapterhub.operations.inspect import inspect
    from adapterhub.operations.lora.combine import combine
    from adapterhub.operations.lora.extract import extract
    from adapterhub.operations.lora.resize import resize
    from adapterhub.operations.merge.merge import merge
    from adapterhub.operations.merge.unmerge import unmerge
    from adapterhub.operations.plot import plot
    from adapterhub.operations.scale import scale
    from adapterhub.operations.validate import validate

    def layouts() -> list[LayoutInfo]: ...
    def architectures() -> list[ArchitectureInfo]: ...


__version__ = "0.1.0"
__all__ = [
    "AdapterhubError",
    "architectures",
    "combine",
    "compatible",
    "convert",
    "diff",
    "extract",
    "inspect",
    "layouts",
    "merge",
    "plot",
    "resize",
    "scale",
    "unmerge",
    "validate",
    "watched",
]

_HOMES = {
    "AdapterhubError": "adapterhub.errors",
    "convert": "adapterhub.operations.convert",
    "diff": "adapterhub.operations.diff",
    "combine": "adapterhub.operations.lora.combine",
    "compatible": "adapterhub.operations.fit.compatible",
    "extract": "adapterhub.operations.lora.extract",
    "inspect": "adapterhub.operations.inspect",
    "plot": "adapterhub.operations.plot",
    "resize": "adapterhub.operations.lora.resize",
    "scale": "adapterhub.operations.scale",
    "merge": "adapterhub.operations.merge.merge",
    "unmerge": "adapterhub.operations.merge.unmerge",
    "validate": "adapterhub.operations.validate",
    "watched": "adapterhub.files.progress",
}
_CALLABLE_MODULES = {"architectures", "layouts"}


def __getattr__(name: str) -> object:
    if name in _CALLABLE_MODULES:
        return import_module(f"adapterhub.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'adapterhub' has no attribute {name!r}")
    globals()[name] = value = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
