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
    import builtins
    from collections.abc import Iterable

    from adapterhub import train
    from adapterhub.documents import ArchitectureInfo, LayoutInfo
    from adapterhub.errors import AdapterhubError
    from adapterhub.files.progress import watched
    from adapterhub.hub.pull import pull
    from adapterhub.hub.push import push
    from adapterhub.hub.remote import inspect, validate
    from adapterhub.hub.search import search_hub
    from adapterhub.operations.convert import convert
    from adapterhub.operations.diff import diff
    from adapterhub.operations.fit.compatible import compatible
    from adapterhub.operations.header.edit import metadata
    from adapterhub.operations.lora.combine import combine
    from adapterhub.operations.lora.extract import extract
    from adapterhub.operations.lora.resize import resize
    from adapterhub.operations.merge.merge import merge
    from adapterhub.operations.merge.unmerge import unmerge
    from adapterhub.operations.plot import plot
    from adapterhub.operations.scale import scale
    from adapterhub.registry.backup import backup, restore
    from adapterhub.registry.doctor import doctor
    from adapterhub.registry.edit import alias, note, rate, remove, tag
    from adapterhub.registry.editing import record_edit
    from adapterhub.registry.export import export
    from adapterhub.registry.find import list_, search
    from adapterhub.registry.importing import import_
    from adapterhub.registry.index import index
    from adapterhub.registry.kin import duplicates, similar
    from adapterhub.registry.lineage import lineage
    from adapterhub.registry.lock import lock
    from adapterhub.registry.recording import record, record_training
    from adapterhub.registry.replay import replay
    from adapterhub.registry.show import show
    from adapterhub.registry.sidecars import export_sidecars
    from adapterhub.registry.sync import sync
    from adapterhub.registry.verify import verify
    from adapterhub.registry.watch import watch

    list = list_  # noqa: A001

    def layouts() -> builtins.list[LayoutInfo]: ...
    def architectures() -> builtins.list[ArchitectureInfo]: ...


__version__ = "0.1.0"
__all__ = [
    "AdapterhubError",
    "alias",
    "architectures",
    "backup",
    "combine",
    "compatible",
    "convert",
    "diff",
    "doctor",
    "duplicates",
    "export",
    "export_sidecars",
    "extract",
    "import_",
    "index",
    "inspect",
    "layouts",
    "lineage",
    "list",
    "lock",
    "merge",
    "metadata",
    "note",
    "plot",
    "pull",
    "push",
    "rate",
    "record",
    "record_edit",
    "record_training",
    "remove",
    "replay",
    "resize",
    "restore",
    "scale",
    "search",
    "search_hub",
    "show",
    "similar",
    "sync",
    "tag",
    "train",
    "unmerge",
    "validate",
    "verify",
    "watch",
    "watched",
]

_HOMES = {
    "AdapterhubError": "adapterhub.errors",
    "convert": "adapterhub.operations.convert",
    "push": "adapterhub.hub.push",
    "diff": "adapterhub.operations.diff",
    "combine": "adapterhub.operations.lora.combine",
    "compatible": "adapterhub.operations.fit.compatible",
    "extract": "adapterhub.operations.lora.extract",
    "inspect": "adapterhub.hub.remote",
    "plot": "adapterhub.operations.plot",
    "resize": "adapterhub.operations.lora.resize",
    "scale": "adapterhub.operations.scale",
    "merge": "adapterhub.operations.merge.merge",
    "unmerge": "adapterhub.operations.merge.unmerge",
    "validate": "adapterhub.hub.remote",
    "index": "adapterhub.registry.index",
    "show": "adapterhub.registry.show",
    "list": "adapterhub.registry.find:list_",  # the builtin's name, outside of it
    "search": "adapterhub.registry.find",
    "tag": "adapterhub.registry.edit",
    "note": "adapterhub.registry.edit",
    "rate": "adapterhub.registry.edit",
    "alias": "adapterhub.registry.edit",
    "record": "adapterhub.registry.recording",
    "record_edit": "adapterhub.registry.editing",
    "record_training": "adapterhub.registry.recording",
    "remove": "adapterhub.registry.edit",
    "replay": "adapterhub.registry.replay",
    "duplicates": "adapterhub.registry.kin",
    "similar": "adapterhub.registry.kin",
    "lineage": "adapterhub.registry.lineage",
    "watch": "adapterhub.registry.watch",
    "verify": "adapterhub.registry.verify",
    "doctor": "adapterhub.registry.doctor",
    "backup": "adapterhub.registry.backup",
    "restore": "adapterhub.registry.backup",
    "export": "adapterhub.registry.export",
    "export_sidecars": "adapterhub.registry.sidecars",
    "import_": "adapterhub.registry.importing",
    "lock": "adapterhub.registry.lock",
    "sync": "adapterhub.registry.sync",
    "pull": "adapterhub.hub.pull",
    "search_hub": "adapterhub.hub.search",
    "watched": "adapterhub.files.progress",
}
_CALLABLE_MODULES = {"architectures", "layouts", "metadata", "train"}


def __getattr__(name: str) -> object:
    if name in _CALLABLE_MODULES:
        return import_module(f"adapterhub.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'adapterhub' has no attribute {name!r}")
    module, _, called = _HOMES[name].partition(":")
    globals()[name] = value = getattr(import_module(module), called or name)
    return value


def __dir__() -> Iterable[str]:
    return sorted({*globals(), *__all__})
