"""What the paths of a Hugging Face cache tell: `models--ORG--NAME/snapshots/REVISION/FILE`, a link to `blobs/ETAG`.

Source: huggingface_hub `file_download.py`: the etag of a large file is its SHA-256, that of a small one a SHA-1 of Git.
"""

from __future__ import annotations

import os
import re

from adapterhub.registry.places.found import NOTHING, Told

NAME, REPOSITORY = "huggingface", "repository"
_SNAPSHOT = re.compile(r"/models--([^/]+)/snapshots/([^/]+)(?:/|\Z)")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def snapshot(folder: str) -> Told:
    """The repository and the revision that a folder of a cache belongs to."""
    if "/models--" in folder and (found := _SNAPSHOT.search(folder)):
        return {REPOSITORY: found[1].replace("--", "/"), "revision": found[2]}
    return NOTHING


def blob(path: str) -> Told:
    """The SHA-256 that the name of the blob behind the link at `path` claims."""
    try:
        name = os.path.basename(os.readlink(path))
    except OSError:
        return NOTHING
    return {"sha256": name} if _SHA256.fullmatch(name) else NOTHING
