"""Tensors, storages and arrays in a pickle that are not what they say."""

from pathlib import Path

import pytest

from adapterhub import files
from adapterhub.errors import MalformedFile
from tests.hostile.pickled import ORDERED, REBUILD, number, storage, tensor, text, whole, zipped

TENSORS = {
    "one element too many": (tensor((5,)), "tensor-bounds"),
    "offset past the end": (tensor((4,), (1,), 1), "tensor-bounds"),
    "negative offset": (tensor((1,), (1,), -1), "tensor-bounds"),
    "offset that is a truth": (REBUILD + b"(" + storage() + b"\x89K\x01\x85K\x01\x85\x89" + ORDERED + b"tR", "tensor-view"),
    "empty, beyond the end": (tensor((0,), (1,), 5), "tensor-bounds"),
    "stride that leaves": (tensor((2, 2), (3, 1)), "tensor-bounds"),
    "negative stride": (tensor((4,), (-1,), 3), "tensor-view"),
    "negative axis": (tensor((-4,)), "tensor-view"),
    "two negative axes": (tensor((-2, -2), (1, 1)), "tensor-view"),
    "more axes than strides": (tensor((2, 2), (1,)), "tensor-view"),
    "shape that overflows": (tensor((1 << 62, 1 << 62), (0, 0)), "tensor-view"),
    "overflow behind a zero": (tensor((1 << 62, 1 << 62, 0), (0, 0, 0)), "tensor-view"),
    "stride above 2**63": (tensor((2,), (1 << 64,)), "tensor-view"),
    "2**40 elements over 16 bytes": (tensor((1 << 40,), (0,)), "tensor-expansion"),
    "expanded beyond the bound": (tensor((65_537,), (0,)), "tensor-expansion"),
    "seventeen axes": (tensor((1,) * 17, (1,) * 17), "tensor-rank"),
    "shape that is a list": (REBUILD + b"(" + storage() + b"K\x00]K\x01\x85\x89" + ORDERED + b"tR", "tensor-view"),
    "hooks": (tensor(hooks=ORDERED + text("a") + b"Ns"), "pickle-call"),
    "hooks that are none": (tensor(hooks=b"N"), "pickle-call"),
    "marked as conjugated": (tensor(more=b"}" + text("conj") + b"\x88s"), "pickle-call"),
    "over no storage": (tensor(over=text("x")), "pickle-call"),
    "over a tensor": (tensor(over=tensor()), "pickle-call"),
    "storage larger than its member": (tensor(over=storage(count=5)), "storage-size"),
    "storage smaller than its member": (tensor((1,), over=storage(count=1)), "storage-size"),
    "storage of 2**60 elements": (tensor(over=storage(count=1 << 60)), "pickle-persistent"),
    "storage of -1 elements": (tensor(over=storage(count=-1)), "pickle-persistent"),
    "storage that is not there": (tensor(over=storage("7")), "storage-missing"),
    "storage named like a way out": (tensor(over=storage("../data.pkl")), "storage-missing"),
    "storage in other digits": (tensor(over=storage("\u0660")), "storage-missing"),
    "storage on meta": (tensor(over=storage(place="meta")), "pickle-persistent"),
    "storage of a legacy file": (tensor(over=storage(more=b"N")), "pickle-persistent"),
    "storage of what is no class": (b"(" + text("storage") + b"NX\1\0\0\x000X\3\0\0\0cpuK\4tQ", "pickle-persistent"),
    "quantised storage": (tensor(over=storage(kind="QInt8Storage")), "pickle-global"),
    "storage told in two ways": (b"(" + storage() + storage(kind="IntStorage") + b"t", "pickle-persistent"),
    "Parameter of a text": (b"ctorch._utils\n_rebuild_parameter\n(" + text("x") + b"\x88" + ORDERED + b"tR", "pickle-call"),
    "a dtype that nothing here has": (b"ctorch\ncomplex32\n", "pickle-global"),
    "device that is a number": (b"ctorch\ndevice\nK\x01\x85R", "pickle-call"),
    "size of texts": (b"ctorch\nSize\n" + text("a") + b"\x85\x85R", "pickle-call"),
    "set of lists": (b"c__builtin__\nset\n]]a\x85R", "pickle-keys"),
    "set of a text": (b"c__builtin__\nset\n" + text("ab") + b"\x85R", "pickle-call"),
    "ordered by other than pairs": (b"ccollections\nOrderedDict\n]K\x01a\x85R", "pickle-call"),
    "encoding to something else": (b"c_codecs\nencode\n" + text("a") + text("rot13") + b"\x86R", "pickle-call"),
    "array of objects": (b"cnumpy\ndtype\n" + text("O8") + b"\x85R", "numpy-dtype"),
    "array of records": (b"cnumpy\ndtype\n" + text("V8") + b"\x85R", "numpy-dtype"),
    "dtype with fields": (
        b"cnumpy\ndtype\n" + text("f4") + b"\x85R(K\x03" + text("<") + b"}NNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
        "numpy-dtype",
    ),
    "scalar of too few bytes": (
        b"cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\n" + text("f8") + b"\x85RC\x04abcd\x86R", "numpy-scalar",
    ),
    "array made large": (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + number(1 << 40) + b"\x85C\x01b\x87R", "pickle-call",
    ),
    "array of too many elements": (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01" + number(1 << 40)
        + b"\x85cnumpy\ndtype\n" + text("f4") + b"\x85R\x89C\x04abcdtb", "tensor-bounds",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", TENSORS)
def test_a_tensor_that_is_not_what_it_says_is_refused_by_the_name_of_the_rule(tmp_path: Path, what: str) -> None:
    body, rule = TENSORS[what]
    path = tmp_path / "x.pt"
    path.write_bytes(zipped(whole(body)))
    with pytest.raises(MalformedFile) as caught:
        files.read(path)
    assert caught.value.rule == rule
    assert caught.value.exit_status == 3
