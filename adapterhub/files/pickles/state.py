"""What a pickle works on while it is read: stack, marks, memo, frame, and what all that may cost."""

from __future__ import annotations

from typing import Any, Protocol

from adapterhub.files.limits import Limits

ENTRY, SLOT, CONTAINER, OBJECT = 100, 12, 260, 700
"""Bytes, estimated from above, of an entry of a dictionary, a place in a list, a container with one item, an object."""


class Refusal(Exception):
    """A pickle breaks `rule`; `at` is the byte of the opcode that does."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule, self.message = rule, message
        self.at: int | None = None


class Cut(Refusal):
    """The pickle goes on behind the bytes that are there."""

    def __init__(self) -> None:
        super().__init__("pickle-cut", "the pickle is cut: it ends before its end mark")


class Meanings(Protocol):
    """What the names and calls of a pickle mean: inert values, or a Refusal."""

    def find(self, module: str, name: str) -> Any: ...

    def persistent(self, identifier: Any) -> Any: ...

    def call(self, function: Any, arguments: tuple[Any, ...]) -> Any: ...

    def new(self, kind: Any, arguments: tuple[Any, ...]) -> Any: ...

    def build(self, value: Any, state: Any) -> None: ...

    def check_key(self, key: Any) -> None: ...


class State:
    """One pickle in `data`; every method raises Refusal for what breaks a rule."""

    def __init__(self, data: bytes, meanings: Meanings, limits: Limits) -> None:
        self.data, self.meanings, self.limits = data, meanings, limits
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.frame: int | None = None
        self._memory = limits.pickle_memory

    def within(self, start: int, count: int) -> int:
        """The end of `count` bytes from `start`, which must be there."""
        end = start + count
        if end > len(self.data):
            raise Cut
        return end

    def push(self, value: Any, cost: int = 0) -> None:
        if len(self.stack) >= self.limits.stack:
            raise Refusal("pickle-stack", f"more than {self.limits.stack} values on the stack")
        self.spend(cost)
        self.stack.append(value)

    def spend(self, cost: int) -> None:
        """Counts `cost` bytes against what the pickle may take."""
        self._memory -= cost
        if self._memory < 0:
            raise Refusal("pickle-memory", f"the pickle makes values of more than {self.limits.pickle_memory} bytes")

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise Refusal("pickle-stack", "a value is taken where there is none")
        return self.stack.pop()

    def top(self) -> Any:
        self.stack.append(value := self.pop())
        return value

    def mark(self) -> None:
        if len(self.marks) >= self.limits.stack:
            raise Refusal("pickle-stack", f"more than {self.limits.stack} marks")
        self.marks.append(len(self.stack))

    def pop_mark(self) -> list[Any]:
        """All values above the last mark."""
        if not self.marks:
            raise Refusal("pickle-stack", "there is no mark")
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def put(self, index: int) -> None:
        if index in self.memo or index > self.limits.opcodes:
            raise Refusal("pickle-memo", f"place {index} of the memo is taken, or beyond what a pickle can fill")
        self.spend(ENTRY)
        self.memo[index] = self.top()

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise Refusal("pickle-memo", f"there is nothing at place {index} of the memo")
        self.push(self.memo[index])

    def enter_frame(self, end: int) -> None:
        if self.frame is not None:
            raise Refusal("pickle-frame", "a frame begins inside a frame")
        self.frame = end

    def reach(self, position: int) -> None:
        """Leaves the frame where it ends at `position`; no opcode may cross its end."""
        if self.frame is not None and position >= self.frame:
            if position > self.frame:
                raise Refusal("pickle-frame", "an opcode crosses the end of its frame")
            self.frame = None

    def finish(self) -> Any:
        """The one value that is left."""
        if self.marks or len(self.stack) != 1:
            raise Refusal("pickle-stack", f"{len(self.stack)} values are left at the end, instead of one")
        if self.frame is not None:
            raise Refusal("pickle-frame", "the last frame is longer than the pickle")
        return self.stack[0]


def shown(value: object) -> str:
    """A value from a file, escaped and cut for a message."""
    if isinstance(value, str | bytes):
        return ascii(value[:120])
    return ascii(value) if isinstance(value, int | float) and abs(value) < 1 << 64 else type(value).__name__
