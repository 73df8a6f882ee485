"""What a CLIP tokenizer calls its tokens: `vocab.json` (with `added_tokens.json`), or `tokenizer.json`.

A name is spelled in GPT-2's alphabet, in which each byte is a printable character: the printable ones of Latin-1 stand for
themselves, the others for U+0100 and what follows, in their order; `</w>` ends a word. Source: transformers
`models/clip/tokenization_clip.py` and `bytes_to_unicode` of `models/gpt2/tokenization_gpt2.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from adapterhub.errors import MalformedFile, UsageError
from adapterhub.files import LIMITS
from adapterhub.files.beside import inside, read_document

_END = "</w>"
_ITSELF = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_OTHERS = sorted(set(range(0x100)) - set(_ITSELF))
_BYTES = {chr(byte): byte for byte in _ITSELF} | {chr(0x100 + place): byte for place, byte in enumerate(_OTHERS)}


class Name(NamedTuple):
    """The text of a token, and whether it ends a word."""

    text: str
    ends_word: bool


def vocabulary(folder: Path) -> dict[int, str]:
    """The tokens of the tokenizer in `folder` by number, as it spells them. MalformedFile where they are not what they should
    be, UsageError where there are none.
    """
    for file, found in (("vocab.json", _plain), ("tokenizer.json", _whole)):
        if (folder / file).is_file():
            return found(folder)
    raise UsageError(f"{folder} holds no vocab.json and no tokenizer.json",
                     mend="Give --tokenizer DIR: the folder tokenizer of a diffusers model, or that of its text encoder.")  # fmt: skip


def named(spelled: str) -> Name:
    """A token's text. Bytes that are no UTF-8 by themselves are escapes; what is in no alphabet of bytes stays as it is."""
    ends = spelled.endswith(_END) and spelled != _END
    text = spelled.removesuffix(_END) if ends else spelled
    if not _BYTES.keys() >= set(text):
        return Name(text, ends)
    return Name(bytes(_BYTES[sign] for sign in text).decode("utf-8", "backslashreplace"), ends)


def _plain(folder: Path) -> dict[int, str]:
    added = "added_tokens.json"
    found = _names(folder / "vocab.json", _document(folder, "vocab.json"))
    return found | (_names(folder / added, _document(folder, added)) if (folder / added).is_file() else {})


def _whole(folder: Path) -> dict[int, str]:
    """Source: huggingface/tokenizers, `tokenizer.json`: `model.vocab` and `added_tokens`."""
    path, document = folder / "tokenizer.json", _document(folder, "tokenizer.json")
    model, added = (
        (document.get(name) for name in ("model", "added_tokens")) if isinstance(document, dict) else (None, None)
    )
    found = _names(path, model.get("vocab") if isinstance(model, dict) else None)
    for row in added if isinstance(added, list) else ():
        if not isinstance(row, dict) or type(row.get("id")) is not int or not isinstance(row.get("content"), str):
            raise _malformed(path, "an added token without an id and a content")
        found[row["id"]] = row["content"]
    return found


def _names(path: Path, numbers: Any) -> dict[int, str]:
    if not isinstance(numbers, Mapping) or not all(type(number) is int for number in numbers.values()):
        raise _malformed(path, "no object of tokens and their numbers")
    return {number: name for name, number in numbers.items()}


def _document(folder: Path, name: str) -> Any:
    return read_document(inside(folder, name, folder), LIMITS)


def _malformed(path: Path, what: str) -> MalformedFile:
    return MalformedFile(path, "not-a-vocabulary", f"this is no vocabulary of CLIP: {what}",
                         mend="Get the tokenizer again, or give another: --tokenizer DIR.")  # fmt: skip
