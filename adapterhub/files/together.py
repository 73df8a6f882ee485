"""Several threads write tensors at a time, each into its place: to write takes a core, and so does to compute what is written."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from queue import SimpleQueue
from threading import Event, Lock, Thread
from typing import NamedTuple

from adapterhub.files.direct import DirectStream, direct, room
from adapterhub.files.progress import tell
from adapterhub.files.source import Range
from adapterhub.files.streaming import Sink, Stream, put_all
from adapterhub.tensors import LazyTensor

THREADS = max(2, min(4, os.cpu_count() or 1))
"""More wait for each other: a file is written by one at a time. Past the cache one more works, while others wait for the disk."""
_GATHERED = 4 << 20
"""Bytes of small tensors that are one part."""


class Part(NamedTuple):
    """Tensors with their names, one behind the other from byte `at` on of the file behind `descriptor`."""

    descriptor: int
    at: int
    tensors: Sequence[tuple[str, LazyTensor]]

    @property
    def size(self) -> int:
        return sum(tensor.nbytes for _, tensor in self.tensors)

    @property
    def is_copied(self) -> bool:
        """Whether nothing is computed."""
        return all(isinstance(tensor.chunks, Range) for _, tensor in self.tensors)


def parts(descriptor: int, at: int, tensors: Iterable[tuple[str, LazyTensor]]) -> Iterator[Part]:
    """The tensors of a file from byte `at` on: large ones alone, small ones with their neighbours."""
    gathered: list[tuple[str, LazyTensor]] = []
    start = at
    for name, tensor in tensors:
        if gathered and at + tensor.nbytes - start > _GATHERED:
            yield Part(descriptor, start, gathered)
            gathered, start = [], at
        gathered.append((name, tensor))
        at += tensor.nbytes
    if gathered:
        yield Part(descriptor, start, gathered)


def write_parts(given: Iterable[Part], threads: int = THREADS, *, cached: bool = False) -> None:
    """Writes every part. Several `threads` read tensors at a time; what one of them raises stops all, and is raised.

    Large files on a disk are written past the system's cache, unless `cached`. Where they are not, the system lets one at a
    time write a file: so one thread begins with what is only copied, and at the end, where the others arrive last; these
    compute meanwhile, or copy other files.
    """
    if threads == 1:
        for part in given:
            put_all(part.tensors, Stream(part.descriptor, part.at))
        return
    crew = _Crew(given, cached=cached)
    team = [Thread(target=crew.work, args=(take,), daemon=True) for take in crew.ends(threads)]
    try:
        for thread in team:
            thread.start()
        crew.watch(len(team))
        crew.finish()
    finally:
        crew.stop.set()
        for thread in team:
            while thread.is_alive():
                with suppress(KeyboardInterrupt):  # nobody may close a file that one still writes
                    thread.join()
        crew.close()


class _Stopped(Exception):
    """Somebody else failed."""


class _Crew:
    """What is left to write, and what those who write it say: the bytes of a part, and at the end what went wrong or None."""

    def __init__(self, given: Iterable[Part], *, cached: bool) -> None:
        self._left = deque(sorted(given, key=lambda part: part.is_copied))
        descriptors = {part.descriptor for part in self._left}
        self._turns = {descriptor: Lock() for descriptor in descriptors}
        found = {} if cached else {descriptor: direct(descriptor) for descriptor in descriptors}
        self._direct = {descriptor: file for descriptor, file in found.items() if file is not None}
        self._told: SimpleQueue[int | BaseException | None] = SimpleQueue()
        self.stop = Event()

    def ends(self, count: int) -> list[Callable[[], Part]]:
        """Where each of `count` threads, or of one more, takes its parts from."""
        others = count if self._direct else count - 1
        return [self._left.pop, *[self._left.popleft] * others]

    def work(self, take: Callable[[], Part]) -> None:
        """Writes parts until none is left."""
        try:
            sink = self._sinks()
            while part := _next(take):
                put_all(part.tensors, sink(part))
                self._told.put(part.size)
        except BaseException as error:  # noqa: BLE001 - raised by whoever waits for us
            self._told.put(error)
        else:
            self._told.put(None)

    def finish(self) -> None:
        """Writes what waited for the end."""
        for file in self._direct.values():
            file.finish()

    def close(self) -> None:
        """Lets go of what was opened, when nobody works any more."""
        for file in self._direct.values():
            file.close()

    def _sinks(self) -> Callable[[Part], Sink]:
        """What one thread writes its parts with."""
        memory = room() if self._direct else None

        def sink(part: Part) -> Sink:
            file = self._direct.get(part.descriptor)
            if file is None or memory is None:
                return Stream(part.descriptor, part.at, self._advanced, self._turns[part.descriptor])
            return DirectStream(file, part.at, memory, self._advanced)

        return sink

    def watch(self, working: int) -> None:
        """Tells what was written until nobody works any more; raises what went wrong first."""
        failed: BaseException | None = None
        while working:
            told = self._told.get()
            if isinstance(told, int):
                tell(told)
                continue
            working -= 1
            if told is not None:
                self.stop.set()
                failed = told if failed is None else failed
        if failed is not None:
            raise failed

    def _advanced(self, _: int) -> None:
        if self.stop.is_set():
            raise _Stopped


def _next(take: Callable[[], Part]) -> Part | None:
    try:
        return take()
    except IndexError:
        return None
