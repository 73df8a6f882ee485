"""Files that torch.save wrote are read without torch, bit for bit, whatever the container, protocol, dtype and view."""

import collections
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from adapterhub import files
from adapterhub.errors import MalformedFile

DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "U16": torch.uint16, "I32": torch.int32,
    "U32": torch.uint32, "I64": torch.int64, "U64": torch.uint64, "F16": torch.float16, "BF16": torch.bfloat16,
    "F32": torch.float32, "F64": torch.float64, "C64": torch.complex64, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2, "F8_E4M3FNUZ": torch.float8_e4m3fnuz, "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu, "F4": torch.float4_e2m1fn_x2,
}  # fmt: skip
OLD = pytest.mark.parametrize("old", [False, True], ids=["zip", "legacy"])
PROTOCOL = pytest.mark.parametrize("protocol", [2, 3, 4, 5])


def save(value: object, path: Path, *, old: bool = False, protocol: int = 2) -> Path:
    torch.save(value, path, pickle_protocol=protocol, _use_new_zipfile_serialization=not old)
    return path


def sample(dtype: torch.dtype) -> torch.Tensor:
    pattern = torch.arange(1, 97, dtype=torch.uint8)
    return pattern % 2 > 0 if dtype is torch.bool else pattern.view(dtype).reshape(2, -1)


def stored(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


@OLD
@PROTOCOL
def test_tensors_of_every_dtype_are_read_bit_for_bit(tmp_path: Path, old: bool, protocol: int) -> None:
    expected = {name: sample(dtype) for name, dtype in DTYPES.items()}
    with files.read(save(expected, tmp_path / "x.pt", old=old, protocol=protocol)) as package:
        assert package.container == ("torch-legacy" if old else "torch-zip")
        assert list(package.only.tensors) == list(expected)
        for name, tensor in package.only.tensors.items():
            packed = 2 if name == "F4" else 1
            shape = list(expected[name].shape)
            assert (tensor.dtype, list(tensor.shape)) == (name, [*shape[:-1], shape[-1] * packed])
            assert tensor.read() == stored(expected[name])
        assert package.problems == ()


@OLD
@PROTOCOL
def test_views_hold_what_torch_says_they_hold(tmp_path: Path, old: bool, protocol: int) -> None:
    base = torch.arange(60, dtype=torch.float32)
    block = base.reshape(3, 4, 5)
    views = {
        "whole": block, "row": block[1], "column": block[:, :, 2], "transposed": base.reshape(6, 10).T,
        "permuted": block.permute(2, 0, 1), "stepped": base[3::7], "zero": base[7].reshape(()), "empty": base[4:4],
        "empty at the end": base[60:], "expanded": base[:3].reshape(3, 1).expand(3, 4), "no rows": torch.zeros(0, 7),
        "overlapping": base.as_strided((5, 4), (2, 1), 1), "ones": block[1:2, :, :1],
        "channels last": torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last),
    }  # fmt: skip
    path = save(views, tmp_path / "x.pt", old=old, protocol=protocol)
    with files.read(path) as package:
        loaded = torch.load(path, weights_only=True) if protocol == 2 else views
        assert list(package.only.tensors) == list(views)
        for name, tensor in package.only.tensors.items():
            assert list(tensor.shape) == list(loaded[name].shape)
            assert tensor.read() == stored(loaded[name]) == stored(views[name]), name
            assert tensor.read() == tensor.read()


@OLD
def test_one_storage_behind_several_tensors_is_stored_and_found_once(tmp_path: Path, old: bool) -> None:
    base = torch.arange(1000, dtype=torch.int64)
    path = save({"a": base, "b": base[500:], "c": base}, tmp_path / "x.pt", old=old)
    assert path.stat().st_size < 12_000
    with files.read(path) as package:
        assert package.only.tensors["b"].read() == stored(base[500:])
        assert package.only.tensors["c"].read() == package.only.tensors["a"].read() == stored(base)


@OLD
def test_a_bare_storage_is_a_row_of_its_elements(tmp_path: Path, old: bool) -> None:
    base = torch.arange(5, dtype=torch.int16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch would rather have only untyped ones
        path = save({"typed": base.storage(), "untyped": torch.ones(2).untyped_storage()}, tmp_path / "x.pt", old=old)
    with files.read(path) as package:
        found = {name: (t.dtype, t.shape, t.read()) for name, t in package.only.tensors.items()}
    assert found == {"typed": ("I16", (5,), stored(base)), "untyped": ("U8", (8,), stored(torch.ones(2)))}


@OLD
@PROTOCOL
def test_parameters_and_their_dictionaries_are_tensors_and_dictionaries(
    tmp_path: Path, old: bool, protocol: int
) -> None:
    star = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    held = torch.nn.ParameterDict({"*": star, "b": torch.nn.Parameter(torch.ones(2), requires_grad=False), "note": "x"})
    path = save({"string_to_param": held, "bare": star}, tmp_path / "x.pt", old=old, protocol=protocol)
    with files.read(path) as package:
        assert list(package.only.tree["string_to_param"]) == ["*", "b", "note"]
        assert package.only.tree["string_to_param"]["note"] == "x"
        assert list(package.only.tensors) == ["string_to_param.*", "string_to_param.b", "bare"]
        assert package.only.tensors["string_to_param.*"].read() == stored(star)


def test_a_parameter_dictionary_of_before_torch_1_12_is_read(tmp_path: Path) -> None:
    held = torch.nn.ParameterDict({"*": torch.nn.Parameter(torch.arange(3.0))})
    del held.__dict__["_keys"]
    held.__dict__["_parameters"] = collections.OrderedDict(held.__dict__["_parameters"])
    with files.read(save({"string_to_param": held}, tmp_path / "x.pt", old=True)) as package:
        assert {name: t.read() for name, t in package.only.tensors.items()} == {
            "string_to_param.*": stored(torch.arange(3.0))
        }


def rewritten(path: Path, change: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> None:
    """The archive at `path` anew, by Python's own writer, with other content for the records in `change`."""
    with zipfile.ZipFile(path) as archive:
        records = {info.filename: archive.read(info) for info in archive.infolist()}
    root = next(iter(records)).partition("/")[0]
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in {**records, **{f"{root}/{name}": content for name, content in change.items()}}.items():
            archive.writestr(name, content)


def test_big_endian_storages_are_turned_element_by_element(tmp_path: Path) -> None:
    values = {"half": torch.arange(8, dtype=torch.float16), "long": torch.arange(6).reshape(2, 3).T,
              "complex": torch.tensor([1 + 2j, 3 - 4j]), "byte": torch.arange(3, dtype=torch.uint8)}  # fmt: skip
    path = save(values, tmp_path / "x.pt")
    swapped = [values["half"].numpy().byteswap(), np.arange(6).byteswap(), values["complex"].numpy().byteswap()]
    change = {f"data/{key}": array.tobytes() for key, array in enumerate(swapped)}
    rewritten(path, {**change, "byteorder": b"big"})
    loaded = torch.load(path, weights_only=True)
    with files.read(path) as package:
        for name, tensor in package.only.tensors.items():
            assert tensor.read() == stored(loaded[name]) == stored(values[name])


def test_compressed_members_are_inflated_piece_by_piece(tmp_path: Path) -> None:
    numbers = torch.arange(3_000_001, dtype=torch.int32) * 2_654_435_761 % 1_000_003
    path = save(
        {"all": numbers, "part": numbers[1_500_000:], "end": numbers[-3:], "none": numbers[:0]}, tmp_path / "x.pt"
    )
    rewritten(path, {}, zipfile.ZIP_DEFLATED)
    with files.read(path) as package:
        tensors = package.only.tensors
        assert tensors["all"].read() == stored(numbers)
        assert tensors["part"].read() == stored(numbers[1_500_000:])
        assert tensors["end"].read() == stored(numbers[-3:])
        assert tensors["none"].read() == b""
        assert max(len(piece) for piece in tensors["all"].chunks()) == 4 << 20


def test_the_name_decides_nothing_but_that_safetensors_is_no_pickle(tmp_path: Path) -> None:
    path = save({"x": torch.zeros(2)}, tmp_path / "x.pt")
    for name in ("x.bin", "x.ckpt", "x", "x.png", "x.pth"):
        path = path.rename(tmp_path / name)
        with files.read(path) as package:
            assert list(package.only.tensors) == ["x"]
    for name in ("x.safetensors", "x.SafeTensors"):
        path = path.rename(tmp_path / name)
        with pytest.raises(MalformedFile) as caught:
            files.read(path)
        assert caught.value.rule == "pickle"


def test_a_link_named_safetensors_to_a_pickle_is_refused_in_a_folder_too(tmp_path: Path) -> None:
    save({"x": torch.zeros(2)}, tmp_path / "blob")
    folder = tmp_path / "lora"
    folder.mkdir()
    save({"x": torch.zeros(2)}, folder / "blob")
    (folder / "pytorch_lora_weights.safetensors").symlink_to("blob")
    for path in (folder, folder / "pytorch_lora_weights.safetensors"):
        with pytest.raises(MalformedFile) as caught:
            files.read(path)
        assert caught.value.rule == "pickle"


def test_a_safetensors_file_whose_header_length_looks_like_a_pickle_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    for count in (0x280, 0x380, 0x480, 0x580):
        path.write_bytes(count.to_bytes(8, "little") + b"{}".ljust(count))
        with files.read(path) as package:
            assert package.container == "safetensors"
