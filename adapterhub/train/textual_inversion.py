"""Textual Inversion (Gal et al. 2022, equation 2): a new word for a frozen model.

    v* = argmin_v E ‖ε − ε_θ(z_t, t, c_θ(y(v)))‖²,   y(v): a sentence that says the word, v: the vectors that it stands for

adapterhub train textual-inversion --base model.safetensors --images fox/ --token "<fox>" --initial-words animal -o fox/
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

import adapterhub.layouts as layouts
from adapterhub.adapter import Adapter, Key, Kind, Role
from adapterhub.documents import TextualInversionSettings, Training
from adapterhub.errors import UsageError
from adapterhub.layouts.embedding.layout import EmbeddingLayout, file_name
from adapterhub.train.base import Base, opened
from adapterhub.train.beginning import begun
from adapterhub.train.concept import Concept, ensure_short, sampling_of
from adapterhub.train.loop import Loop, Watch
from adapterhub.train.pictures import load
from adapterhub.train.results import Made, finish, of_a1111, stored
from adapterhub.train.templates import captions, templates

ARCHITECTURES = ("sd1", "sd2", "sdxl")
LAYOUTS = ("diffusers", "a1111", "kohya")
"""What the result is written in where nothing is named, as far as they have a place for it: A1111's is for one text encoder."""


class ExtendedEmbedding(nn.Module):
    """A table of tokens (V, width) that is never written, and the vectors (n, width) of those from number `first` on.

    Nothing else is trained, so nothing else can move: not by weight decay, nor by an optimizer's memory of other rows.
    """

    def __init__(self, table: nn.Embedding, vectors: Tensor, first: int) -> None:
        super().__init__()
        self.table, self.first = table, first
        self.vectors = nn.Parameter(vectors)
        self.usual_norm = float(table.weight.norm(dim=1).median())

    def forward(self, ids: Tensor) -> Tensor:
        numbers = ids - self.first
        is_new = (numbers >= 0) & (numbers < len(self.vectors))
        known = self.table(ids.masked_fill(is_new, 0))
        new = embedding(numbers.masked_fill(~is_new, 0), self.vectors)
        return torch.where(is_new[..., None], new.to(known.dtype), known)

    @torch.no_grad()
    def keep_norm(self) -> None:
        """Brings every vector to the median norm of the table: no word is louder than others (OneTrainer)."""
        self.vectors.mul_(self.usual_norm / self.vectors.norm(dim=1, keepdim=True).clamp_min(1e-12))


def train(
    settings: TextualInversionSettings, *, resume: bool = False, force: bool = False, watch: Watch | None = None
) -> Training:
    """Trains an embedding as `settings` say and writes it; what goes wrong does so before the first step, wherever it can."""
    with begun(settings, resume=resume, force=force) as accelerator, opened(settings.base, ARCHITECTURES) as base:
        words = attach(base, settings)
        names = files_of(adapter(base, words, settings), settings.layouts)
        after = partial(_keep_norms, words) if settings.keep_norm else None
        loop = Loop(settings, base, [subject(settings, base)], accelerator, after=after, watch=watch)
        loop.run()
        made = adapter(base, words, settings)
        return finish(
            Made("textual-inversion", loop, made, list(names), of_a1111(loop, file_name(settings.token)), names=names)
        )


def attach(base: Base, settings: TextualInversionSettings) -> dict[str, ExtendedEmbedding]:
    """Gives every tokenizer the word, as `<t>`, `<t>_1` … (diffusers' names), and every text encoder its vectors.

    SDXL pools at the token of the highest number, as its published configurations tell transformers to: of a caption with a new
    word that is the word, here as in diffusers, and not the end, where ComfyUI pools.
    """
    tokens = [settings.token, *(f"{settings.token}_{number}" for number in range(1, settings.vectors))]
    words = {}
    for name, encoder in base.encoders.items():
        tokenizer, table = base.tokenizers[name], encoder.get_input_embeddings()
        vectors = table.weight.detach()[_initial(tokenizer, settings)].clone()
        _add(tokenizer, tokens)
        words[name] = ExtendedEmbedding(table, vectors, tokenizer.convert_tokens_to_ids(tokens[0]))
        encoder.set_input_embeddings(words[name])
    base.new_words[settings.token] = " ".join(tokens)
    return words


def _initial(tokenizer: Any, settings: TextualInversionSettings) -> list[int]:
    """The number of the token that each vector begins as: of k words and n vectors, vector i as word ⌊i·k/n⌋ (A1111)."""
    words, count = settings.initial_words.split(), settings.vectors
    if not 1 <= len(words) <= count:
        raise UsageError(f"there are {len(words)} initial words for {count} vectors",
                         mend="Give one word for all, or at most as many as --vectors.")  # fmt: skip
    for word in words:
        if len(parts := tokenizer.tokenize(word)) != 1:
            raise UsageError(f"the initial word {word!r} is {len(parts)} tokens: {' '.join(parts)}",
                             mend="Give a common word, which is one token.")  # fmt: skip
    return [
        int(tokenizer.convert_tokens_to_ids(tokenizer.tokenize(words[i * len(words) // count])[0]))
        for i in range(count)
    ]


def _add(tokenizer: Any, tokens: Sequence[str]) -> None:
    if known := sorted(tokenizer.get_vocab().keys() & set(tokens)):
        raise UsageError(f"the base knows {known[0]} already: it would have two meanings", mend="Give another --token.")
    tokenizer.add_tokens(list(tokens))


def subject(settings: TextualInversionSettings, base: Base) -> Concept:
    """The pictures, and what may be said of each."""
    sentences = templates(settings.templates)
    pictures = load(Path(settings.images), captions=settings.captions, side=sampling_of(settings, base).side)
    concept = Concept("subject", pictures, [captions(picture, sentences, settings.token) for picture in pictures])
    ensure_short(concept, base)
    return concept


def _keep_norms(words: Mapping[str, ExtendedEmbedding]) -> None:
    for word in words.values():
        word.keep_norm()


def adapter(base: Base, words: Mapping[str, ExtendedEmbedding], settings: TextualInversionSettings) -> Adapter:
    """What the word has come to mean: the vectors for each text encoder."""
    tensors = {Key(name, settings.token, Role.VECTORS): stored(word.vectors) for name, word in words.items()}
    return Adapter(Kind.EMBEDDING, base.architecture, tensors)


def files_of(made: Adapter, wanted: Sequence[str] | None) -> dict[str, str]:
    """The file, or the folder of several, that `made` goes into in each layout, those of one file first. They are called as the
    token, which most readers take from there. UsageError for a layout that lacks a place.
    """
    found: list[EmbeddingLayout] = [layouts.get(name, Kind.EMBEDDING) for name in dict.fromkeys(wanted or LAYOUTS)]  # type: ignore[misc] # by kind
    takes = [layout for layout in found if all(layout.place(key, made) for key in made.tensors)]
    if wanted is not None and len(takes) < len(found):
        lacking = next(layout.name for layout in found if layout not in takes)
        raise UsageError(f"the layout {lacking} has no place for vectors of {' and '.join(made.components())}",
                         mend=f"Those that have: {', '.join(layout.name for layout in takes) or 'kohya, diffusers'}.")  # fmt: skip
    stem, names = file_name(next(iter(made.tensors)).module), dict[str, str]()
    for layout in sorted(takes, key=partial(_is_folder, made)):
        suffix = "" if _is_folder(made, layout) else next(iter(layout.containers))
        name = f"{stem}{suffix}"
        names[layout.name] = f"{stem}-{layout.name}{suffix}" if not suffix or name in names.values() else name
    return names


def _is_folder(made: Adapter, layout: EmbeddingLayout) -> bool:
    return len({layout.apart(key) for key in made.tensors}) > 1
