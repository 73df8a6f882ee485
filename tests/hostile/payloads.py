"""Pickles that make a folder where they are unpickled, in every way in which a pickle can call something."""

from __future__ import annotations

import struct
from collections.abc import Callable

from tests.hostile.archives import DATA, STORAGE, VERSION, Part, archive
from tests.hostile.pickled import ORDERED, legacy, tensor, text, zipped

MKDIR = b"cos\nmkdir\n"


def _pickle(body: bytes) -> bytes:
    return b"\x80\x04}" + text("x") + body + b"s."


def _call(path: str) -> bytes:
    return MKDIR + text(path) + b"\x85R"


def _drained(path: str) -> bytes:
    """The arguments of `tuple(map(os.mkdir, [path]))`: no opcode but NEWOBJ is needed to call anything."""
    return b"cbuiltins\ntuple\ncbuiltins\nmap\n" + MKDIR + b"]" + text(path) + b"a\x86\x81\x85"


def _nested(path: str) -> bytes:
    inner = _pickle(_call(path))
    return b"c_pickle\nloads\nB" + struct.pack("<I", len(inner)) + inner + b"\x85R"


def _by_memo(path: str) -> bytes:
    return b"(" + text("mkdir") + b"q\x05" + text("os") + b"q\x06h\x06h\x05\x93" + text(path) + b"\x85Rt"


def _by_state(path: str) -> bytes:
    return b"cargparse\nNamespace\n)\x81}" + text("__setstate__") + MKDIR + b"sb" + text(path) + b"b"


def _array(path: str) -> bytes:
    """A NumPy array of objects, one of them the call."""
    empty = b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
    kind = b"cnumpy\ndtype\n" + text("O8") + b"\x89\x88\x87R"
    return empty + b"(K\x01K\x01\x85" + kind + b"\x89]" + _call(path) + b"atb"


MKDIR_NAMED, MAP_NAMED = "'os.mkdir'", "'builtins.map'"
BODIES: dict[str, tuple[Callable[[str], bytes], str]] = {
    "REDUCE": (_call, MKDIR_NAMED),
    "INST": (lambda path: b"(" + text(path) + b"ios\nmkdir\n", "INST of b'os.mkdir'"),
    "OBJ": (lambda path: b"(" + MKDIR + text(path) + b"o", MKDIR_NAMED),
    "NEWOBJ": (lambda path: _drained(path) + b"\x81", MAP_NAMED),
    "NEWOBJ_EX": (lambda path: _drained(path) + b"}\x92", MAP_NAMED),
    "STACK_GLOBAL from the memo": (_by_memo, MKDIR_NAMED),
    "BUILD with __setstate__": (_by_state, MKDIR_NAMED),
    "a nested pickle": (_nested, "'_pickle.loads'"),
    "hooks of a tensor": (lambda path: tensor(over=b"N", hooks=ORDERED + text("a") + _call(path) + b"s"), MKDIR_NAMED),
    "an array of objects": (_array, "numpy.dtype of 'O8'"),
    "a persistent id": (lambda path: _call(path) + b"Q", MKDIR_NAMED),
    "a key": (lambda path: b"}" + _call(path) + b"Ns", MKDIR_NAMED),
    "popped again": (lambda path: _call(path) + b"0N", MKDIR_NAMED),
}  # fmt: skip
"""What makes the folder `path`, and what a refusal names."""
PICKLES: dict[str, tuple[Callable[[str], bytes], str]] = {
    **{what: (lambda path, body=body: _pickle(body(path)), named) for what, (body, named) in BODIES.items()},
    "before a broken end": (lambda path: b"\x80\x04" + _call(path), MKDIR_NAMED),
}


CONTAINERS: dict[str, Callable[[bytes], bytes]] = {
    "zip": lambda pickled: zipped(pickled, {}),
    "legacy": lambda pickled: legacy(pickled, b"]", b""),
}
HIDDEN: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "bare": (lambda pickled: pickled, "a pickle that torch.save did not write"),
    "a second data.pkl": (lambda pickled: archive([DATA, STORAGE, VERSION, Part("y/data.pkl", pickled)]), "data.pkl"),
    "a first data.pkl": (lambda pickled: archive([Part("y/data.pkl", pickled), DATA, STORAGE, VERSION]), "data.pkl"),
    "data.pkl twice": (lambda pickled: archive([DATA, STORAGE, VERSION, Part("x/data.pkl", pickled)]), "stands twice"),
    "another member": (lambda pickled: archive([DATA, STORAGE, VERSION, Part("x/code.pkl", pickled)]), "'code.pkl'"),
    "a program": (lambda pickled: archive([DATA, VERSION, Part("x/constants.pkl", pickled)]), "TorchScript"),
    "a storage": (lambda pickled: archive([DATA, Part("x/data/0", pickled), VERSION]), "the storage '0' has"),
    "before an archive": (lambda pickled: pickled + zipped(DATA.content), "a pickle that torch.save did not write"),
    "after an archive": (lambda pickled: zipped(DATA.content) + pickled, "ends where the file ends"),
    "between members": (
        lambda pickled: archive([DATA, Part("x/data/0", STORAGE.content, after=pickled), VERSION]), "what follows",
    ),
    "behind a legacy file": (lambda pickled: legacy(b"\x80\x02}.", b"]", b"") + pickled, "follow the last storage"),
    "the magic number": (lambda pickled: pickled + legacy(b"\x80\x02}.", b"]", b""), "a pickle that torch.save did not write"),
}  # fmt: skip
"""Places for a pickle beside the one that a reader looks at, and what a refusal names."""
