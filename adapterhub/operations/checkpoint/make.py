"""A whole model in another layout: every weight is moved, what has no place in a folder is kept aside in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from adapterhub.adapter import Adapter, Key
from adapterhub.documents import Action, LedgerEntry, Problem
from adapterhub.errors import LossyConversion, UnknownName, UsageError
from adapterhub.files import DIRECTORY
from adapterhub.layouts.base import Encoded, WholeLayout
from adapterhub.layouts.checkpoint import single_file
from adapterhub.layouts.checkpoint.aside import (
    ASIDE,
    are_in_order,
    are_out_of_order,
    are_positions,
    extra_of,
    positions,
)
from adapterhub.layouts.checkpoint.places import key, rows, stacks
from adapterhub.layouts.wrappers import TITLES
from adapterhub.metadata import PREDICTION
from adapterhub.operations.casting import Tally, cast
from adapterhub.operations.checkpoint import averages, folder, vae
from adapterhub.operations.checkpoint.markers import with_markers
from adapterhub.operations.checkpoint.others import Other, carried, left_out, others
from adapterhub.operations.checkpoint.parts import lacking
from adapterhub.operations.checkpoint.prediction import stated, told_of
from adapterhub.operations.checkpoint.scaled import require_plain
from adapterhub.operations.ledger import Ledger
from adapterhub.operations.source import Source
from adapterhub.operations.titles import retitled
from adapterhub.operations.wish import DTYPES
from adapterhub.operations.work import MADE_ANEW, OTHER_VAE, PRUNED, SAME_IDS, UNCHECKED, UNWANTED, Made, Request
from adapterhub.tensors import LazyTensor

_LEFTOVERS = frozenset({"ema", "optimizer", "schedule", "training"})
_HOMELESS = f"{single_file.LAYOUT.name} has no place for this"
_TORN = f"{single_file.LAYOUT.name} has it in one tensor with others, which are missing"
_ACTIONS: Mapping[str, tuple[Action, Action, str]] = {
    "stacked": ("split", "join", "three projections in one tensor"),
    "transposed": ("reshape", "reshape", "transposed"),
    "reshaped": ("reshape", "reshape", "a 1×1 convolution there, a linear layer here"),
}
"""What a crossing is called on the way out of a single file and on the way into one, and what it is."""
_TURNED = "a linear layer is a 1×1 convolution where others have one, and the other way around"
_USUAL = "Mended: the usual names are written."
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
    problems: list[Problem] = []
    if options.vae is not None:
        given = vae.other(options.vae, opened.package.variant, opened.stack)
        problems += vae.other_scale(given, opened)
        adapter, opened = _with_vae(adapter, given, ledger), given.instead_in(opened)
    if options.only is not None:
        adapter = _only(adapter, options.only, ledger)
    beside = others(opened.package, opened.stack)
    _require_vae(adapter, request)
    layout: WholeLayout = request.layout  # type: ignore[assignment] # the kind says so
    added: list[LedgerEntry] = []
    if layout is single_file.LAYOUT and options.only is None:
        adapter, added = with_markers(adapter, opened)
    source = adapter = _mended(adapter, ledger)
    adapter = cast(adapter, lambda held: _dtype(held, request), ledger, tally)
    if layout is single_file.LAYOUT:
        adapter = _without(adapter, ledger, _is_made_anew, MADE_ANEW)
        adapter = _placed(adapter, layout, request, ledger, beside)
        adapter = _told(adapter, opened, request)
    if options.only is None:
        problems += lacking(adapter, layout)
    encoded = layout.encode(adapter, request.form)
    _cross(adapter, opened, layout, encoded, ledger)
    if encoded.package.container == DIRECTORY:
        kept = beside if options.only is None else []
        encoded, told = folder.completed(encoded, adapter, opened, request, kept)
        problems += told
    entries = ledger.entries(encoded) + _entries(beside, request) + added
    entries += [LedgerEntry(source=[place], target=[], action="drop", reason=why) for place, why in opened.dropped]
    return Made(source, adapter, encoded, entries, problems=problems, told=lambda: list(tally.problems()),
                mended=_done(opened, adapter, request))  # fmt: skip


def _done(opened: Source, adapter: Adapter, request: Request) -> dict[str, str]:
    """What was done to problems of the source, by their codes, where `adapter` is written."""
    done = {"position-ids": _done_to_ids(opened.adapter, adapter), **dict.fromkeys(TITLES, _USUAL)}
    if request.whole.prune or request.whole.ema or request.whole.only is not None:
        done["leftovers"] = "They were left out."
    if request.dtype is not None:
        done["mixed-dtypes"] = f"Mended: they are written as {request.dtype}" + (
            f", the VAE as {request.whole.vae_dtype}." if request.whole.vae_dtype else "."
        )
    if request.whole.config is not None:
        done["other-widths"] = f"The folder has the configurations of {request.whole.config}."
    if request.layout is single_file.LAYOUT:
        done["metadata-contradicts"] = "Mended: what is written says what its weights are."
    return done


def _done_to_ids(had: Adapter, written: Adapter) -> str:
    before, after = (sum(map(are_positions, model.tensors)) for model in (had, written))
    if not after:
        return "They were left out."
    return "Mended: they are written as 0, 1, 2 … in I64" + (", or left out." if after < before else ".")


def _require_meaning(request: Request) -> None:
    """Raises UsageError for what is only said of folders, and of a single file, and for a VAE that is left out again."""
    if request.whole.vae is not None and request.whole.only not in (None, vae.VAE):
        raise UsageError(f"--vae is not part of --only {request.whole.only}", mend="Leave out one of them.")
    if request.layout is single_file.LAYOUT:
        for name in ("shard_size", "tokenizer", "config"):
            if getattr(request.whole, name) is not None:
                raise UsageError(
                    f"--{name.replace('_', '-')} is for a folder", mend="Give --to diffusers, or leave it out."
                )


def _require_vae(adapter: Adapter, request: Request) -> None:
    """Raises UsageError for a dtype of a VAE that is not written."""
    if request.whole.vae_dtype is not None and vae.VAE not in adapter.components():
        raise UsageError(f"--vae-dtype is for a VAE, and none is written of {request.source}",
                         mend="Leave it out, or add a VAE with --vae.")  # fmt: skip


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
    else:
        fields = {**told_of(adapter, request.source), **fields}
    return retitled(adapter.with_metadata(fields), request.source.stem)


def _is_leftover(held: Key) -> bool:
    return held.component == ASIDE and extra_of(held.module).name in _LEFTOVERS


def _is_made_anew(held: Key) -> bool:
    """The position ids of a text encoder whose single file has none."""
    return are_positions(held) and ".transformer.text" not in held.module


def _dtype(held: Key, request: Request) -> str | None:
    """The dtype that a weight is to have; what is kept aside stays as it is."""
    if held.component == ASIDE:
        return None
    if held.component == vae.VAE and request.whole.vae_dtype is not None:
        return DTYPES[request.whole.vae_dtype]
    return request.dtype


def _without(adapter: Adapter, ledger: Ledger, goes: Callable[[Key], bool], why: str) -> Adapter:
    """The model less what `goes`; what is one tensor in the source goes together."""
    gone: dict[str, list[Key]] = {}
    for held in filter(goes, adapter.tensors):
        gone.setdefault(ledger.places.get(held, ".".join(held)), []).append(held)
    for together in gone.values():
        ledger.replace(together, [], "drop", why)
    return adapter.with_tensors({held: tensor for held, tensor in adapter.tensors.items() if not goes(held)})


def _entries(beside: Sequence[Other], request: Request) -> list[LedgerEntry]:
    """What becomes of the components that are no part of the architecture."""
    if request.whole.only is not None:
        return left_out(beside, UNWANTED)
    if request.layout is not single_file.LAYOUT:
        return carried(beside)
    return [entry for other in beside for entry in left_out([other], UNCHECKED if other.checks else _HOMELESS)]


def _placed(
    adapter: Adapter, layout: WholeLayout, request: Request, ledger: Ledger, beside: Sequence[Other]
) -> Adapter:
    """The model less what a single file has no place for; LossyConversion unless --allow-loss."""
    torn = (parts for row, parts in stacks(adapter.tensors, adapter.architecture) if len(parts) < len(row.tensors))
    gone = {_HOMELESS: [held for held in adapter.tensors if layout.place(held, adapter) is None],
            _TORN: [held for parts in torn for held in parts]}  # fmt: skip
    losses = [(".".join(held), why) for why, keys in gone.items() for held in keys]
    if request.whole.only is None:
        losses += [(place, _HOMELESS) for other in beside if not other.checks for place in other.places]
    if losses and not request.allow_loss:
        raise LossyConversion(f"{layout.name} cannot hold {len(losses)} tensors of {request.source}: {losses[0][0]} …", losses,
                              mend="--allow-loss leaves them out and lists them.")  # fmt: skip
    for why, keys in gone.items():
        adapter = _without(adapter, ledger, frozenset(keys).__contains__, why)
    return adapter


def _with_vae(adapter: Adapter, given: vae.Other, ledger: Ledger) -> Adapter:
    """The model with the VAE of another file."""
    adapter = _without(adapter, ledger, lambda held: held.component == vae.VAE, OTHER_VAE)
    ledger.take_in(given.places)
    return adapter.with_tensors({**adapter.tensors, **given.tensors})


def _only(adapter: Adapter, component: str, ledger: Ledger) -> Adapter:
    parts = [part for part in adapter.components() if part != ASIDE]
    if component not in parts:
        raise UnknownName("component", component, parts)
    return _without(adapter, ledger, lambda held: held.component != component, UNWANTED)


def _mended(adapter: Adapter, ledger: Ledger) -> Adapter:
    """Position ids as whole numbers in order, which converters to half precision cast, and merges damage."""
    tensors = dict(adapter.tensors)
    for held, tensor in tensors.items():
        if are_positions(held) and (tensor.dtype != "I64" or are_out_of_order(tensor)):
            tensors[held] = positions(tensor.shape)
            ledger.replace([held], [held], *_mending(tensor))
    return adapter.with_tensors(tensors)


def _mending(ids: LazyTensor) -> tuple[Action, str]:
    """What is done to position ids that are not as they have to be, and why."""
    what = "position ids are 0, 1, 2 …"
    if ids.dtype == "I64":
        return "compute", what
    return "cast", SAME_IDS if are_in_order(ids) else f"{ids.dtype} to I64: {what}"


def _cross(adapter: Adapter, opened: Source, layout: WholeLayout, encoded: Encoded, ledger: Ledger) -> None:
    """Tells the ledger which tensors are cut, joined or turned between the layouts."""
    out_of = opened.layout is single_file.LAYOUT
    for row in rows(adapter.architecture).values():
        keys = [ours for name in row.tensors if (ours := key(name)) in adapter.tensors]
        if row.crossing == "same":
            if keys and _is_turned(keys[0], opened, encoded):
                ledger.replace(keys, keys, "reshape", _TURNED)
            continue
        if not keys:
            continue
        stays = opened.layout is layout
        if row.crossing == "reshaped":
            stays = _axes(opened, keys[0]) == (4 if layout is single_file.LAYOUT else 2)
        if row.crossing == "transposed" and opened.reading.places.get(keys[0], "").endswith(".weight"):
            stays = stays is not out_of  # a linear layer in a single file
        if stays:
            ledger.replace(keys, keys, "copy")
        else:
            outward, inward, what = _ACTIONS[row.crossing]
            ledger.replace(keys, keys, outward if out_of else inward, what)


def _is_turned(held: Key, opened: Source, encoded: Encoded) -> bool:
    """Whether a tensor that crosses as it is is written with other axes than it has where it lies."""
    file, _, name = (encoded.places[held] or "").rpartition(":")
    written = encoded.package.files[file] if file else encoded.package.only
    return _axes(opened, held) not in (None, len(written.tensors[name].shape))


def _axes(opened: Source, held: Key) -> int | None:
    """How many axes a tensor has where it lies; None for one of another file."""
    if held not in opened.reading.places:
        return None
    file, _, name = opened.reading.places[held].rpartition(":")
    stored = opened.package.files[file] if file else opened.package.only
    return len(stored.tensors[name].shape)
