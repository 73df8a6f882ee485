"""`unmerge`: the base again, bit for bit from an undo file, or as near as subtracting comes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from adapterhub import files
from adapterhub.adapter import Key, Kind
from adapterhub.documents import Conversion, Forecast, Ingredient, LedgerEntry, Target
from adapterhub.documents import Source as SourceDocument
from adapterhub.errors import AdapterhubError, RefusedInput, UsageError
from adapterhub.files import THREADS, File, Package
from adapterhub.operations import recipe
from adapterhub.operations.casting import Tally
from adapterhub.operations.checkpoint.others import others
from adapterhub.operations.delivery import size_of
from adapterhub.operations.digests import digest_at, digest_of
from adapterhub.operations.forecast import Load, forecast, sampled
from adapterhub.operations.ledger import summary
from adapterhub.operations.merge import output, undo
from adapterhub.operations.merge.arithmetic import one_thread_a_product, without
from adapterhub.operations.merge.merge import carried_out
from adapterhub.operations.merge.recalled import differences
from adapterhub.operations.merge.recipes import Order
from adapterhub.operations.merge.strengths import Given, part
from adapterhub.operations.merge.undo import Undo
from adapterhub.operations.recipe import recorded
from adapterhub.operations.source import Source, open_adapter
from adapterhub.operations.wish import Wish
from adapterhub.tensors import Buffer, LazyTensor


@recorded("unmerge", "merged", "adapters", "undo")
def unmerge(
    merged: Path | str,
    adapters: Sequence[Given],
    target: Path | str,
    *,
    undo: Path | str | None = None,
    architecture: str | None = None,
    allow_loss: bool = False,
    dry_run: bool = False,
    force: bool = False,
    check: bool = True,
) -> Conversion:
    """Writes the base of `merged` to `target`.

    With the file `undo` that `merge` wrote, bit for bit: the sha256 of both is verified, that of the result before it is put
    in place. Otherwise `adapters` (paths with strengths, as for `merge`) are subtracted, each number to within half a unit in
    the last place for every rounding; where the recipe in `merged` tells of another merge, that is told. Raises what
    `adapterhub.errors` lists; RefusedInput for adapters whose change is no sum.
    """
    if (undo is None) == (not adapters):
        raise UsageError("say what to take out", mend="Give either --undo FILE or adapters.")
    if undo is None:
        parts = [part(given) for given in adapters]
        order = Order(Path(merged), [one.negated() for one in parts], architecture=architecture, allow_loss=allow_loss)
        done = carried_out("unmerge", order, target, undo=None, dry_run=dry_run, force=force, check=check)
        return done.model_copy(update={"problems": [*done.problems, *differences(Path(merged), parts, done)]})
    if asked := [name for name, given in (("--architecture", architecture), ("--allow-loss", allow_loss)) if given]:
        raise UsageError(f"the undo file says what is restored, and leaves nothing to {' and '.join(asked)}",
                         mend="Leave that out.")  # fmt: skip
    wish = Wish(source=Path(merged), target=str(target), to="single-file", force=force)
    wish.check()
    return _restored(wish, Path(undo), dry_run=dry_run)


def _restored(wish: Wish, path: Path, *, dry_run: bool) -> Conversion:
    started = time.perf_counter()
    with files.read(path) as package:
        told = undo.read(package)
        digest = digest_at(wish.source)
        recipe.tell([Ingredient(name=recipe.named(wish.source), sha256=digest),
                     Ingredient(name=recipe.named(path), sha256=digest_of(package))])  # fmt: skip
        if digest != told.merged:
            raise AdapterhubError(f"{wish.source} is not what {path} belongs to: its sha256 is {digest}, and not {told.merged}",
                                  mend="Give the model as merge wrote it.")  # fmt: skip
        with (
            open_adapter(wish.source, architecture=told.architecture, kinds=(Kind.CHECKPOINT,),
                         forgiven={"missing-weights"}) as opened,
            one_thread_a_product(),
        ):  # fmt: skip
            restored = _package(opened, told)
            place = wish.place(restored)
            if not dry_run:
                files.write(restored, place, force=wish.force, sources=[wish.source, path], digest=False,
                            prove=partial(_require, told.base), threads=THREADS, again=True)  # fmt: skip
            done = _document(opened, told, restored, place, path, wish, digest, started, dry_run=dry_run)
            return done.model_copy(update={"forecast": _forecast(opened, told, done)}) if dry_run else done


def _forecast(opened: Source, told: Undo, done: Conversion) -> Forecast:
    """What restoring takes beyond `done`."""
    sizes = {key: opened.adapter.tensors[key].nbytes for key in output.ordered(opened) if key in told.weights}
    spread = sampled(list(sizes), partial(_bits, opened, told), sizes.__getitem__)
    memory = 4 * THREADS * max(sizes.values(), default=0)
    load = Load(done.seconds, done.size, spread, THREADS, reread=done.size, memory=memory)
    return forecast(load, Path(done.target.path))


def _package(opened: Source, told: Undo) -> Package:
    tensors = opened.adapter.tensors
    changed = {key: LazyTensor(tensors[key].dtype, tensors[key].shape, partial(_chunks, opened, told, key))
               for key in tensors if key in told.weights}  # fmt: skip
    rebuilt = output.rebuilt(opened, changed, None, Tally())
    made = {name: File(held, in_given_order=True, head=told.head_of(name)) for name, held in rebuilt.items()}
    documents = dict(told.documents)
    for other in others(opened.package, opened.stack):
        made |= other.files
        documents = {**other.documents, **documents}
    return Package.new(made, documents, opened.package.container)


def _chunks(opened: Source, told: Undo, key: Key) -> Iterator[Buffer]:
    yield _bits(opened, told, key)


def _bits(opened: Source, told: Undo, key: Key) -> bytearray:
    stored = opened.adapter.tensors[key]
    change, terms = told.weights[key]
    predicted = stored.read() if terms is None else b"".join(step.tobytes() for step in without(stored, terms, key))
    try:
        return undo.restored(change, predicted, stored)
    except ValueError as error:
        raise RefusedInput(f"{'.'.join(key[:2])}: the undo file does not fit: {error}",
                           mend="It is damaged: get it again.") from None  # fmt: skip


def _require(base: str, path: Path) -> None:
    """The proof: what was restored is the base."""
    found = digest_at(path)
    if found != base:
        raise AdapterhubError(f"what was restored has the sha256 {found}, and the base {base}: nothing was put in place",
                              mend="The undo file is damaged, or was made by another numpy: unmerge with the adapters.")  # fmt: skip


def _document(
    opened: Source,
    told: Undo,
    restored: Package,
    place: Path,
    path: Path,
    wish: Wish,
    digest: str,
    started: float,
    *,
    dry_run: bool,
) -> Conversion:
    entries = [LedgerEntry(source=[name], target=[name], action="compute" if any(key in told.weights for key in keys) else "copy",
                           reason="restored" if any(key in told.weights for key in keys) else None)
               for name, keys in output.keys_by_place(opened).items()]  # fmt: skip
    return Conversion(
        command="unmerge",
        source=SourceDocument(path=str(wish.source), sha256=digest),
        target=Target(path=str(place), sha256=None if dry_run else told.base, layout=opened.layout.name),
        exactness="bit-exact",
        max_error=None if dry_run else 0.0,
        modules=len({key[:2] for key in told.weights}),
        entries=entries,
        summary=summary(entries),
        size=size_of(restored),
        undo=SourceDocument(path=str(path), sha256=files.sha256(path)),
        dry_run=dry_run,
        seconds=round(time.perf_counter() - started, 3),
    )
