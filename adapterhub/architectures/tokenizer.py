"""CLIP's tokenizer, which every text encoder here was trained with: its merges, and the files that transformers reads.

Source: `clip/simple_tokenizer.py` of openai/CLIP, whose merges are shipped here under its licence, tokenizers/LICENSE;
the form of the files is that of CLIPTokenizer (transformers). `clip_merges.py` made the data.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from functools import cache
from typing import Any

from adapterhub.architectures.inventory import FOLDER

CLASS = "CLIPTokenizer"
MERGES = FOLDER / "tokenizers" / "clip-merges.txt.gz"
START, END = "<|startoftext|>", "<|endoftext|>"
LENGTH = 77
_PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_BYTES = tuple(map(chr, (*_PRINTABLE, *range(0x100, 0x200 - len(_PRINTABLE)))))
"""A character for each byte: itself where it is printable in Latin-1, and one from U+0100 on for each of the others."""


def files(pad: str) -> dict[str, Any]:
    """The four files of a tokenizer that fills prompts up with `pad`: JSON documents, and the text of merges.txt."""
    named = {"bos_token": START, "eos_token": END, "pad_token": pad, "unk_token": END}
    special = sorted({pad, START, END}, key=vocabulary().__getitem__)
    added = {str(vocabulary()[token]): _added(token) for token in special}
    settings = {
        "add_prefix_space": False, "added_tokens_decoder": added, "do_lower_case": True, "errors": "replace",
        "model_max_length": LENGTH, "tokenizer_class": CLASS, **named,
    }  # fmt: skip
    return {
        "merges.txt": merges(),
        "special_tokens_map.json": named,
        "tokenizer_config.json": dict(sorted(settings.items())),
        "vocab.json": vocabulary(),
    }


@cache
def merges() -> str:
    """merges.txt: a line that names its version, then the two parts of each merge, the most frequent first."""
    return gzip.decompress(MERGES.read_bytes()).decode()


@cache
def vocabulary() -> dict[str, int]:
    """vocab.json: the number of each token. Bytes come first, then bytes that end a word, merges and the two specials."""
    joined = (merge.replace(" ", "") for merge in merges().splitlines()[1:])
    return _numbered([*_BYTES, *(f"{byte}</w>" for byte in _BYTES), *joined, START, END])


def _numbered(tokens: Iterable[str]) -> dict[str, int]:
    return {token: number for number, token in enumerate(tokens)}


def _added(token: str) -> dict[str, Any]:
    """A special token, as the tokenizers of SDXL have it."""
    return {
        "content": token, "lstrip": False, "normalized": token == START, "rstrip": False, "single_word": False,
        "special": True,
    }  # fmt: skip
