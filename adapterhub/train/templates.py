"""What is said of pictures while a new word is learned: sentences around the word, or the captions beside the pictures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from adapterhub.errors import UsageError
from adapterhub.train.pictures import Picture

TEMPLATES: Mapping[str, Sequence[str]] = {
    "object": (
        "a photo of a {}", "a picture of the {}", "a photo of my {}", "the {} in a photo", "a close view of a {}",
        "a {} seen from afar", "a bright photo of the {}", "a dark picture of a {}", "a sharp photo of one {}",
        "a blurred picture of the {}", "a snapshot that shows a {}", "a large photo of the {}", "a plain photo of a {}",
    ),
    "style": (
        "a picture in the style of {}", "a scene drawn in {} style", "{} style, a picture", "a painting made in {} style",
        "a bright picture in {} style", "a dark scene in the style of {}", "a sketch in the style of {}",
        "a small picture in {} style", "a large painting in the style of {}", "a detail in {} style",
    ),
}  # fmt: skip
"""Neutral sentences, so that what they have in common is the word alone (Gal et al. 2022, 4: after CLIP's for ImageNet)."""
_WORD = ("{}", "[name]")
_CAPTION = "[filewords]"


def templates(name: str) -> Sequence[str]:
    """The sentences called `name`, or the lines of a file: `{}`, or A1111's `[name]`, is the word, `[filewords]` a picture's caption.

    UsageError where there is no such file, or a line does not say the word.
    """
    if name in TEMPLATES:
        return TEMPLATES[name]
    try:
        lines = Path(name).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{name}: the templates cannot be read: {getattr(error, 'strerror', None) or 'they are not UTF-8'}",
                         mend=f"Give {' or '.join(TEMPLATES)}, or a file of lines with {{}}.") from None  # fmt: skip
    sentences = [line.strip() for line in lines if line.strip()]
    wordless = [line for line in sentences if not any(sign in line for sign in _WORD)]
    if wordless or not sentences:
        what = f"the line {wordless[0]!r} does not say the word" if wordless else "there are no lines in it"
        raise UsageError(f"{name}: {what}", mend="Put {} where the word belongs, one sentence a line.")
    return sentences


def captions(picture: Picture, sentences: Sequence[str], word: str) -> list[str]:
    """What may be said of a picture. Its caption, if that says the word or has `{}` for it; else the sentences with `[filewords]`
    around the caption; of a picture without a caption, the others. UsageError where that leaves nothing: a caption without the
    word would teach nothing.
    """
    own = picture.caption
    if own and any(sign in own for sign in (word, *_WORD)):
        return [_short(_said(own, word), word, picture)]
    fitting = [sentence for sentence in sentences if (_CAPTION in sentence) == bool(own)]
    if not fitting and own:
        raise UsageError(f"{picture.name}: its caption says neither {word} nor {{}}",
                         mend=f"Put {{}} where the word belongs, or give templates with {_CAPTION}, or leave captions out: --no-captions.")  # fmt: skip
    if not fitting:
        raise UsageError(f"{picture.name} has no caption, and all templates have {_CAPTION}",
                         mend="Put captions beside the pictures, or add a template without it.")  # fmt: skip
    return [_said(sentence, word).replace(_CAPTION, own or "") for sentence in fitting]


def _said(sentence: str, word: str) -> str:
    for sign in _WORD:
        sentence = sentence.replace(sign, word)
    return sentence


def _short(caption: str, word: str, picture: Picture) -> str:
    if re.search(rf"{re.escape(word)}_\d", caption):
        raise UsageError(f"{picture.name}: its caption writes out the vectors of {word}",
                         mend=f"Say {word} alone: that stands for all of them.")  # fmt: skip
    return caption
