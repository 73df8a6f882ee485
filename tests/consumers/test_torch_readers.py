"""Torch, Python's pickle and A1111's check on the torch files that we write: they load, and hold what was written."""

import pickle
import re
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from adapterhub import files
from adapterhub.files import TORCH_ZIP, File, Package
from adapterhub.tensors import LazyTensor, from_bytes

DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "U16": torch.uint16, "I32": torch.int32,
    "U32": torch.uint32, "I64": torch.int64, "U64": torch.uint64, "F16": torch.float16, "BF16": torch.bfloat16,
    "F32": torch.float32, "F64": torch.float64, "C64": torch.complex64, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2, "F8_E8M0": torch.float8_e8m0fnu, "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
}  # fmt: skip
NAMES = {kind: name for name, kind in DTYPES.items()}
# AUTOMATIC1111/stable-diffusion-webui `modules/safe.py`, up to 1.9: the names in an archive, and the globals in a pickle.
A1111_MEMBERS = re.compile(r"[^/]+/(data/\d+|version|data\.pkl)")
A1111_GLOBALS = {
    "collections": "OrderedDict", "torch._utils": "_rebuild_tensor_v2 _rebuild_parameter", "_codecs": "encode",
    "torch": "FloatStorage HalfStorage IntStorage LongStorage DoubleStorage ByteStorage",
}  # fmt: skip


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def ours(value: Any) -> Any:
    """The same tree over our tensors."""
    if isinstance(value, torch.Tensor):
        return from_bytes(NAMES[value.dtype], tuple(value.shape), bits(value))
    if isinstance(value, dict):
        return type(value)((key, ours(item)) for key, item in value.items())
    return type(value)(map(ours, value)) if isinstance(value, list | tuple) else value


def same(found: Any, expected: Any) -> bool:
    """Whether two trees agree in types, order and bits."""
    if type(found) is not type(expected):
        return False
    if isinstance(found, torch.Tensor):
        return (found.dtype, found.shape, found.stride(), bits(found)) == (
            expected.dtype, expected.shape, expected.stride(), bits(expected),
        )  # fmt: skip
    if isinstance(found, dict):
        return same(list(found.items()), list(expected.items()))
    if isinstance(found, list | tuple):
        return len(found) == len(expected) and all(map(same, found, expected))
    return bool(found == expected)


def random_state(width: int, seed: int) -> OrderedDict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "linear.0.weight": (2 * width, width),
        "linear.0.bias": (2 * width,),
        "linear.1.weight": (width, 2 * width),
    }
    return OrderedDict((name, torch.randn(shape, generator=generator)) for name, shape in shapes.items())


TREES: dict[str, Any] = {
    "embedding of A1111": {
        "string_to_token": {"*": 265}, "string_to_param": {"*": torch.randn(3, 768)}, "name": "ünï ☃ 重み", "step": 2799,
        "sd_checkpoint": None, "sd_checkpoint_name": None,
    },
    "hypernetwork of A1111": {
        8: (random_state(8, 1), random_state(8, 2)), 4: (random_state(4, 3), random_state(4, 4)), "step": 500,
        "name": "h", "layer_structure": [1, 2.5, 1], "activation_func": "relu", "is_layer_norm": False,
        "weight_initialization": "Normal", "sd_checkpoint": "0123456789", "activate_output": True, "use_dropout": True,
        "dropout_structure": [0, 0.3, 0], "last_layer_dropout": False, "optional_info": None,
    },
    "embedding of diffusers": {"<☃>": torch.randn(768).half()},
    "plain values": [
        True, False, None, 0, -1, 255, 256, 65536, 2**31, -(2**31), 2**200, -(2**255), 0.1, "", "\n\0", b"\0\xff", b"", (),
        (1,), [], {}, OrderedDict(), [(1, [2.0])], {None: 1, 1.5: 2, b"x": 3, -7: 4},
    ],
    "shapes": [torch.tensor(2.5), torch.zeros(0), torch.zeros(2, 0, 3), torch.arange(24).reshape(2, 1, 3, 4)],
    "large": {"x": torch.arange(3 << 20, dtype=torch.float32).reshape(3, -1)},
    "a bare tensor": torch.randn(2, 768),
}  # fmt: skip
A1111_READS = ("embedding of A1111", "hypernetwork of A1111", "embedding of diffusers")
READERS = {
    "weights only": {"weights_only": True}, "mapped": {"weights_only": True, "mmap": True},
    "Python's pickle": {"weights_only": False, "pickle_module": pickle},
}  # fmt: skip


def write(tree: Any, path: Path) -> Path:
    files.write(Package.new({"x": File({}, tree=ours(tree), container=TORCH_ZIP)}), path)
    return path


@pytest.mark.parametrize("how", READERS)
@pytest.mark.parametrize("name", TREES)
def test_torch_loads_what_was_written(tmp_path: Path, name: str, how: str) -> None:
    assert same(torch.load(write(TREES[name], tmp_path / "x.pt"), **READERS[how]), TREES[name])


@pytest.mark.parametrize("how", READERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_torch_loads_every_dtype_and_shares_no_storage(tmp_path: Path, dtype: str, how: str) -> None:
    values = torch.randint(0, 2, (2, 24), dtype=torch.uint8).view(DTYPES[dtype])
    path = write({"a": values, "b": values[0, 0]}, tmp_path / "x.pt")
    found = torch.load(path, **READERS[how])
    assert same(found, {"a": values, "b": values[0, 0]})
    assert found["a"].untyped_storage().nbytes() == 48
    assert not found["a"].requires_grad


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_pickle_says_of_a_tensor_what_torch_says(tmp_path: Path, dtype: str) -> None:
    tree = {"a": torch.zeros(2, 3, 4, dtype=torch.uint8).to(DTYPES[dtype])}
    torch.save(tree, tmp_path / "theirs.pt")
    said = [told(path) for path in (write(tree, tmp_path / "ours.pt"), tmp_path / "theirs.pt")]
    assert said[0] == said[1]


class Told(pickle.Unpickler):
    """Turns every global and call into a description of it."""

    def find_class(self, module: str, name: str) -> Any:
        return type(name, (), {"__new__": lambda kind, *arguments: (module, name, arguments), "__repr__": str})

    def persistent_load(self, identifier: Any) -> Any:
        kind, storage, *rest = identifier
        return kind, storage.__name__, rest


def told(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        with archive.open(name) as stream:
            return re.sub(r"<class '\w+\.(\w+)'>", r"\1", repr(Told(stream).load()))


def test_a_tensor_that_stands_in_two_places_is_stored_once(tmp_path: Path) -> None:
    tensor: LazyTensor = ours(torch.arange(5.0))
    path = tmp_path / "x.pt"
    files.write(Package.new({"x": File({}, tree={"a": tensor, "b": [tensor]}, container=TORCH_ZIP)}), path)
    found = torch.load(path, weights_only=True)
    assert same(found, {"a": torch.arange(5.0), "b": [torch.arange(5.0)]})
    assert found["a"].data_ptr() == found["b"][0].data_ptr()


class A1111(pickle.Unpickler):
    """Its check before it loads a file: storages are empty, and only listed globals are found."""

    def find_class(self, module: str, name: str) -> Any:
        assert name in A1111_GLOBALS.get(module, "").split(), f"{module}.{name} is forbidden"
        return super().find_class(module, name)

    def persistent_load(self, identifier: Any) -> Any:
        assert identifier[0] == "storage"
        return torch.storage.TypedStorage(dtype=torch.float32, _internal=True)


@pytest.mark.parametrize("name", A1111_READS)
def test_a1111_lets_the_names_and_the_globals_through(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(write(TREES[name], tmp_path / "x.pt")) as archive:
        assert [member for member in archive.namelist() if not A1111_MEMBERS.fullmatch(member)] == []
        assert archive.testzip() is None
        with archive.open("archive/data.pkl") as stream:
            assert list(A1111(stream).load()) == list(TREES[name])


def test_a1111_does_not_let_through_what_torch_itself_writes_now(tmp_path: Path) -> None:
    torch.save(TREES["embedding of A1111"], tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt") as archive:
        assert not all(map(A1111_MEMBERS.fullmatch, archive.namelist()))
