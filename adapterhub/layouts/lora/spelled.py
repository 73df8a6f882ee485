"""A tensor file with its keys split into a head (some spelling of a module) and a role, once, for every layout to look at."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from operator import attrgetter

from adapterhub.adapter import Key, Role
from adapterhub.algorithms import Extent, extent, length_along
from adapterhub.layouts.lora.suffixes import ROLES
from adapterhub.layouts.wrappers import unwrapped
from adapterhub.tensors import LazyTensor, Shape

EMBEDDING = "embedding"
"""The component of embeddings that travel inside a LoRA file; their module is "TOKEN.FIELD"."""

BUNDLE = "bundle_emb."
"""A1111's and OneTrainer's prefix for them."""

_IA3 = frozenset({Role.IA3_WEIGHT, Role.IA3_L})
_AFTER_FIRST_DOT = {suffix[1:]: role for suffix, role in ROLES.items()}

# What else stands in a key without meaning anything, and the name under which its removal is reported.
_ODD = (
    ("adapter-name", re.compile(r"(\.(?:lora_[AB]|oft_R))\.(?!(?:weight|bias|scaled_oft)$)[^.]+(?=\.(?:weight|bias)$)"), r"\1"),
    ("adapter-name", re.compile(r"(\.lora_magnitude_vector)\.(?!weight$)[^.]+(?:\.weight)?$"), r"\1"),
    ("adapter-name", re.compile(r"(\.(?:lora_[ABE]|hada_\w+|lokr_\w+|ia3_l|boft_[Rs]))\.(?!(?:weight|bias)$)[^.]+$"), r"\1"),
    ("undotted-suffix", re.compile(r"^(lora_[^.]*)_(lora_(?:down|up)\.weight|alpha)$"), r"\1.\2"),
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Spelled:
    """`heads[head][role]` is the name of a tensor; `unsplit` have no known suffix.

    `doubles` are names whose head and role another name of the file has already; `unwrapped` maps the names that were
    cleaned to why; `bundled` are embeddings that travel along (`bundle_emb.TOKEN.FIELD`).

    `outline` is the same of tensors that have no bytes. Files of one trainer have it in common: what follows from names,
    dtypes and shapes alone is found out once, from it, and cannot depend on anything else. Not to be changed.
    """

    tensors: Mapping[str, LazyTensor]
    heads: Mapping[str, Mapping[Role, str]]
    suffix_of: Mapping[str, str]
    unsplit: tuple[str, ...] = ()
    doubles: tuple[str, ...] = ()
    unwrapped: Mapping[str, str] = field(default_factory=dict)
    bundled: Mapping[str, Key] = field(default_factory=dict)
    outline: Spelled | None = None

    @cached_property
    def suffixes(self) -> frozenset[str]:
        """Every suffix that occurs, without the dot in front."""
        return self.outline.suffixes if self.outline else frozenset(self.suffix_of.values())

    @cached_property
    def extents(self) -> Mapping[str, Extent]:
        """The extent of each head's weight, as its tensors' shapes tell it."""
        return self.outline.extents if self.outline else {head: extent(self.roles(head)) for head in self.heads}

    @cached_property
    def lengths(self) -> Mapping[str, int]:
        """Of the heads whose tensors tell the length of one side of the weight, but not of which: that."""
        if self.outline:
            return self.outline.lengths
        found = {
            head: length_along(self.roles(head)) for head, roles in self.heads.items() if not _IA3.isdisjoint(roles)
        }
        return {head: length for head, length in found.items() if length is not None}

    def roles(self, head: str) -> dict[Role, LazyTensor]:
        """The tensors of a head."""
        return {role: self.tensors[name] for role, name in self.heads[head].items()}

    def unwrap(self) -> Spelled:
        """The same file with wrappers (`_orig_mod.`, adapter names …) taken off its keys."""
        cleaned = {name: _clean(name) for name in self.tensors}
        why = {name: why for name, (_, why) in cleaned.items() if why}
        return _split(self.tensors, {name: clean for name, (clean, _) in cleaned.items()}, why)


def split(tensors: Mapping[str, LazyTensor]) -> Spelled:
    """Splits every name of `tensors` at the longest known suffix."""
    found = tensors.values()
    outline = _outline(tuple(tensors), tuple(map(_DTYPE, found)), tuple(map(_SHAPE, found)))
    return replace(outline, tensors=tensors, outline=outline)


_DTYPE: Callable[[LazyTensor], str] = attrgetter("dtype")
_SHAPE: Callable[[LazyTensor], Shape] = attrgetter("shape")


@lru_cache(maxsize=16)
def _outline(names: tuple[str, ...], dtypes: tuple[str, ...], shapes: tuple[Shape, ...]) -> Spelled:
    """Of tensors without bytes."""
    forms = zip(names, dtypes, shapes, strict=True)
    return _split({name: LazyTensor(dtype, shape, tuple) for name, dtype, shape in forms})


def _split(
    tensors: Mapping[str, LazyTensor],
    clean: Mapping[str, str] | None = None,
    unwrapped: Mapping[str, str] | None = None,
) -> Spelled:
    """Splits the names of `tensors`, or what `clean` makes of them."""
    heads: dict[str, dict[Role, str]] = {}
    suffix_of: dict[str, str] = {}
    unsplit: list[str] = []
    doubles: list[str] = []
    bundled: dict[str, Key] = {}
    for name in tensors:
        spelled = name if clean is None else clean[name]
        head, _, suffix = spelled.partition(".")
        role = _AFTER_FIRST_DOT.get(suffix)
        if role is None:
            head, suffix, role = _split_at_suffix(spelled)
            if role is None and name.startswith(BUNDLE):
                bundled[name] = Key(EMBEDDING, name.removeprefix(BUNDLE), Role.VECTORS)
                continue
            if role is None:
                unsplit.append(name)
                continue
        suffix_of[name] = suffix
        known = heads.get(head)
        if known is None:
            heads[head] = {role: name}
        elif role in known:
            doubles.append(name)
        else:
            known[role] = name
    return Spelled(tensors, heads, suffix_of, tuple(unsplit), tuple(doubles), unwrapped or {}, bundled)


def _split_at_suffix(name: str) -> tuple[str, str, Role | None]:
    """The head, the longest known suffix and its role; no suffix has more than three dots."""
    last = name.rfind(".")
    second = name.rfind(".", 0, last) if last > 0 else -1
    third = name.rfind(".", 0, second) if second > 0 else -1
    for dot in (third, second, last):
        if dot >= 0 and (role := _AFTER_FIRST_DOT.get(name[dot + 1 :])) is not None:
            return name[:dot], name[dot + 1 :], role
    return name, "", None


def _clean(name: str) -> tuple[str, str]:
    name, why = unwrapped(name)
    for reason, pattern, replacement in _ODD:
        cleaned = pattern.sub(replacement, name)
        if cleaned != name:
            name, why = cleaned, reason
    return name, why
