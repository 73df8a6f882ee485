"""Containers: what lies on disk, read without trust and written whole or not at all.

`read` gives a Package of lazy tensors, `write` puts one on disk. Both know safetensors, the archives of torch, whose pickles
are interpreted and never executed, pictures that hold embeddings, and folders; `read` also knows shards.
"""

from adapterhub.files.cache import cached_digest, cached_sha256, is_cached, is_cached_digest
from adapterhub.files.digests import data_sha256, every_digest, sha256
from adapterhub.files.folder import Folder, Listing
from adapterhub.files.limits import LIMITS, Limits
from adapterhub.files.numbers import items
from adapterhub.files.package import (
    ASIDE_FILE,
    DIRECTORY,
    PNG,
    SAFETENSORS,
    SHARDED,
    SINGLE,
    TORCH_LEGACY,
    TORCH_ZIP,
    WEBP,
    File,
    Package,
    Problem,
)
from adapterhub.files.reading import has_variant, opened, read, read_folder, read_part, read_source
from adapterhub.files.safetensors_writing import DIGEST
from adapterhub.files.source import Address, Bytes, Elsewhere
from adapterhub.files.targets import is_empty_folder
from adapterhub.files.together import THREADS
from adapterhub.files.writing import write

__all__ = [
    "ASIDE_FILE",
    "DIGEST",
    "DIRECTORY",
    "LIMITS",
    "PNG",
    "SAFETENSORS",
    "SHARDED",
    "SINGLE",
    "THREADS",
    "TORCH_LEGACY",
    "TORCH_ZIP",
    "WEBP",
    "Address",
    "Bytes",
    "Elsewhere",
    "File",
    "Folder",
    "Limits",
    "Listing",
    "Package",
    "Problem",
    "cached_digest",
    "cached_sha256",
    "data_sha256",
    "every_digest",
    "has_variant",
    "is_cached",
    "is_cached_digest",
    "is_empty_folder",
    "items",
    "opened",
    "read",
    "read_folder",
    "read_part",
    "read_source",
    "sha256",
    "write",
]
