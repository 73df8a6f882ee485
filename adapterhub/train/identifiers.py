"""Words for [identifier]: rare, so that a model means little by them (Ruiz et al. 2023, 3.2).

The paper takes tokens 5000 to 10000 of T5's vocabulary. CLIP numbers its tokens by merge rank, so that these are common words in it
(`sand` is 5094), and the last fifth is where the rare ones stand (`sks` is 48136 of 49408).

adapterhub train dreambooth --find-identifier --base model.safetensors
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor

import adapterhub.layouts as layouts
from adapterhub import files
from adapterhub.adapter import Key, Role
from adapterhub.architectures import tokenizer as clip
from adapterhub.documents import Identifier, Identifiers, NearToken, Problem, RareToken
from adapterhub.errors import NotAnAdapter, RefusedInput, UsageError
from adapterhub.operations.embedding.vocabulary import named
from adapterhub.operations.problems import warning
from adapterhub.tensors import LazyTensor, values
from adapterhub.train.base import ENCODERS, Base, here
from adapterhub.train.randomness import generator

RARE = 0.8
"""The share of a vocabulary behind which its rare tokens stand."""
BYTES, SPECIAL = 512, 2
"""Tokens that are no merges: each byte, inside and at the end of a word, before them; start and end behind them."""
NEAREST = 3
"""Neighbours that are shown."""
_POOL = 8
"""Candidates that are looked at for each that is wanted."""
_WORD = re.compile(r"[a-z]{3,4}</w>")
_WORDS = re.compile(r"[^\s,.;:!?()\"]+")
_TABLE = "text_model.embeddings.token_embedding"


class Vocabulary(NamedTuple):
    """The tokenizer of a text encoder, the numbers of its tokens, their vectors (tokens, width) and the norms of these."""

    component: str
    tokenizer: Any
    numbers: Mapping[str, int]
    table: Tensor
    lengths: Tensor


def find(base: str, *, count: int = 10, seed: int = 0) -> Identifiers:
    """`count` words of 3 or 4 letters for the model at a path or of a Hub id: each one rare token in every tokenizer of it, which
    comes out as it went in. Of candidates that `seed` draws, those that lie farthest from all other tokens.

    Only the tables of the tokens are read. RefusedInput for a model without text encoders, or without such a word.
    """
    if count < 1:
        raise UsageError(f"count is {count}, and at least 1 identifier is found")
    with _vocabularies(base) as known:
        words = rare_words([one.tokenizer for one in known])
        if not words:
            raise RefusedInput(f"{base}: no word of 3 or 4 letters is a rare token of its own")
        order = torch.randperm(len(words), generator=generator(seed, "identifiers")).tolist()
        found = [_identifier(words[place], known) for place in order[: _POOL * count]]
    found.sort(key=lambda one: (one.prior, one.text))
    return Identifiers(base=base, candidates=len(words), identifiers=found[:count])


@contextmanager
def _vocabularies(source: str) -> Iterator[list[Vocabulary]]:
    path = here(source)
    with files.read(path) as package, TemporaryDirectory(prefix="adapterhub-tokenizer-") as own:
        reading = layouts.identify(package).decode(package)
        tensors = reading.adapter.tensors if reading is not None else {}
        tables = {name: tensors[held] for name in ENCODERS if (held := Key(name, _TABLE, Role.LAYER_WEIGHT)) in tensors}
        if not tables:
            raise NotAnAdapter(
                f"{source}: no text encoder, whose tokens could be looked at", mend="Give a whole model."
            )
        for name, document in clip.files(clip.END).items():
            Path(own, name).write_text(document if isinstance(document, str) else json.dumps(document), "utf-8")
        folders = {name: path / name.replace("text_encoder", "tokenizer") for name in tables}
        yield [_vocabulary(name, folders[name] if folders[name].is_dir() else Path(own), table)
               for name, table in tables.items()]  # fmt: skip


def _vocabulary(component: str, folder: Path, table: LazyTensor) -> Vocabulary:
    tokenizer, rows = _tokenizer(folder), torch.from_numpy(values(table).astype("f4"))
    return Vocabulary(component, tokenizer, tokenizer.get_vocab(), rows, rows.norm(dim=1))


def _tokenizer(folder: Path) -> Any:
    try:
        return transformers.CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (KeyError, OSError, TypeError, ValueError) as error:
        raise RefusedInput(f"{folder}: the tokenizer cannot be loaded: {error}") from error


def rare_words(tokenizers: Sequence[Any]) -> list[str]:
    """The words that are one rare token in each of `tokenizers`, and come out as they went in, in the order of the alphabet."""
    found: set[str] | None = None
    for tokenizer in tokenizers:
        numbers = tokenizer.get_vocab()
        words = [token.removesuffix("</w>") for token, number in numbers.items()
                 if _rank(number, len(numbers)) >= RARE and _WORD.fullmatch(token)]  # fmt: skip
        kept = set(_surviving(words, tokenizer))
        found = kept if found is None else found & kept
    return sorted(found or ())


def _surviving(words: Sequence[str], tokenizer: Any) -> Iterator[str]:
    """Those that are one token between others, and are read back from them."""
    if not words:
        return
    length = len(tokenizer.tokenize("a photo of dog")) + 1
    texts = [f"a photo of {word} dog" for word in words]
    for word, text, ids in zip(words, texts, tokenizer(texts).input_ids, strict=True):
        inside = ids[1:-1]
        if len(inside) == length and tokenizer.decode(inside).strip() == text:
            yield word


def _identifier(word: str, known: Sequence[Vocabulary]) -> Identifier:
    tokens = [_token(word, one) for one in known]
    return Identifier(text=word, prior=max(one.nearest[0].cosine for one in tokens), tokens=tokens)


def _token(word: str, known: Vocabulary) -> RareToken:
    number = known.numbers[f"{word}</w>"]
    row, lengths = known.table[number], known.lengths
    cosines = (known.table @ row) / (lengths * lengths[number]).clamp_min(1e-12)
    cosines[number] = -1
    top = cosines.topk(NEAREST)
    return RareToken(
        component=known.component,
        id=number,
        rank=round(_rank(number, len(known.numbers)), 4),
        length=round(float(lengths[number] / lengths.median()), 4),
        nearest=[_near(int(place), float(cosine), known) for cosine, place in zip(*top, strict=True)],
    )


def _near(number: int, cosine: float, known: Vocabulary) -> NearToken:
    spelled = known.tokenizer.convert_ids_to_tokens(number)
    text, ends = named(spelled) if spelled is not None else (None, False)
    return NearToken(token=text, id=number, ends_word=ends, cosine=round(cosine, 4), distance=None)


def warned(prompt: str | None, base: Base, class_prompt: str | None = None) -> list[Problem]:
    """A warning where no word of a prompt, beside those of the class, is one rare token: an identifier that is several tokens, or
    a common word, brings what the model means by them.
    """
    told = set(_WORDS.findall((class_prompt or "").lower()))
    words = [word for word in dict.fromkeys(_WORDS.findall((prompt or "").lower())) if word not in told]
    tokens = {word: [one.tokenize(word) for one in base.tokenizers.values()] for word in words}
    split = {word: lists[0] for word, lists in tokens.items() if any(len(one) != 1 for one in lists)}
    ranks = {word: min(_rank(tokenizer.convert_tokens_to_ids(one[0]), len(tokenizer))
                       for one, tokenizer in zip(lists, base.tokenizers.values(), strict=True))
             for word, lists in tokens.items() if word not in split}  # fmt: skip
    if not words or max(ranks.values(), default=0.0) >= RARE:
        return []
    mend = "adapterhub train dreambooth --find-identifier shows rare words of this model."
    if split:
        word, parts = next(iter(split.items()))
        shown = ", ".join(named(part).text for part in parts)
        return [warning("identifier-split", "prompt", f"{word!r} is {len(parts)} tokens ({shown}), each of which means something", mend)]  # fmt: skip
    word = max(ranks, key=lambda one: ranks[one])
    return [warning("identifier-common", "prompt", f"no word of {prompt!r} is rare: {ranks[word]:.0%} of the vocabulary are more "
                                                   f"frequent than {word!r}, and the rarest fifth begins at {RARE:.0%}", mend)]  # fmt: skip


def _rank(number: int, size: int) -> float:
    """The share of the merges of a vocabulary that are more frequent than a token."""
    return max(0.0, (number - BYTES) / max(1, size - BYTES - SPECIAL))
