"""What the pickles of torch mean: storages, calls and states, each as a value of ours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from adapterhub.files.limits import Limits
from adapterhub.files.pickles.known import GLOBALS
from adapterhub.files.pickles.numpy_values import NumpyArray, NumpyType
from adapterhub.files.pickles.state import Refusal, shown
from adapterhub.files.pickles.tensors import Element, Storage
from adapterhub.files.pickles.values import Budget, Global, Ordered, Parameters, Record

_LEGACY = 6
"""Parts of a storage's persistent id in a legacy file."""
_LONG_KEY = 64
"""Characters of the key or the device of a storage."""


class TorchMeanings:
    """`find_storage` is told of every storage when it is first named. `storages` by key; `left_out` counts by class the
    objects whose content is ignored.
    """

    def __init__(self, limits: Limits, find_storage: Callable[[Storage], None], *, legacy: bool = False) -> None:
        self.storages: dict[str, Storage] = {}
        self.left_out: Counter[str] = Counter()
        self._find_storage = find_storage
        self._parts = _LEGACY if legacy else _LEGACY - 1
        self._budget = Budget(limits)

    def find(self, module: str, name: str) -> Any:
        """What the name `module.name` stands for."""
        found = GLOBALS.get((module, name))
        if found is None:
            whole = shown(f"{module[:200]}.{name[:200]}")
            raise Refusal("pickle-global", f"the global {whole}, which no file of tensors needs")
        return found if found.value is None else found.value

    def call(self, function: Any, arguments: tuple[Any, ...]) -> Any:
        """What calling `function` gives."""
        if not isinstance(function, Global) or function.call is None:
            raise Refusal("pickle-call", f"a call of {_kind(function)}")
        if len(arguments) not in function.counts:
            raise Refusal("pickle-call", f"{function.name} is called with {len(arguments)} arguments")
        return function.call(self._budget, *arguments)

    def new(self, kind: Any, arguments: tuple[Any, ...]) -> Any:
        """An empty object of a class."""
        if not isinstance(kind, Global) or kind.new is None or arguments:
            raise Refusal("pickle-call", f"an object is made of {_kind(kind)}")
        made = kind.new()
        if isinstance(made, Record) and not made.kept:
            self.left_out[made.name] += 1
        return made

    def build(self, value: Any, state: Any) -> None:
        if not isinstance(value, Ordered | Record | Parameters | NumpyType | NumpyArray):
            raise Refusal("pickle-build", f"a state is set on {_kind(value)}, which has none")
        value.build(state)

    def check_key(self, key: Any) -> None:
        self._budget.check_key(key)

    def persistent(self, identifier: Any) -> Any:
        """What a persistent id stands for: a storage, or in a legacy file a module's class, which comes with its source."""
        if self._parts == _LEGACY and type(identifier) is tuple and identifier[:1] == ("module",):
            if len(identifier) != 4 or not isinstance(identifier[1], Global) or identifier[1].new is None:
                raise Refusal("pickle-persistent", "a persistent id for what is no class of a module")
            return identifier[1]
        return self._storage(identifier)

    def _storage(self, identifier: Any) -> Storage:
        """That of torch's tuple `("storage", class, key, device, elements)`; legacy files add None, for no view."""
        if type(identifier) is not tuple or len(identifier) != self._parts or identifier[0] != "storage":
            raise Refusal("pickle-persistent", "a persistent id that is not torch's for a storage")
        _, element, key, device, count, *view = identifier
        if not isinstance(element, Element) or not _short(key) or not _short(device) or view not in ([], [None]):
            raise Refusal("pickle-persistent", "a storage whose class, key, device or view is not like torch's")
        if type(count) is not int or not 0 <= count < 1 << 60:
            raise Refusal("pickle-persistent", f"a storage of {shown(count)} elements")
        if device.startswith("meta"):
            raise Refusal("pickle-persistent", "a storage on the device meta, which has no bytes")
        known = self.storages.get(key)
        if known is None:
            known = self.storages[key] = Storage(element, key, device, count)
            self._find_storage(known)
        elif (known.element, known.count, known.device) != (element, count, device):
            raise Refusal("pickle-persistent", f"storage {shown(key)} is described in two ways")
        return known


def _short(text: Any) -> bool:
    return type(text) is str and 0 < len(text) <= _LONG_KEY


def _kind(value: Any) -> str:
    return value.name if isinstance(value, Global | Record) else f"a value of the type {type(value).__name__}"
