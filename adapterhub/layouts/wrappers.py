"""What torch puts into the names of a module that it wraps, which means nothing: of a LoRA as of a whole model.

Source: `torch.compile` (`_orig_mod`), `FullyShardedDataParallel` (`_fsdp_wrapped_module`), both at any level;
`DistributedDataParallel` and `DataParallel` (`module`), in front of everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

COMPILED, DISTRIBUTED = "compiled", "distributed"
"""The codes under which they are reported."""
TITLES: Mapping[str, str] = {
    COMPILED: "the mark of a compiled or sharded module",
    DISTRIBUTED: "the mark of a distributed module",
}
_INSIDE = ("_orig_mod.", "_fsdp_wrapped_module.")
_IN_FRONT = "module."


def unwrapped(name: str) -> tuple[str, str]:
    """A name without wrappers, and the code of the last that was taken off; "" where there is none."""
    bare, code = name, ""
    for mark in _INSIDE:
        if mark in bare:
            bare, code = bare.replace(mark, ""), COMPILED
    if bare.startswith(_IN_FRONT) and bare != _IN_FRONT:
        bare, code = bare.removeprefix(_IN_FRONT), DISTRIBUTED
    return bare, code


@lru_cache(maxsize=16)
def any_wrapped(names: tuple[str, ...]) -> bool:
    """Whether there may be a wrapper in some name, without looking at them one by one; files of one trainer have them in common."""
    text = "\n".join(("", *names))
    return any(mark in text for mark in (*_INSIDE, f"\n{_IN_FRONT}"))
