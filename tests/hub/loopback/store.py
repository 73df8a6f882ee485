"""What the loopback Hub holds: repositories, their commits and branches, and LFS objects by digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

import yaml

LFS, REGULAR = "lfs", "regular"
_LFS_NAMES = (
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".png",
    ".jpg",
    ".jpeg",
    ".webp",
    ".gif",
    ".msgpack",
    ".h5",
)
"""As the .gitattributes of a new repository has them, and pictures, which the Hub keeps in LFS too."""
_LARGE = 10 << 20


def mode(name: str, size: int) -> str:
    return LFS if name.lower().endswith(_LFS_NAMES) or size > _LARGE else REGULAR


@dataclass(frozen=True)
class Blob:
    data: bytes
    mode: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def pointer(self) -> bytes:
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n".encode()

    @property
    def git(self) -> str:
        """The id of the blob in git, of an LFS file that of its pointer."""
        data = self.pointer if self.mode == LFS else self.data
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    @property
    def oid(self) -> str:
        """What preupload compares, and the ETag."""
        return self.sha256 if self.mode == LFS else self.git

    @property
    def lfs(self) -> dict[str, object] | None:
        told = {"sha256": self.sha256, "oid": self.sha256, "size": len(self.data), "pointerSize": len(self.pointer)}
        return told if self.mode == LFS else None


@dataclass(frozen=True)
class Commit:
    oid: str
    title: str
    files: Mapping[str, Blob]
    parent: str | None


@dataclass
class Repo:
    id: str
    private: bool = False
    gated: bool = False
    allowed: set[str] = field(default_factory=set)
    """Who may read although it is gated."""
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    """Commits by branch (`main`), tag and pull request (`refs/pr/1`)."""
    tags: set[str] = field(default_factory=set)
    likes: int = 0
    downloads: int = 0

    @property
    def owner(self) -> str:
        return self.id.partition("/")[0]

    def commit(self, ref: str, title: str, files: Mapping[str, Blob]) -> Commit:
        parent = self.refs.get(ref)
        names = "".join(f"{name}{blob.oid}" for name, blob in sorted(files.items()))
        oid = hashlib.sha1(f"{len(self.commits)}{self.id}{ref}{parent}{title}{names}".encode()).hexdigest()
        made = Commit(oid, title, dict(files), parent)
        self.commits[oid] = made
        self.refs[ref] = oid
        return made

    def at(self, revision: str) -> Commit | None:
        """The commit that a revision, percent-encoded or not, names."""
        revision = unquote(revision)
        return self.commits.get(self.refs.get(revision, revision))

    def pull_request(self, ref: str) -> str:
        """Opens the next, from a revision: `refs/pr/N`."""
        number = sum(name.startswith("refs/pr/") for name in self.refs) + 1
        self.refs[f"refs/pr/{number}"] = self.refs[ref]
        return f"refs/pr/{number}"

    @property
    def card(self) -> dict[str, object]:
        """The front matter of the card on main."""
        commit = self.at("main")
        readme = commit.files.get("README.md") if commit else None
        try:
            return front_matter(readme.data.decode("utf-8", "replace")) if readme else {}
        except ValueError:
            return {}


def front_matter(text: str) -> dict[str, object]:
    """The YAML between the first two lines of three hyphens. ValueError where it is no mapping."""
    lines = text.split("\n")
    if lines[0].strip() != "---":
        return {}
    end = next((number for number, line in enumerate(lines[1:], 1) if line.strip() == "---"), None)
    if end is None:
        return {}
    try:
        found = yaml.safe_load("\n".join(lines[1:end]))
    except yaml.YAMLError as error:
        raise ValueError(f"YAML: {error}") from None
    if found is not None and not isinstance(found, dict):
        raise ValueError("the front matter is no mapping")
    return found or {}


def derived_tags(card: Mapping[str, object]) -> list[str]:
    """The tags that the Hub makes of a card, beside those that it has."""
    bases = card.get("base_model") or []
    bases = [bases] if isinstance(bases, str) else list(bases)
    relation = card.get("base_model_relation")
    found = [str(card[key]) for key in ("library_name", "pipeline_tag") if key in card]
    found += [f"license:{card['license']}"] if "license" in card else []
    found += [f"base_model:{base}" for base in bases]
    found += [f"base_model:{relation}:{base}" for base in bases] if relation else []
    return [*map(str, card.get("tags") or []), *found]


def edited(files: Mapping[str, Blob], changes: Iterable[tuple[str, str, Blob | None]]) -> dict[str, Blob]:
    """The files after `add`, `delete` and `delete-folder`. KeyError for a name that is not there."""
    after = dict(files)
    for action, name, blob in changes:
        if action == "add":
            assert blob is not None
            after[name] = blob
        elif action == "delete":
            del after[name]
        else:
            gone = [one for one in after if one.startswith(name.rstrip("/") + "/")]
            if not gone:
                raise KeyError(name)
            for one in gone:
                del after[one]
    return after


def lines_of(body: bytes) -> list[dict[str, object]]:
    return [json.loads(line) for line in body.splitlines() if line.strip()]
