"""SIGTERM and SIGHUP end a command as an interrupt does: what it is writing is removed on the way out."""

from __future__ import annotations

import os
import signal
from functools import partial
from types import FrameType

_ENDING = (signal.SIGTERM, signal.SIGHUP)


class Ended(KeyboardInterrupt):
    """The process was asked to end by signal `number`."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(f"interrupted by {signal.Signals(number).name}")

    @property
    def exit_status(self) -> int:
        """What a shell says of a process that this signal ended."""
        return 128 + self.number


asked: list[Ended] = []
"""What this process was asked to end by, once it was."""


def end_by_signals() -> None:
    """Lets those signals raise Ended in this process, but for one that is ignored, as under nohup."""
    for number in _ENDING:
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, partial(_end, os.getpid()))


def _end(process: int, number: int, frame: FrameType | None) -> None:
    if os.getpid() != process:  # a fork of ours, which has nothing to tidy up
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    for one in _ENDING:
        signal.signal(one, signal.SIG_IGN)  # a second one does not stop the tidying up
    _let_go_of_a_lost_terminal()
    asked.append(Ended(number))
    raise asked[0]


def _let_go_of_a_lost_terminal() -> None:
    """Where the terminal behind standard error is gone, which SIGHUP tells, the message goes nowhere instead of failing."""
    try:
        os.write(2, b"")
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
