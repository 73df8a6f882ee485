"""Components of a pipeline that are no part of a model's architecture (safety checker, image encoder, feature extractor):
they go from folder to folder as they are, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from adapterhub import files
from adapterhub.documents import LedgerEntry
from adapterhub.files import LIMITS, File, Folder, Package
from adapterhub.files.directories import COMPONENTS, PIPELINE, SCHEDULER, preferred, read_documents, stated
from adapterhub.files.folder import INDEX
from adapterhub.files.tokenizer import TOKENIZERS

_DOCUMENTS = (".json", ".txt")
STEMS = {"pytorch_model": "model"}
"""What transformers calls weights in safetensors that have another name as a pickle."""


@dataclass
class Other:
    """A component: its `row` in the index, and what is to be written of it; `places` leads from each of its tensors to where that
    is then.
    """

    name: str
    row: Any
    documents: dict[str, Any]
    files: dict[str, File] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)

    @property
    def checks(self) -> bool:
        """Whether it only looks at images."""
        return self.name == "safety_checker"

    def take(self, name: str, file: File) -> None:
        """Takes in a file of weights."""
        stem = name.partition(".")[0]
        target = f"{self.name}/{STEMS.get(stem, stem)}.safetensors"
        self.files[target] = File(file.tensors, {"format": "pt", **file.metadata})
        self.places |= {f"{self.name}/{name}:{tensor}": f"{target}:{tensor}" for tensor in file.tensors}


def others(package: Package, stack: ExitStack) -> list[Other]:
    """Those that the index of a folder names, and that are there; what is opened closes with `stack`."""
    return list(_others(package, stack))


def _others(package: Package, stack: ExitStack) -> Iterator[Other]:
    if PIPELINE not in package.documents or package.path is None:
        return
    folder = Folder(package.path, package.variant)
    for name, row in stated(package.documents[PIPELINE]).items():
        if name in folder.folders and name not in (*COMPONENTS, SCHEDULER, *TOKENIZERS):
            part = folder.part(name)
            told = [one for one in sorted(part.files) if one.endswith(_DOCUMENTS) and not INDEX.search(one)]
            documents, _ = read_documents(part, told, LIMITS)
            other = Other(name, row, {f"{name}/{one}": document for one, document in documents.items()})
            for weights in preferred(part):
                for file in stack.enter_context(files.read_part(part, weights)).files.items():
                    other.take(*file)
            if other.documents or other.files:
                yield other


def carried(found: Sequence[Other]) -> list[LedgerEntry]:
    """What the ledger says of those that are written."""
    return [LedgerEntry(source=[place], target=[target], action="copy" if place == target else "rename")
            for other in found for place, target in other.places.items()]  # fmt: skip


def left_out(found: Sequence[Other], why: str) -> list[LedgerEntry]:
    """What the ledger says of those that are not."""
    return [
        LedgerEntry(source=[place], target=[], action="drop", reason=why) for other in found for place in other.places
    ]
