"""The opcodes that torch's files need, as functions: each is given a State and the position behind the opcode, and gives
the position behind the opcode's argument.

Only what Python's picklers write from protocol 2 on is in the table. Source: CPython `Lib/pickletools.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from sys import getsizeof
from typing import Any

from adapterhub.files.pickles.state import CONTAINER, ENTRY, OBJECT, SLOT, Cut, Refusal, State, shown

Act = Callable[[State, int], int]
_LINES = 600
"""Bytes that the two lines of a global's name may take."""


def _constant(value: Any) -> Act:
    def act(state: State, at: int) -> int:
        state.push(value)
        return at

    return act


def _container(make: Callable[[], Any]) -> Act:
    def act(state: State, at: int) -> int:
        state.push(make(), CONTAINER)
        return at

    return act


def _integer(width: int, *, signed: bool = False) -> Act:
    def act(state: State, at: int) -> int:
        end = state.within(at, width)
        state.push(int.from_bytes(state.data[at:end], "little", signed=signed), 32)
        return end

    return act


def _counted(width: int, read: Callable[[State, bytes], Any], cost: int = 0) -> Act:
    """An argument of as many bytes as a number of `width` bytes before it says."""

    def act(state: State, at: int) -> int:
        start = state.within(at, width)
        end = state.within(start, int.from_bytes(state.data[at:start], "little"))
        value = read(state, state.data[start:end])
        state.push(value, getsizeof(value))
        return end

    return act


def _long(state: State, content: bytes) -> int:
    if len(content) > state.limits.integer:
        raise Refusal(
            "pickle-integer", f"an integer of {len(content)} bytes, above the limit of {state.limits.integer}"
        )
    return int.from_bytes(content, "little", signed=True)


def _text(state: State, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise Refusal("pickle-text", "a text is not UTF-8") from None


def _old_text(state: State, content: bytes) -> str | bytes:
    """A string of Python 2: text where it is ASCII."""
    return content.decode() if content.isascii() else content


def _bytes(state: State, content: bytes) -> bytes:
    return content


def _memo(act: Callable[[State, int], None], width: int) -> Act:
    def run(state: State, at: int) -> int:
        end = state.within(at, width)
        act(state, int.from_bytes(state.data[at:end], "little"))
        return end

    return run


def _memoize(state: State, at: int) -> int:
    state.put(len(state.memo))
    return at


def _float(state: State, at: int) -> int:
    end = state.within(at, 8)
    state.push(struct.unpack(">d", state.data[at:end])[0], 24)
    return end


def _mark(state: State, at: int) -> int:
    state.mark()
    return at


def _tuple(state: State, at: int) -> int:
    items = state.pop_mark()
    state.push((*items,), 60 + 8 * len(items))
    return at


def _tuple_of(count: int) -> Act:
    def act(state: State, at: int) -> int:
        items = [state.pop() for _ in range(count)]
        state.push((*reversed(items),), 60 + 8 * count)
        return at

    return act


def _append(state: State, at: int) -> int:
    _extend(state, [state.pop()])
    return at


def _appends(state: State, at: int) -> int:
    _extend(state, state.pop_mark())
    return at


def _extend(state: State, items: list[Any]) -> None:
    target = state.top()
    if type(target) is not list:
        raise Refusal("pickle-type", "items are appended to what is no list")
    state.spend(SLOT * len(items))
    target += items


def _set_item(state: State, at: int) -> int:
    value, key = state.pop(), state.pop()
    _update(state, [key, value])
    return at


def _set_items(state: State, at: int) -> int:
    _update(state, state.pop_mark())
    return at


def _update(state: State, items: list[Any]) -> None:
    target = state.top()
    if not isinstance(target, dict):
        raise Refusal("pickle-type", "keys are set in what is no dictionary")
    if len(items) % 2:
        raise Refusal("pickle-stack", "a key has no value")
    state.spend(ENTRY * (len(items) // 2))
    for key, value in zip(items[::2], items[1::2], strict=True):
        state.meanings.check_key(key)
        if key in target:
            raise Refusal("pickle-duplicate", f"the key {shown(key)} stands twice in a dictionary")
        target[key] = value


def _add_items(state: State, at: int) -> int:
    items, target = state.pop_mark(), state.top()
    if type(target) is not set:
        raise Refusal("pickle-type", "members are added to what is no set")
    state.spend(ENTRY * len(items))
    for item in items:
        state.meanings.check_key(item)
        target.add(item)
    return at


def _global(state: State, at: int) -> int:
    lines = state.data[at : at + _LINES].split(b"\n", 2)
    if len(lines) < 3:
        if at + _LINES > len(state.data):
            raise Cut
        raise Refusal("pickle-global", f"a global whose name is longer than {_LINES} bytes")
    try:
        module, name = lines[0].decode(), lines[1].decode()
    except UnicodeDecodeError:
        raise Refusal("pickle-global", "a global whose name is not UTF-8") from None
    state.push(state.meanings.find(module, name))
    return at + len(lines[0]) + len(lines[1]) + 2


def _stack_global(state: State, at: int) -> int:
    name, module = state.pop(), state.pop()
    if type(name) is not str or type(module) is not str:
        raise Refusal("pickle-global", "a global whose name is no text")
    state.push(state.meanings.find(module, name))
    return at


def _persistent(state: State, at: int) -> int:
    state.push(state.meanings.persistent(state.pop()), OBJECT)
    return at


def _call(state: State, at: int) -> int:
    arguments, function = _arguments(state), state.pop()
    made = state.meanings.call(function, arguments)
    state.push(made, OBJECT + getsizeof(made))
    return at


def _new(state: State, at: int) -> int:
    arguments, kind = _arguments(state), state.pop()
    state.push(state.meanings.new(kind, arguments), OBJECT)
    return at


def _arguments(state: State) -> tuple[Any, ...]:
    arguments = state.pop()
    if type(arguments) is not tuple:
        raise Refusal("pickle-call", "the arguments of a call are no tuple")
    return arguments


def _build(state: State, at: int) -> int:
    told = state.pop()
    state.meanings.build(state.top(), told)
    return at


def _frame(state: State, at: int) -> int:
    start = state.within(at, 8)
    state.enter_frame(state.within(start, int.from_bytes(state.data[at:start], "little")))
    return start


def refuse(state: State, at: int) -> int:
    """Any other opcode, by its name, and with the global that INST carries."""
    import pickletools

    code = chr(state.data[at - 1])
    name = next((known.name for known in pickletools.opcodes if known.code == code), f"{ord(code):#04x}")
    if name == "INST":
        name += " of " + shown(b".".join(state.data[at : at + _LINES].split(b"\n")[:2]))
    raise Refusal("pickle-opcode", f"the opcode {name}, which no file of tensors needs")


_TABLE: dict[bytes, Act] = {
    b"\x95": _frame, b"(": _mark,
    b"N": _constant(None), b"\x88": _constant(True), b"\x89": _constant(False), b")": _constant(()),
    b"K": _integer(1), b"M": _integer(2), b"J": _integer(4, signed=True), b"G": _float,
    b"\x8a": _counted(1, _long), b"\x8b": _counted(4, _long),
    b"\x8c": _counted(1, _text), b"X": _counted(4, _text), b"\x8d": _counted(8, _text),
    b"U": _counted(1, _old_text), b"T": _counted(4, _old_text),
    b"C": _counted(1, _bytes), b"B": _counted(4, _bytes), b"\x8e": _counted(8, _bytes), b"\x96": _counted(8, _bytes),
    b"q": _memo(State.put, 1), b"r": _memo(State.put, 4), b"\x94": _memoize,
    b"h": _memo(State.get, 1), b"j": _memo(State.get, 4),
    b"]": _container(list), b"}": _container(dict), b"\x8f": _container(set),
    b"a": _append, b"e": _appends, b"s": _set_item, b"u": _set_items, b"\x90": _add_items,
    b"t": _tuple, b"\x85": _tuple_of(1), b"\x86": _tuple_of(2), b"\x87": _tuple_of(3),
    b"c": _global, b"\x93": _stack_global, b"Q": _persistent, b"R": _call, b"\x81": _new, b"b": _build,
}  # fmt: skip
OPCODES: tuple[Act, ...] = tuple(_TABLE.get(bytes([code]), refuse) for code in range(256))
"""What each of the 256 opcodes does."""
