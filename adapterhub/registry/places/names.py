"""What the name of a file or folder says, before anything is opened."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence

from adapterhub.files.folder import INDEX

_IGNORING_CASE = re.IGNORECASE | re.DOTALL
MODEL = re.compile(r"[^.].*\.(safetensors|sft|pti|pth?|ckpt|bin|pkl|pickle)", _IGNORING_CASE)
"""Files that hold tensors. Hidden ones are none: they are what others left half written, and the `._NAME` of macOS."""
PICTURE = re.compile(r"[^.].*(?<!\.preview)\.(png|webp)", _IGNORING_CASE)
"""Pictures that may hold an embedding. A1111 does not look into previews either (`modules/textual_inversion`)."""
DOCUMENT = re.compile(r"[^.].*\.(json|info|txt)|[^.].*\.(png|jpe?g|webp|gif|avif|jxl)", _IGNORING_CASE)
"""Files that say or show something of the model beside them."""
EMBEDDINGS = re.compile(r"embeddings?|textual[-_ ]?inversions?", re.IGNORECASE)
"""Folders in which a picture may be an embedding."""
ENVIRONMENT = "pyvenv.cfg"
"""Where it lies, Python and its libraries do."""

_SKIPPED = re.compile(
    r"""
    .*/(\.git | \.hg | \.svn | __pycache__ | node_modules | site-packages | \.ipynb_checkpoints)
  | .*/(\.Trash | \.Trashes | \.Trash-\d+ | \$RECYCLE\.BIN) | share/Trash
  | .*/(datasets|spaces)--.* | (models)--.*/(blobs|refs|\.no_exist) | .*/\.locks  # huggingface_hub `file_download.py`
  | huggingface/(download|upload)  # what it leaves in a local folder: `_local_folder.py`
  | .*/\.(download|convert)_cache  # InvokeAI `config_default.py`
    """,
    re.VERBOSE | re.DOTALL,
)
"""Folders, as PARENT/NAME, that never hold models of the person who owns them."""
_NUMBER = re.compile(r"-\d{5}-of-\d{5}(?=\.)")


def skipped(folder: str) -> bool:
    """Whether the folder at this path never holds models, or what it holds is met elsewhere."""
    parent, name = os.path.split(folder)
    return _SKIPPED.fullmatch(f"{os.path.basename(parent)}/{name}") is not None


def is_index(name: str) -> bool:
    """Whether a file of this name joins shards."""
    return not name.startswith(".") and INDEX.search(name) is not None


def without_previews(pictures: Iterable[str], models: Iterable[str]) -> list[str]:
    """The `pictures` that are not there to show one of the `models` of the same folder."""
    shown = {os.path.splitext(name)[0].casefold() for name in models}
    return [name for name in pictures if os.path.splitext(name)[0].casefold() not in shown]


def shards(files: Iterable[str], indexes: Sequence[str]) -> dict[str, list[str]]:
    """The files that each index joins, by the parts of their names: `a.fp16-00001-of-00002.safetensors` belongs to
    `a.safetensors.index.fp16.json`, wherever the variant stands.
    """
    if not indexes:
        return {}
    joined: dict[tuple[str, ...], list[str]] = {}
    for name in files:
        if _NUMBER.search(name):
            joined.setdefault(_parts(_NUMBER.sub("", name)), []).append(name)
    return {index: joined.get(_parts(index), []) for index in indexes}


def _parts(name: str) -> tuple[str, ...]:
    return tuple(sorted(set(name.split(".")) - {"index", "json"}))
