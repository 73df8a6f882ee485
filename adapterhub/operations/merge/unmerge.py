"""`unmerge`: the base again, bit for bit from an undo file, or as near as subtracting comes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from adapterhub import files
from adapterhub.adapter import Key, Kind
from adapterhub.documents import Conversion, Forecast, Ingredient, LedgerEntry, Problem, Target
from adapterhub.documents import Source as SourceDocument
from adapterhub.errors import AdapterhubError, MalformedFile, RefusedInput, UnknownName, UsageError
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
from adapterhub.operations.merge.blocks import in_file
from adapterhub.operations.merge.merge import carried_out
from adapterhub.operations.merge.recipes import Order
from adapterhub.operations.merge.strengths import Given, part
from adapterhub.operations.merge.undo import Undo
from adapterhub.operations.problems import warning
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
    blocks: str | None = None,
    factors: Mapping[str, float] | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    architecture: str | None = None,
    allow_loss: bool = False,
    dry_run: bool = False,
    force: bool = False,
    check: bool = True,
) -> Conversion:
    """Writes the base of `merged` to `target`.

    With the file `undo` that `merge` wrote, bit for bit: the sha256 of the result is verified before it is put in place, so
    that a model whose metadata were edited since will do. Otherwise `adapters` are subtracted, each number to within half a
    unit in the last place for every rounding: paths with strengths, `blocks`, `include` and `exclude` as for `merge`; `factors`
    are what a TOML of blocks holds. Raises what `adapterhub.errors` lists; RefusedInput for adapters whose change is no sum.
    """
    if (undo is None) == (not adapters):
        raise UsageError("say what to take out", mend="Give either --undo FILE or adapters.")
    if undo is None:
        parts, found = [part(given).negated() for given in adapters], in_file(blocks)
        order = Order(Path(merged), parts, blocks if found is None else None, factors if found is None else found,
                      tuple(include), tuple(exclude), architecture=architecture, allow_loss=allow_loss)  # fmt: skip
        return carried_out("unmerge", order, target, undo=None, dry_run=dry_run, force=force, check=check)
    asked = {"blocks": blocks, "factors": factors, "include": include, "exclude": exclude, "architecture": architecture,
             "allow_loss": allow_loss}  # fmt: skip
    if named := [name for name, value in asked.items() if value]:
        raise UsageError(f"an undo file says itself what is taken out, {', '.join(named)} included",
                         mend="Give --undo without these, or the adapters themselves.")  # fmt: skip
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
        with (
            _proven(wish.source, path, told, digest),
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
    try:
        predicted = stored.read() if terms is None else b"".join(step.tobytes() for step in without(stored, terms, key))
        return undo.restored(change, predicted, stored)
    except (ValueError, RuntimeError) as error:  # shapes that do not fit each other, in numpy and in torch
        raise RefusedInput(f"{'.'.join(key[:2])}: {error}") from error


def _require(base: str, path: Path) -> None:
    """The proof: what was restored is the base."""
    try:
        found = digest_at(path)
    except MalformedFile:
        raise RefusedInput("what was restored is no model") from None
    if found != base:
        raise RefusedInput(f"what was restored has the sha256 {found}, and the base {base}")


@contextmanager
def _proven(source: Path, path: Path, told: Undo, digest: str) -> Iterator[None]:
    """Says of what fails inside whether the model is another than merge wrote, or the undo file at `path` is damaged."""
    try:
        yield
    except MalformedFile:  # the model itself is cut off, or changed while it was read
        raise
    except (RefusedInput, UnknownName) as error:
        if digest != told.merged:
            raise AdapterhubError(f"{source} is not what {path} belongs to: its sha256 is {digest}, and not {told.merged}",
                                  mend="Give the model as merge wrote it.") from error  # fmt: skip
        raise AdapterhubError(f"{path} does not restore the base: {error.message}: nothing was put in place",
                              mend="The undo file is damaged, or was made by another numpy: unmerge with the adapters.") from error  # fmt: skip


def _edited(source: Path, path: Path) -> Iterator[Problem]:
    yield warning("edited", recipe.named(source), f"is not as merge wrote it when it wrote {recipe.named(path)}: what is "
                  "restored is proven by the sha256 of the base")  # fmt: skip


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
        problems=list(_edited(wish.source, path)) if digest != told.merged else [],
        size=size_of(restored),
        undo=SourceDocument(path=str(path), sha256=files.sha256(path)),
        dry_run=dry_run,
        seconds=round(time.perf_counter() - started, 3),
    )
