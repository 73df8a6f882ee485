"""A machine that reads pickles and executes nothing: a closed list of opcodes over inert values.

What the name of a global becomes, and what a "call" of it means, is looked up in tables of our own (`Meanings`): nothing
that a file names is imported, called, or asked for an attribute.
"""

from __future__ import annotations

from typing import Any

from adapterhub.files.limits import Limits
from adapterhub.files.pickles.opcodes import OPCODES
from adapterhub.files.pickles.state import Meanings, Refusal, State

PROTOCOLS = range(2, 6)
_PROTO, _STOP = 0x80, ord(".")


def interpret(data: bytes, start: int, meanings: Meanings, limits: Limits) -> tuple[Any, int]:
    """The value that the pickle at byte `start` of `data` makes, and where it ends.

    Refusal, with the byte of the opcode, where it breaks a rule; Cut where `data` ends before the pickle does.
    """
    state = State(data, meanings, limits)
    at = start
    try:
        position = _protocol(state, start)
        for _ in range(limits.opcodes):
            at = position
            code = data[state.within(at, 1) - 1]
            position = at + 1 if code == _STOP else OPCODES[code](state, at + 1)
            if state.frame is not None:
                state.reach(position)
            if code == _STOP:
                return state.finish(), position
        raise Refusal("pickle-opcodes", f"more than {limits.opcodes} opcodes")
    except Refusal as refusal:
        refusal.at = at
        raise


def _protocol(state: State, start: int) -> int:
    end = state.within(start, 2)
    if state.data[start] != _PROTO or state.data[start + 1] not in PROTOCOLS:
        raise Refusal("pickle-protocol", f"a pickle begins with protocol 2 to 5, not with {state.data[start:end]!r}")
    return end
