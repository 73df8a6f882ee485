"""`merge`: adapters into a whole model. One straight line: open → plan and refuse → compute and write → prove.

Every touched weight is W + Σ strength·ΔW in float64, rounded once to the dtype of the base. What only adds is summed, whatever
its order in the command; the rest (DoRA, OFT, BOFT, IA3, GLoRA, replacements, hypernetworks) works on what the adapters
before it made.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from adapterhub.adapter import Kind
from adapterhub.documents import Command, Conversion
from adapterhub.errors import UnknownName, UsageError
from adapterhub.operations.checkpoint.scaled import require_plain
from adapterhub.operations.digests import digest_of
from adapterhub.operations.merge import plan, recipes
from adapterhub.operations.merge.blocks import Blocks
from adapterhub.operations.merge.blocks import blocks as blocks_of
from adapterhub.operations.merge.plan import Opened, Plan
from adapterhub.operations.merge.recipes import Order
from adapterhub.operations.merge.run import Run
from adapterhub.operations.merge.strengths import Given, Selection, part
from adapterhub.operations.recipe import recorded
from adapterhub.operations.source import Source, open_adapter
from adapterhub.operations.wish import Wish

ROUNDINGS = ("nearest", "stochastic")
_WHOLE = (Kind.CHECKPOINT,)
_ADAPTERS = (Kind.LORA, Kind.HYPERNETWORK, Kind.EMBEDDING)


@recorded("merge", "base", "adapters", "recipe")
def merge(
    base: Path | str | None,
    adapters: Sequence[Given],
    target: Path | str,
    *,
    blocks: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    dtype: str | None = None,
    rounding: str = "nearest",
    seed: int = 0,
    undo: Path | str | None = None,
    recipe: Path | str | None = None,
    architecture: str | None = None,
    variant: str | None = None,
    allow_loss: bool = False,
    dry_run: bool = False,
    force: bool = False,
    check: bool = True,
) -> Conversion:
    """Writes the model at `base` with `adapters` to `target`, in the base's own layout, order and dtypes.

    An adapter is a path, (path, strength), or (path, strength of the UNet, strength of the text encoders). `blocks` is a preset
    or vector of LoRA Block Weight, or a TOML of factors by pattern; `include` and `exclude` are globs over
    `component.module`. `dtype` ("fp32", "fp16", "bf16") casts everything. `rounding` "stochastic" rounds by chance, from
    `seed`. `variant` is that of a folder whose weights are there in several. `undo` is a file that will restore the base bit
    for bit. `recipe` repeats a merge, in place of base and adapters.

    With `dry_run` nothing is written; without `check` the result is not read again, and its sha256 not known. Raises what
    `adapterhub.errors` lists: LossyConversion for modules that the base has no place for, and for numbers that overflow,
    unless `allow_loss`.
    """
    if recipe is None:
        if base is None or not adapters:
            raise UsageError("say what to merge", mend="Give a base and adapters, or a recipe.")
        if seed and rounding == "nearest":
            raise UsageError(
                "only stochastic rounding draws from a seed", mend="Leave out --seed, or give --rounding stochastic."
            )
        order = Order(Path(base), [part(given) for given in adapters], blocks, None, tuple(include), tuple(exclude),
                      dtype, rounding, seed, architecture, allow_loss, variant)  # fmt: skip
    else:
        asked = {"blocks": blocks, "include": include, "exclude": exclude, "dtype": dtype, "architecture": architecture,
                 "variant": variant, "rounding": rounding != "nearest", "seed": seed, "allow_loss": allow_loss}  # fmt: skip
        order = _repeated(Path(recipe), base, adapters, [name for name, value in asked.items() if value])
    return carried_out("merge", order, target, undo=undo, dry_run=dry_run, force=force, check=check)


def _repeated(path: Path, base: Path | str | None, adapters: Sequence[Given], asked: Sequence[str]) -> Order:
    if base is not None or adapters:
        raise UsageError("a recipe names its base and adapters itself", mend="Give --recipe alone.")
    if asked:
        raise UsageError(f"a recipe says itself what to merge and how, {', '.join(asked)} included",
                         mend="Give --recipe without these, or the base and the adapters themselves.")  # fmt: skip
    return recipes.read(path)


def carried_out(
    command: Command,
    order: Order,
    target: Path | str,
    *,
    undo: Path | str | None,
    dry_run: bool,
    force: bool,
    check: bool,
) -> Conversion:
    """The merge that `order` asks for."""
    started = time.perf_counter()
    if order.rounding not in ROUNDINGS:
        raise UnknownName("rounding", order.rounding, ROUNDINGS)
    wish = Wish(source=order.base, target=str(target), to="single-file", dtype=order.dtype, force=force)
    wish.check()
    with ExitStack() as stack:
        opened = stack.enter_context(open_adapter(order.base, architecture=order.architecture, variant=order.variant,
                                                  kinds=_WHOLE, forgiven={"missing-weights"}))  # fmt: skip
        adapters = [_opened(place, opened, order, stack) for place in range(1, len(order.paths))]
        order = _with_factors(order, opened)
        found = _planned(opened, adapters, order)
        if command == "unmerge":
            plan.require_sums(found)
        run = Run(command, order, wish, opened, adapters, found, None if undo is None else Path(undo), check, started)
        return run.told() if dry_run else run.written()


def _opened(place: int, base: Source, order: Order, stack: ExitStack) -> Opened:
    """The adapter at a place in the order; a file that fits the base's architecture as well as its own is taken for one of the base's."""
    one, name = order.parts[place - 1], base.adapter.architecture
    told = order.architecture
    source = stack.enter_context(
        open_adapter(one.path, architecture=told, allow_loss=order.allow_loss, kinds=_ADAPTERS)
    )
    if source.adapter.architecture != name and name in source.identity.also:
        source = stack.enter_context(open_adapter(one.path, architecture=name, allow_loss=order.allow_loss))
    digest = digest_of(source.package)
    order.require(place, digest)
    return Opened(one, source, digest)


def _with_factors(order: Order, base: Source) -> Order:
    """The order with what a file of factors said, so that the recipe is whole without it."""
    if order.blocks is None or order.factors is not None:
        return order
    found = blocks_of(order.blocks, base.adapter.architecture)
    return order if found.by_block is not None else replace(order, factors=found.by_pattern)


def _blocks(order: Order, architecture: str) -> Blocks | None:
    if order.factors is not None:
        return Blocks(architecture, None, order.factors)
    return None if order.blocks is None else blocks_of(order.blocks, architecture)


def _planned(base: Source, adapters: Sequence[Opened], order: Order) -> Plan:
    """Everything that can be known before a byte is written."""
    model = base.adapter
    plan.require_same_model(model, adapters)
    require_plain(base, "Merge into the fp16 or bf16 model that it was made of.")
    selection = Selection(_blocks(order, model.architecture), order.include, order.exclude)
    made = Plan()
    for one in adapters:
        if one.source.adapter.kind is Kind.HYPERNETWORK:
            from adapterhub.operations.merge.nets import add_hypernetwork

            add_hypernetwork(made, model, one, selection)
        else:
            plan.add_lora(made, model, one, selection)
    made.require_whole(order.allow_loss)
    if not made.terms and (order.include or order.exclude) and any(one.unet or one.text for one in order.parts):
        raise UsageError("--include and --exclude leave nothing to merge",
                         mend="They are globs over component.module, as in 'unet.*attn2*'.")  # fmt: skip
    return made
