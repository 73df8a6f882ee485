"""A call of something harmful, however it is reached, is refused by name; nothing in a file ever runs."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from adapterhub import files
from adapterhub.errors import MalformedFile
from tests.hostile.pickled import ORDERED, number, tensor, text, whole, zipped


def refused(path: Path, content: bytes, *, limits: files.Limits = files.LIMITS) -> MalformedFile:
    path.write_bytes(content)
    with pytest.raises(MalformedFile) as caught:
        files.read(path, limits=limits)
    assert caught.value.message.isascii() or str(path) in caught.value.message
    return caught.value


def test_the_pickle_that_is_changed_below_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(zipped(whole(tensor())))
    with files.read(path) as package:
        assert {name: t.read() for name, t in package.only.tensors.items()} == {"x": bytes(16)}


MARKER = "/tmp/adapterhub-was-here"
TOUCH = text(f"touch {MARKER}")
CODE = text(f"open({MARKER!r}, 'w')")

# How a call of something harmful can be reached; the rule of each refusal.
CALLS = {
    "GLOBAL": (whole(b"cos\nsystem\n" + TOUCH + b"\x85R"), "pickle-global"),
    "GLOBAL of Python 2": (whole(b"c__builtin__\neval\n" + CODE + b"\x85R"), "pickle-global"),
    "GLOBAL with a dotted name": (whole(b"ctorch\nserialization.os.system\n" + TOUCH + b"\x85R"), "pickle-global"),
    "GLOBAL of an empty name": (whole(b"c\n\n)R"), "pickle-global"),
    "a name beside one that is allowed": (whole(b"ctorch._utils\n_rebuild_tensor_v2.__globals__\n)R"), "pickle-global"),
    "case": (whole(b"cCollections\nOrderedDict\n)R"), "pickle-global"),
    "STACK_GLOBAL": (whole(text("os") + text("system") + b"\x93" + TOUCH + b"\x85R", 4), "pickle-global"),
    "STACK_GLOBAL from the memo": (
        whole(text("system") + b"\x94" + text("os") + b"\x94h\x01h\x00\x93" + TOUCH + b"\x85R", 4), "pickle-global",
    ),
    "STACK_GLOBAL of what is no text": (whole(b"K\x01K\x02\x93", 4), "pickle-global"),
    "STACK_GLOBAL of a computed name": (
        whole(text("os") + b"c_codecs\nencode\n" + text("system") + text("latin1") + b"\x86R\x93)R", 4), "pickle-global",
    ),
    "INST": (whole(b"(" + TOUCH + b"ios\nsystem\n"), "pickle-opcode"),
    "OBJ": (whole(b"(cos\nsystem\n" + TOUCH + b"o"), "pickle-global"),
    "OBJ of an allowed class": (whole(b"(ccollections\nOrderedDict\no"), "pickle-opcode"),
    "NEWOBJ": (whole(b"csubprocess\nPopen\n" + TOUCH + b"\x85\x81"), "pickle-global"),
    "NEWOBJ of a function": (whole(b"ctorch._utils\n_rebuild_tensor_v2\n)\x81"), "pickle-call"),
    "NEWOBJ with arguments": (whole(b"cargparse\nNamespace\nK\x01\x85\x81"), "pickle-call"),
    "NEWOBJ_EX": (whole(b"ccollections\nOrderedDict\n)}\x92", 4), "pickle-opcode"),
    "EXT1": (whole(b"\x82\x01"), "pickle-opcode"),
    "EXT2": (whole(b"\x83\x01\x01"), "pickle-opcode"),
    "EXT4": (whole(b"\x84\x01\x01\x01\x01"), "pickle-opcode"),
    "copyreg": (whole(b"ccopy_reg\n_reconstructor\n(cos\nsystem\nc__builtin__\nobject\nNtR"), "pickle-global"),
    "getattr": (whole(b"c__builtin__\ngetattr\n" + ORDERED + text("__class__") + b"\x86R"), "pickle-global"),
    "operator": (whole(b"coperator\nattrgetter\n" + text("x") + b"\x85R"), "pickle-global"),
    "partial": (whole(b"cfunctools\npartial\ncos\nsystem\n\x85R"), "pickle-global"),
    "torch.load": (whole(b"ctorch\nload\n" + text("/etc/passwd") + b"\x85R"), "pickle-global"),
    "torch.hub": (whole(b"ctorch.hub\nload\n)R"), "pickle-global"),
    "nested pickle": (whole(b"ctorch.storage\n_load_from_bytes\nC\x02N.\x85R"), "pickle-global"),
    "nested pickle by the standard library": (whole(b"c_pickle\nloads\nC\x02N.\x85R"), "pickle-global"),
    "NumPy's pickles": (whole(b"cnumpy\nload\n" + text("x.npy") + b"\x85R"), "pickle-global"),
    "sparse": (whole(b"ctorch._utils\n_rebuild_sparse_tensor\n)R"), "pickle-global"),
    "quantised": (whole(b"ctorch._utils\n_rebuild_qtensor\n)R"), "pickle-global"),
    "meta": (whole(b"ctorch._utils\n_rebuild_meta_tensor_no_storage\n)R"), "pickle-global"),
    "wrapper": (whole(b"ctorch._utils\n_rebuild_wrapper_subclass\n)R"), "pickle-global"),
    "nested": (whole(b"ctorch._utils\n_rebuild_nested_tensor\n)R"), "pickle-global"),
    "subclass": (whole(b"ctorch._tensor\n_rebuild_from_type_v2\n)R"), "pickle-global"),
    "constructor with a size": (whole(b"ctorch\nzeros\n" + number(1 << 40) + b"\x85R"), "pickle-global"),
    "storage with a size": (whole(b"ctorch\nFloatStorage\n" + number(1 << 40) + b"\x85R"), "pickle-call"),
    "bytes with a size": (whole(b"c__builtin__\nbytearray\n" + number(1 << 40) + b"\x85R"), "pickle-call"),
    "as a value of a dictionary": (whole(b"}" + text("a") + b"cos\nsystem\n" + TOUCH + b"\x85Rs"), "pickle-global"),
    "as a key": (whole(b"}cos\nsystem\n" + TOUCH + b"\x85RNs"), "pickle-global"),
    "as an item of a list": (whole(b"](cos\nsystem\n" + TOUCH + b"\x85Re"), "pickle-global"),
    "popped again": (whole(b"cos\nsystem\n" + TOUCH + b"\x85R0N"), "pickle-global"),
    "before the end of a broken stream": (b"\x80\x02cos\nsystem\n" + TOUCH + b"\x85R", "pickle-global"),
    "of a value": (whole(b"K\x01)R"), "pickle-call"),
    "of a dtype": (whole(b"ctorch\nfloat32\n)R"), "pickle-call"),
    "of a type that is only named": (whole(b"c__builtin__\ndict\n)R"), "pickle-call"),
    "of a class that is only recorded": (whole(b"comegaconf.dictconfig\nDictConfig\n)R"), "pickle-call"),
    "with arguments that are no tuple": (whole(b"ccollections\nOrderedDict\n]R"), "pickle-call"),
    "with too many arguments": (whole(b"ccollections\nOrderedDict\nNNN\x87R"), "pickle-call"),
    "defaultdict of a function": (whole(b"ccollections\ndefaultdict\nK\x01\x85R"), "pickle-call"),
    "BUILD with __setstate__": (whole(ORDERED + b"}" + text("__setstate__") + b"cos\nsystem\nsb"), "pickle-global"),
    "BUILD on a dictionary": (whole(b"}}b"), "pickle-build"),
    "BUILD on a tensor": (whole(tensor() + b"}b"), "pickle-build"),
    "BUILD on a global": (whole(b"ccollections\nOrderedDict\n}" + text("a") + b"Nsb"), "pickle-build"),
    "BUILD of attributes": (whole(ORDERED + b"}" + text("__class__") + b"Nsb"), "pickle-build"),
    "BUILD of a ParameterDict": (whole(b"ctorch.nn.modules.container\nParameterDict\n)\x81}b"), "pickle-build"),
    "BUILD of arguments": (whole(b"cargparse\nNamespace\n)\x81K\x01b"), "pickle-build"),
    "PERSID": (whole(b"Pos.system\n"), "pickle-opcode"),
    "BINPERSID of a text": (whole(text("os.system") + b"Q"), "pickle-persistent"),
    "BINPERSID of something else": (whole(b"(" + text("module") + b"NNNNtQ"), "pickle-persistent"),
    "DUP": (whole(b"N2"), "pickle-opcode"),
    "POP_MARK": (whole(b"(N1"), "pickle-opcode"),
    "NEXT_BUFFER": (whole(b"\x97", 5), "pickle-opcode"),
}  # fmt: skip


@pytest.mark.parametrize("what", CALLS)
def test_a_pickle_that_means_harm_is_refused_by_the_name_of_the_rule(tmp_path: Path, what: str) -> None:
    pickled, rule = CALLS[what]
    found = refused(tmp_path / "x.pt", zipped(pickled))
    assert found.rule == rule
    assert found.exit_status == 3
    assert not Path(MARKER).exists()


def test_a_refused_global_is_named_with_its_place(tmp_path: Path) -> None:
    found = refused(tmp_path / "x.pt", zipped(whole(b"cos\nsystem\n" + TOUCH + b"\x85R")))
    assert "'os.system'" in found.message
    assert "(byte 9 of the pickle)" in found.message
    found = refused(tmp_path / "x.pt", zipped(whole(b"(" + TOUCH + b"ios\nsystem\n")))
    assert "INST of b'os.system'" in found.message
    found = refused(tmp_path / "x.pt", zipped(whole(b"c\x1b[2J\nsystem\n)R")))
    assert r"\x1b[2J.system" in found.message


class Payload:
    """What makes a file, if it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("command", ["inspect", "validate", "convert", "diff"])
def test_no_command_runs_the_payload_of_a_file(
    tmp_path: Path, cli: Callable[..., Any], old: bool, command: str, style: Path
) -> None:
    path, marker = tmp_path / "x.pt", tmp_path / "marker"
    torch.save({"x": torch.zeros(2), "y": Payload(marker)}, path, _use_new_zipfile_serialization=not old)
    more = {"convert": ["--to", "diffusers", "-o", tmp_path / "y.safetensors"], "diff": [style]}.get(command, [])
    outcome = cli(command, path, *more)
    assert outcome.status == 3
    assert ".mkdir'" in outcome.err
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists()  # the payload would have worked
