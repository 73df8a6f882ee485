"""A merge that is planned: computed and written by several threads, its inputs hashed on one more, proved, told."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from adapterhub import files
from adapterhub.adapter import Key
from adapterhub.documents import Command, Conversion, Forecast
from adapterhub.errors import AdapterhubError, BrokenAdapter, LossyConversion, UsageError
from adapterhub.files import DIGEST, SAFETENSORS, THREADS, Package, publishing
from adapterhub.files.targets import require_file_target
from adapterhub.operations import recipe
from adapterhub.operations.casting import Tally
from adapterhub.operations.checkpoint.others import Other, others
from adapterhub.operations.delivery import size_of
from adapterhub.operations.digests import digest_at, digest_of
from adapterhub.operations.forecast import Load, forecast, sampled
from adapterhub.operations.merge import marks, output, recipes, telling
from adapterhub.operations.merge.arithmetic import Rounding, merged, one_thread_a_product
from adapterhub.operations.merge.plan import Opened, Plan, require_numbers
from adapterhub.operations.merge.recipes import Order
from adapterhub.operations.merge.scratch import Pool
from adapterhub.operations.merge.undo import Recorder, undoable
from adapterhub.operations.source import Source
from adapterhub.operations.wish import DTYPES, Wish
from adapterhub.tensors import Buffer, LazyTensor, length

_A_STEP = 8 << 20
"""Bytes of memory that a thread computes in."""

_COPIES = 3
"""Times that a thread has a tensor in memory which an undo file restores: as it was, as it became, and with the change taken out."""


@dataclass
class Run:
    """One merge; `undo` is where the undo file goes, `check` whether the result is read again."""

    command: Command
    order: Order
    wish: Wish
    opened: Source
    adapters: Sequence[Opened]
    plan: Plan
    undo: Path | None
    check: bool
    started: float = field(default_factory=time.perf_counter)
    overflows: dict[Key, int] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)
    pool: Pool = field(default_factory=Pool)
    recorder: Recorder | None = None
    ready: Future[None] | None = None
    """Done when there is something to compute with; what is only copied is written before."""
    beside: Sequence[Other] = field(init=False)

    def __post_init__(self) -> None:
        self.beside = others(self.opened.package, self.opened.stack)

    @property
    def dtype(self) -> str | None:
        return DTYPES[self.order.dtype] if self.order.dtype is not None else None

    def told(self) -> Conversion:
        """What would be done."""
        self._record()
        package = self._package(None)
        return telling.document(self, package, self._place(package), dry_run=True)

    def written(self) -> Conversion:
        """What was done."""
        self._record()
        with ExitStack() as held, ThreadPoolExecutor(1) as beside:
            self.ready = beside.submit(self._make_ready, held)
            base = beside.submit(digest_of, self.opened.package)
            marked = [beside.submit(marks.mark, one.source, one.digest) for one in self.adapters]
            package = self._package(lambda: self._fields(base.result(), [mark.result() for mark in marked]))
            place = self._place(package)
            proof = _Proof(self, package, base)
            put_back = None if self.undo is None else held.enter_context(publishing.kept(self.undo))
            try:
                files.write(package, place, force=self.wish.force, sources=self._inputs(), digest=False, prove=proof,
                            threads=THREADS, again=self._reread)  # fmt: skip
            except BaseException:
                if put_back is not None and proof.has_undo:
                    put_back()  # the model could not be put in place: nothing belongs to what was written
                raise
            return telling.document(self, package, place, base=base.result(), digest=proof.digest)

    def forecast(self, package: Package, place: Path) -> Forecast:
        """What writing it would take."""
        alone = time.perf_counter() - self.started
        touched, size = self._touched(), size_of(package)
        with ExitStack() as held:
            self._make_ready(held)
            spread = sampled(touched, lambda key: deque(self._compute(key), maxlen=0), self._bytes)
        largest = max(map(self._bytes, touched), default=0)
        unknown = [path for path in self.opened.package.paths.values() if not files.is_cached(path)]
        hashed = sum(path.stat().st_size for path in unknown) + sum(
            marks.cost(one.source, one.digest) for one in self.adapters
        )
        memory = THREADS * _A_STEP
        if self.recorder is not None:
            memory += _COPIES * THREADS * largest + int(self.recorder.share * sum(map(self._bytes, touched)))
        reread = size if self._reread else 0
        return forecast(Load(alone, size, spread, THREADS, hashed, reread, memory, cached=self._reread), place)

    @property
    def _reread(self) -> bool:
        """Whether what was written is hashed."""
        return self.check or self.undo is not None

    def _make_ready(self, held: ExitStack) -> None:
        """Imports numpy, which is made to be fast until `held` ends. Raises BrokenAdapter for numbers that are none."""
        held.enter_context(one_thread_a_product())
        require_numbers(self.adapters)

    def _touched(self) -> list[Key]:
        return [key for key in output.ordered(self.opened) if key in self.plan.terms]

    def _record(self) -> None:
        """Has what restores the base collected, where that is wanted."""
        if self.undo is None:
            return
        if not undoable(self.opened.package) or self.dtype is not None:
            raise UsageError("an undo file restores safetensors, without shards and in their own dtype",
                             mend="Leave out --undo and keep the base, or leave out --dtype.")  # fmt: skip
        require_file_target(self.undo, self._inputs(), force=self.wish.force)
        self.recorder = Recorder(self.opened)

    def _place(self, package: Package) -> Path:
        """Where `package` is to be written, which is not where the undo file is."""
        place = self.wish.place(package)
        if self.undo is not None and place.resolve() in (self.undo.resolve(), *self.undo.resolve().parents):
            raise UsageError(f"{self.undo} is the output itself, or lies in it", mend="Give another path.")
        return place

    def _inputs(self) -> list[Path]:
        return [path for source in (self.opened, *(one.source for one in self.adapters))
                for path in source.package.paths.values()]  # fmt: skip

    def _bytes(self, key: Key) -> int:
        """What the result of a tensor takes."""
        stored = self.opened.adapter.tensors[key]
        return length(self.dtype or stored.dtype, stored.shape)

    def _compute(self, key: Key) -> Iterator[Buffer]:
        if self.ready is not None:
            self.ready.result()
        stored, terms = self.opened.adapter.tensors[key], self.plan.terms[key]
        recorder = self.recorder
        record = recorder.of(key) if recorder is not None and recorder.subtracts(key, stored, terms) else None
        how = Rounding(self.order.rounding == "stochastic", self.order.seed)
        self.overflows[key] = 0
        made = merged(
            key, stored, terms, self.dtype or stored.dtype, how, self.pool, partial(self._overflowed, key), record
        )
        try:
            if recorder is None:
                yield from made
            else:
                pieces = list(made)
                recorder.done(key, stored, pieces)
                yield from pieces
        except BrokenAdapter as error:
            where = ".".join(key[:2])
            raise BrokenAdapter(f"{where}: {error.message}", [where], mend="--exclude leaves a module out.") from error

    def _overflowed(self, key: Key, count: int) -> None:
        self.overflows[key] += count

    def _package(self, late: Callable[[], Mapping[str, str]] | None) -> Package:
        tensors = self.opened.adapter.tensors
        changed = {key: LazyTensor(self.dtype or tensors[key].dtype, tensors[key].shape, partial(self._compute, key))
                   for key in self.plan.terms}  # fmt: skip
        rebuilt = output.rebuilt(self.opened, changed, self.dtype, self.tally)
        told = self._fields(DIGEST, [DIGEST] * len(self.adapters))
        stem = Path(self.wish.target).stem
        request = output.request(self.opened, self.dtype, self.order.allow_loss, stem)
        return output.package(self.opened, rebuilt, told, late, request, self.beside)

    def _fields(self, base: str, fingerprints: Sequence[str]) -> dict[str, str]:
        inputs = recipes.inputs_of(self.order, [base, *(one.digest for one in self.adapters)], [None, *fingerprints])
        made = recipe.tell(inputs, recipes.parameters_of(self.command, self.order))
        return {recipes.FROM: recipes.merged_from(self.order), **({recipe.FIELD: recipe.as_text(made)} if made else {})}


@dataclass
class _Proof:
    """Called with what was written, before it is put in place: nothing became infinite, no input changed, every tensor is
    there. Then the undo file is written, which must be there when the base may go.
    """

    run: Run
    package: Package
    base: Future[str]
    digest: str | None = None
    has_undo: bool = False

    def __call__(self, path: Path) -> None:
        run = self.run
        assert run.ready is not None
        run.ready.result()
        run.order.require(0, self.base.result())
        self._require_finite()
        for source in (run.opened, *(one.source for one in run.adapters)):
            source.package.ensure_unchanged()
        self._require_all(path)
        single = self.package.container == SAFETENSORS
        digest = digest_at(path) if run.recorder is not None or (single and run.check) else None
        self.digest = digest if single else None
        if run.recorder is not None:
            assert run.undo is not None
            assert digest is not None
            run.recorder.write(
                run.undo, digest, self.base.result(), run.plan.terms, self.package.documents, force=run.wish.force
            )
            self.has_undo = True

    def _require_finite(self) -> None:
        count = sum(self.run.overflows.values()) + self.run.tally.overflows
        if count and not self.run.order.allow_loss:
            losses = [(".".join(key[:2]), f"{number} numbers") for key in self.run.plan.terms
                      if (number := self.run.overflows.get(key))]  # fmt: skip
            raise LossyConversion(f"{count} numbers would become infinite", losses,
                                  mend="Merge at a lower strength, with --dtype bf16, or --allow-loss.")  # fmt: skip

    def _require_all(self, path: Path) -> None:
        beside = [name for other in self.run.beside for name in other.files]
        with files.read(path) as again, ExitStack() as stack:
            written = {**again.files, **{name: stack.enter_context(files.read(path / name)).only for name in beside}}
            for name, file in self.package.files.items():
                there = again.only if len(self.package.files) == 1 else written[name]
                wanted = {tensor: (held.dtype, held.shape) for tensor, held in file.tensors.items()}
                if wanted != {tensor: (held.dtype, held.shape) for tensor, held in there.tensors.items()}:
                    raise AdapterhubError(f"{name} was not written as it should be: nothing was put in place")
