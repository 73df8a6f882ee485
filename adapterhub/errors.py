"""Every error that adapterhub raises on purpose, and the exit status that the command line gives it.

AdapterhubError              1  the answer is no
├── NotFound                 1  nothing in the registry, or on the Hub, is what was asked for
├── UsageError               2  the request is wrong
│   ├── OutputExists         2  the target is there already
│   ├── NeedsDownload        2  the answer takes more of a remote file than is read without downloading it
│   └── UnknownName          2  no such layout, tool, architecture, algorithm …
├── RefusedInput             3  the input is malformed, unsafe, or not what the command works on
│   ├── MalformedFile        3  the bytes break a rule of their container
│   ├── NotAnAdapter         3  well-formed, but not of the kind that the command works on
│   ├── BrokenAdapter        3  an adapter that contradicts itself (half pairs, mixed architectures …)
│   └── NeedsBase            3  the result depends on the base model's weights, and none was given
├── LossyConversion          4  the result would lose something, and that was not allowed
└── MachineFailure           5  no space, no permission, I/O error
    ├── Unreachable          5  the network failed, or the server at its other end
    └── NoAccess             5  the server answered, and does not let us
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar


class AdapterhubError(Exception):
    """The root of the tree; `message` says what and where, `mend` what to do now."""

    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, *, mend: str | None = None) -> None:
        super().__init__(message if mend is None else f"{message}\n{mend}")
        self.message = message
        self.mend = mend


class NotFound(AdapterhubError):
    """Nothing in the registry, or on the Hub, is what was asked for."""


class UsageError(AdapterhubError):
    """The request cannot be carried out as it was made."""

    exit_status = 2


class OutputExists(UsageError):
    """`path` exists and would be overwritten."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} exists", mend="Give another output path, or --force to replace it.")
        self.path = path


class NeedsDownload(UsageError):
    """The answer takes more of the file at `address` than is read without downloading it."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"{address}: {reason}", mend="Get the file with adapterhub pull, and ask about that.")


class UnknownName(UsageError):
    """`name` is not one of the `known` names of its `kind` (layout, tool, architecture …)."""

    def __init__(self, kind: str, name: str, known: Sequence[str]) -> None:
        super().__init__(f"unknown {kind} {name!r}", mend=f"Known: {', '.join(known)}.")
        self.kind, self.name, self.known = kind, name, tuple(known)


class RefusedInput(AdapterhubError):
    """The input cannot be worked on, whatever the options."""

    exit_status = 3


class MalformedFile(RefusedInput):
    """The file at `path` breaks `rule` (a short stable id such as `header-too-large`) of its container."""

    def __init__(self, path: Path | str, rule: str, message: str, *, mend: str | None = None) -> None:
        super().__init__(f"{path}: {message}", mend=mend)
        self.path, self.rule = path, rule


class NotAnAdapter(RefusedInput):
    """A well-formed file that is not of the kind that the command works on."""


class BrokenAdapter(RefusedInput):
    """An adapter whose tensors contradict each other; `places` are the keys concerned."""

    def __init__(self, message: str, places: Sequence[str] = (), *, mend: str | None = None) -> None:
        super().__init__(message, mend=mend)
        self.places = tuple(places)


class NeedsBase(RefusedInput):
    """The result is a function of the base weights too (DoRA, OFT, IA3, GLoRA)."""


class LossyConversion(AdapterhubError):
    """The target has no place for `losses`: pairs of what would be lost and why."""

    exit_status = 4

    def __init__(self, message: str, losses: Sequence[tuple[str, str]], *, mend: str | None = None) -> None:
        super().__init__(message, mend=mend)
        self.losses = tuple(losses)


class MachineFailure(AdapterhubError):
    """The operating system refused: no space, no permission, I/O error."""

    exit_status = 5


class Unreachable(MachineFailure):
    """The network failed, or the server at its other end; trying again later may help."""


class NoAccess(MachineFailure):
    """The server answered, and does not let us have what was asked for."""
