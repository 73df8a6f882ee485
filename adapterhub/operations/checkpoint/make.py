"""A whole model in another layout: every weight is moved, what has no place in a folder is kept aside in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from adapterhub.adapter import Adapter, Key, Kind
from adapterhub.documents import Action, LedgerEntry, Problem
from adapterhub.errors import LossyConversion, NotAnAdapter, UnknownName, UsageError
from adapterhub.files import DIRECTORY
from adapterhub.layouts.base import WholeLayout
from adapterhub.layouts.checkpoint import single_file
from adapterhub.layouts.checkpoint.aside import ASIDE, POSITIONS, extra_of
from adapterhub.layouts.checkpoint.places import key, rows
from adapterhub.metadata import PREDICTION
from adapterhub.operations.casting import Tally, cast
from adapterhub.operations.checkpoint import averages, folder
from adapterhub.operations.checkpoint.prediction import stated, velocity
from adapterhub.operations.checkpoint.scaled import require_plain
from adapterhub.operations.ledger import Ledger
from adapterhub.operations.source import Source, open_adapter
from adapterhub.operations.titles import retitled
from adapterhub.operations.wish import DTYPES
from adapterhub.operations.work import MADE_ANEW, OTHER_VAE, PRUNED, UNWANTED, Made, Request
from adapterhub.tensors import LazyTensor, from_bytes, values

_LEFTOVERS = frozenset({"ema", "optimizer", "schedule", "training"})
_ACTIONS: Mapping[str, tuple[Action, Action, str]] = {
    "stacked": ("split", "join", "three projections in one tensor"),
    "transposed": ("reshape", "reshape", "transposed"),
    "reshaped": ("reshape", "reshape", "a 1×1 convolution there, a linear layer here"),
}
"""What a crossing is called on the way out of a single file and on the way into one, and what it is."""
_UNSCALED = "Convert the fp16 or bf16 model that it was made of."


def make(opened: Source, request: Request) -> Made:
    """Every step in order, each telling the ledger."""
    ledger, tally, options = Ledger(opened.reading.places), Tally(), request.whole
    _require_meaning(request)
    if not _is_copied(opened, request):
        require_plain(opened, _UNSCALED)
    adapter = opened.adapter
    if options.ema:
        adapter = averages.instead(adapter, ledger)
    if options.prune or options.ema:
        adapter = _without(adapter, ledger, _is_leftover, PRUNED)
    if options.vae is not None:
        adapter = _with_vae(adapter, opened, request, ledger)
    if options.only is not None:
        adapter = _only(adapter, options.only, ledger)
    source = adapter = _mended(adapter, ledger)
    adapter = cast(adapter, lambda held: _dtype(held, request), ledger, tally)
    layout: WholeLayout = request.layout  # type: ignore[assignment] # the kind says so
    if layout is single_file.LAYOUT:
        adapter = _without(adapter, ledger, _is_made_anew, MADE_ANEW)
        adapter = _placed(adapter, layout, request, ledger)
        adapter = _told(adapter, opened, request)
    _cross(adapter, opened, layout, ledger)
    encoded = layout.encode(adapter, request.form)
    problems: list[Problem] = []
    if encoded.package.container == DIRECTORY:
        encoded, problems = folder.completed(encoded, adapter, opened, request)
    entries = ledger.entries(encoded)
    entries += [LedgerEntry(source=[place], target=[], action="drop", reason=why) for place, why in opened.dropped]
    return Made(source, adapter, encoded, entries, problems=problems, told=lambda: list(tally.problems()))


def _require_meaning(request: Request) -> None:
    """Raises UsageError for what is only said of folders, and of a single file."""
    if request.layout is single_file.LAYOUT:
        for name in ("shard_size", "tokenizer", "config"):
            if getattr(request.whole, name) is not None:
                raise UsageError(
                    f"--{name.replace('_', '-')} is for a folder", mend="Give --to diffusers, or leave it out."
                )


def _is_copied(opened: Source, request: Request) -> bool:
    """Whether every weight of a single file stays as it is stored."""
    whole = request.whole
    changed = request.dtype or whole.vae_dtype or whole.vae or whole.only or whole.ema
    return not changed and opened.layout is request.layout is single_file.LAYOUT


def _told(adapter: Adapter, opened: Source, request: Request) -> Adapter:
    """The model with metadata that is true of a single file; a component alone says nothing."""
    if request.whole.only is not None:
        return adapter.with_metadata({})
    fields = dict(adapter.metadata)
    if (predicts := stated(opened.package.documents)) is not None:
        fields[PREDICTION] = predicts
    elif "unet" in adapter.components() and (by_velocity := velocity(adapter, request.source)) is not None:
        fields.setdefault(PREDICTION, "v" if by_velocity else "epsilon")
    return retitled(adapter.with_metadata(fields), request.source.stem)


def _is_leftover(held: Key) -> bool:
    return held.component == ASIDE and extra_of(held.module).name in _LEFTOVERS


def _is_made_anew(held: Key) -> bool:
    """The position ids of a text encoder whose single file has none."""
    return (
        held.component == ASIDE
        and POSITIONS.fullmatch(held.module) is not None
        and ".transformer.text" not in held.module
    )


def _dtype(held: Key, request: Request) -> str | None:
    """The dtype that a weight is to have; what is kept aside stays as it is."""
    if held.component == ASIDE:
        return None
    if held.component == "vae" and request.whole.vae_dtype is not None:
        return DTYPES[request.whole.vae_dtype]
    return request.dtype


def _without(adapter: Adapter, ledger: Ledger, goes: Callable[[Key], bool], why: str) -> Adapter:
    """The model less what `goes`."""
    gone = [held for held in adapter.tensors if goes(held)]
    for held in gone:
        ledger.replace([held], [], "drop", why)
    left = dict.fromkeys(gone)
    return adapter.with_tensors({held: tensor for held, tensor in adapter.tensors.items() if held not in left})


def _placed(adapter: Adapter, layout: WholeLayout, request: Request, ledger: Ledger) -> Adapter:
    """The model less what a single file has no place for; LossyConversion unless --allow-loss."""
    homeless = {held: f"{layout.name} has no place for this" for held in adapter.tensors
                if layout.place(held, adapter) is None}  # fmt: skip
    if homeless and not request.allow_loss:
        losses = [(".".join(held), why) for held, why in homeless.items()]
        raise LossyConversion(f"{layout.name} cannot hold {len(losses)} tensors of {request.source}", losses,
                              mend="--allow-loss leaves them out and lists them.")  # fmt: skip
    for held, why in homeless.items():
        ledger.replace([held], [], "drop", why)
    return adapter.with_tensors({held: tensor for held, tensor in adapter.tensors.items() if held not in homeless})


def _with_vae(adapter: Adapter, opened: Source, request: Request, ledger: Ledger) -> Adapter:
    """The model with the VAE of another file, which stays open until all is written."""
    assert request.whole.vae is not None
    other = opened.stack.enter_context(open_adapter(request.whole.vae, kinds=(Kind.CHECKPOINT,)))
    require_plain(other, _UNSCALED)
    vae = {held: tensor for held, tensor in other.adapter.tensors.items() if held.component == "vae"}
    if not vae:
        raise NotAnAdapter(f"{request.whole.vae}: holds no VAE", mend="Give a VAE, or a model that has one.")
    adapter = _without(adapter, ledger, lambda held: held.component == "vae", OTHER_VAE)
    return adapter.with_tensors({**adapter.tensors, **vae})


def _only(adapter: Adapter, component: str, ledger: Ledger) -> Adapter:
    parts = [part for part in adapter.components() if part != ASIDE]
    if component not in parts:
        raise UnknownName("component", component, parts)
    return _without(adapter, ledger, lambda held: held.component != component, UNWANTED)


def _mended(adapter: Adapter, ledger: Ledger) -> Adapter:
    """Position ids as whole numbers, which converters to half precision cast and damage."""
    tensors = dict(adapter.tensors)
    for held, tensor in tensors.items():
        if held.component == ASIDE and POSITIONS.fullmatch(held.module) and tensor.dtype != "I64":
            tensors[held] = _counted(tensor)
            ledger.replace([held], [held], "cast", f"{tensor.dtype} to I64: position ids are 0, 1, 2 …")
    return adapter.with_tensors(tensors)


def _counted(tensor: LazyTensor) -> LazyTensor:
    import numpy as np

    return from_bytes("I64", tensor.shape, np.arange(values(tensor).size, dtype="<i8").tobytes())


def _cross(adapter: Adapter, opened: Source, layout: WholeLayout, ledger: Ledger) -> None:
    """Tells the ledger which tensors are cut, joined or turned between the layouts."""
    out_of = opened.layout is single_file.LAYOUT
    for row in rows(adapter.architecture).values():
        keys = [ours for name in row.tensors if (ours := key(name)) in adapter.tensors]
        if row.crossing == "same" or not keys:
            continue
        if opened.layout is layout:
            ledger.replace(keys, keys, "copy")
        else:
            outward, inward, what = _ACTIONS[row.crossing]
            ledger.replace(keys, keys, outward if out_of else inward, what)
