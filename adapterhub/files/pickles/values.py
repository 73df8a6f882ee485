"""The inert values that a pickle's names and calls become."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from adapterhub.files.limits import Limits
from adapterhub.files.pickles.state import Refusal


@dataclass(frozen=True, slots=True, eq=False)
class Global:
    """A name that may stand in a pickle. `call`, with a number of arguments among `counts`, gives what a call of it
    means, `new` an empty object of it, and `value` is what the name itself stands for, if not for a function or class.
    """

    name: str
    call: Callable[..., Any] | None = None
    counts: Collection[int] = ()
    new: Callable[[], Any] | None = None
    value: Any = None


class Budget:
    """What one pickle may still make."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._keys, self._tensors = limits.keys, limits.tensors

    def check_key(self, key: Any) -> None:
        """Keys are text, or few and plain: hashes of other values can be made to collide."""
        if type(key) is str:
            return
        self._keys -= 1
        if self._keys < 0:
            raise Refusal("pickle-keys", f"more than {self.limits.keys} keys that are no text")
        small = isinstance(key, int) and abs(key) < 1 << 61
        if not (small or key is None or isinstance(key, bytes | float | Global)):
            raise Refusal("pickle-keys", f"a key that is neither text nor a small number: {type(key).__name__}")

    def count_tensor(self) -> None:
        self._tensors -= 1
        if self._tensors < 0:
            raise Refusal("too-many-tensors", f"more than {self.limits.tensors} tensors")


class Ordered(dict[Any, Any]):
    """An OrderedDict; torch hangs `_metadata` on that of a state_dict, which says nothing of tensors."""

    def build(self, state: Any) -> None:
        if type(state) is not dict or state.keys() != {"_metadata"}:
            raise Refusal("pickle-build", "the state of a collections.OrderedDict is other than torch's _metadata")


@dataclass(slots=True, eq=False)
class Record:
    """An object of a class that holds no weights, such as a callback of Lightning. `fields` are its attributes, if they
    are `kept` at all.
    """

    name: str
    kept: bool = False
    fields: dict[Any, Any] = field(default_factory=dict)

    def build(self, state: Any) -> None:
        if self.kept:
            if type(state) is not dict or self.fields:
                raise Refusal("pickle-build", f"the state of {self.name} is no dictionary")
            self.fields = state


@dataclass(slots=True, eq=False)
class Parameters:
    """A torch.nn.ParameterDict: its values lie in `_parameters` of its state; since torch 1.12 `_keys` orders them."""

    state: dict[Any, Any] = field(default_factory=dict)

    def build(self, state: Any) -> None:
        if type(state) is not dict or self.state or not isinstance(state.get("_parameters"), dict):
            raise Refusal("pickle-build", "the state of a torch.nn.ParameterDict without _parameters")
        self.state = state

    def content(self) -> dict[Any, Any]:
        """Its items; MalformedFile's Refusal where a key has no value."""
        parameters = self.state.get("_parameters", {})
        keys = self.state.get("_keys", parameters)
        if not isinstance(keys, dict) or any(key not in parameters and key not in self.state for key in keys):
            raise Refusal("pickle-build", "a torch.nn.ParameterDict with keys that have no values")
        return {key: parameters[key] if key in parameters else self.state[key] for key in keys}
