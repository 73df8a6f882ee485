"""A tokenizer that the user gives: the files of its folder that transformers reads, checked, and no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adapterhub.errors import MalformedFile, UsageError
from adapterhub.files.directories import read_documents
from adapterhub.files.folder import Folder
from adapterhub.files.limits import LIMITS, Limits

WHOLE = (("vocab.json", "merges.txt"), ("tokenizer.json",))
"""What a byte-pair tokenizer is stored in: files that are of use together. transformers 5 writes the second."""
TOKENIZERS = ("tokenizer", "tokenizer_2")
"""The folders of a pipeline that hold tokenizers."""
CONFIG = "tokenizer_config.json"
BESIDE = (CONFIG, "special_tokens_map.json", "added_tokens.json")


def tokenizer_from(path: Path, *, limits: Limits = LIMITS) -> dict[str, Any]:
    """The files of the tokenizer in the folder `path` by name: JSON documents, and the text of merges.txt.

    Raises UsageError where there is no such folder, and MalformedFile where a file is missing, too large, no JSON, a link
    out of the folder, or asks for code to be run.
    """
    if not path.is_dir():
        raise UsageError(f"{path} is no folder", mend="Give the folder of a tokenizer of CLIP.")
    folder = Folder(path)
    whole = [names for names in WHOLE if folder.files.issuperset(names)]
    if not whole:
        raise folder.missing(" with ".join(WHOLE[0]), folder)
    names = [name for stored in whole for name in stored] + [name for name in BESIDE if name in folder.files]
    documents, problems = read_documents(folder, names, limits)
    for problem in problems:
        raise MalformedFile(path / problem.where, problem.code, problem.message, mend="Give a tokenizer of CLIP.")
    for name, document in documents.items():
        if not name.endswith(".txt") and not isinstance(document, dict):
            raise MalformedFile(path / name, "not-a-tokenizer", "no object", mend="Give a tokenizer of CLIP.")
    return documents
