"""Write the merges of CLIP's tokenizer: the part of OpenAI's list that CLIP uses, as transformers names and reads it.

    python -m adapterhub.architectures.clip_merges bpe_simple_vocab_16e6.txt.gz

The list lies in `clip/` of openai/CLIP and in the wheel of open_clip_torch, the same bytes, whose digest is checked.
Never imported by adapterhub itself.
"""

from __future__ import annotations

import gzip
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

from adapterhub.architectures.tokenizer import MERGES

SOURCE = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
COUNT = 49_152 - 256 - 2
"""How many of its merges CLIP uses, the first ones (`clip/simple_tokenizer.py`)."""


def main(arguments: Sequence[str], target: Path = MERGES) -> None:
    """Write `target` from the list at the one path in `arguments`. SystemExit where it is another file."""
    if len(arguments) != 1:
        sys.exit(__doc__)
    source = Path(arguments[0]).read_bytes()
    if (found := hashlib.sha256(source).hexdigest()) != SOURCE:
        sys.exit(f"{arguments[0]} has the SHA-256 {found}, the list of CLIP {SOURCE}")
    lines = gzip.decompress(source).decode().split("\n")
    text = "".join(f"{line}\n" for line in ("#version: 0.2", *lines[1 : 1 + COUNT]))
    target.write_bytes(gzip.compress(text.encode(), mtime=0))


if __name__ == "__main__":
    main(sys.argv[1:])
