"""`convert`: an adapter into another layout, every tensor accounted for, and the written file measured against the source.

One straight line: open → make (by kind: `operations/KIND/work.py`) → write → open again and compare. A conversion that only
renames moves bytes and imports no torch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Unpack

from adapterhub import files
from adapterhub.documents import Conversion
from adapterhub.files import cached_sha256
from adapterhub.operations import work
from adapterhub.operations.base import base_of
from adapterhub.operations.delivery import Report, deliver, digest_of, of_inputs
from adapterhub.operations.proof import Proof, costs
from adapterhub.operations.recipe import recorded
from adapterhub.operations.source import Source, open_adapter
from adapterhub.operations.wish import Wish
from adapterhub.operations.work import Made, WholeArguments, whole_options


@recorded("convert", "source", "base", "image", "vae", "tokenizer", "config")
def convert(
    source: Path | str,
    target: Path | str,
    *,
    to: str | None = None,
    for_tool: str | None = None,
    as_algorithm: str | None = None,
    rank: int | None = None,
    dtype: str | None = None,
    base: Path | str | None = None,
    architecture: str | None = None,
    variant: str | None = None,
    token: str | None = None,
    image: Path | str | None = None,
    extract_embeddings: bool = False,
    fit: bool = False,
    allow_loss: bool = False,
    dry_run: bool = False,
    force: bool = False,
    check: bool = True,
    digests: bool = True,
    **whole: Unpack[WholeArguments],
) -> Conversion:
    """Writes the adapter at `source` to `target` in the layout `to`, or in that which `for_tool` reads.

    LoRAs: `as_algorithm` ("lora", "full") changes what a module is made of, with `rank` for an approximation;
    `extract_embeddings` writes the embeddings that travel in the file, and nothing else. Embeddings: `token` renames, `image`
    is the picture that an `a1111-image` is written onto. Hypernetworks: into a layout of LoRAs they are folded for `base`,
    and `fit` allows a least-squares fit of those that are not linear. Whole models: see `WholeArguments`. For all:
    `dtype` ("fp32", "fp16", "bf16") casts; `base` is the model whose weights the result depends on; `variant` is that of each
    folder that has its weights in several.

    With `dry_run` nothing is written; without `check` nothing is read twice: neither the error nor whole-file digests are
    known; without `digests` the error alone is. Raises what `adapterhub.errors` lists.
    """
    wish = Wish(source=Path(source), target=str(target), to=to, for_tool=for_tool, algorithm=as_algorithm, rank=rank, dtype=dtype,
                token=token, image=_path(image), extract_embeddings=extract_embeddings, fit=fit, allow_loss=allow_loss,
                force=force, whole=whole_options(whole))  # fmt: skip
    opening = partial(open_adapter, wish.source, architecture=architecture, variant=variant, allow_loss=allow_loss,
                      strict=not files.has_variant(variant, base, wish.whole.vae))  # fmt: skip
    return _carried_out(wish, _path(base), opening, dry_run=dry_run, check=check, digests=digests and check)


def _carried_out(
    wish: Wish,
    base: Path | None,
    opening: Callable[[], AbstractContextManager[Source]],
    *,
    dry_run: bool,
    check: bool,
    digests: bool,
) -> Conversion:
    started = time.perf_counter()
    wish.check()
    with (
        opening() as opened,
        base_of(base, opened.adapter.architecture, opened.identity.also, variant=opened.package.variant) as weights,
    ):
        kind, request = wish.met(opened.identity.kind, opened.layout)
        made = work.of(kind).make(opened, request, weights)
        place = wish.place(made.encoded.package)
        report = Report(wish, place, request.layout.name, opened, made, started, digests=digests)
        if dry_run:
            return _with_inputs(_approximated(report.document(dry_run=True), made), wish, digests=False)
        with ThreadPoolExecutor(1) as beside:
            hashed = beside.submit(digest_of, opened) if digests else None
            proof = Proof(opened, made, weights, measured=check, verify=wish.whole.verify)
            whole = wish.whole
            read = (base, whole.vae, whole.tokenizer, whole.config)
            digest = deliver(made, place, wish.force, opened, proof, read, digests=digests)
            return _with_inputs(
                _approximated(report.document(hashed, digest, proof.gap), made, proof), wish, digests=digests
            )


def _approximated(done: Conversion, made: Made, proof: Proof | None = None) -> Conversion:
    """What was done, with what lower ranks cost."""
    found, overall = costs(made.cuts, proof)
    return done.model_copy(update={"approximations": found, "relative_error": overall})


def _with_inputs(done: Conversion, wish: Wish, *, digests: bool) -> Conversion:
    """What was done, with the file that another VAE came from."""
    vae = wish.whole.vae
    if vae is None:
        return done
    digest = cached_sha256(vae) if digests and vae.is_file() else None
    return of_inputs(done, "convert", [wish.source, vae], [done.source.sha256, digest])


def _path(given: Path | str | None) -> Path | None:
    return None if given is None else Path(given)
