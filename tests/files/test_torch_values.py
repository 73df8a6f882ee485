"""What stands beside the tensors in a file of torch comes as plain values, and nothing is left out in silence."""

import argparse
import collections
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adapterhub import files
from adapterhub.files.pickles.values import Record

OLD = pytest.mark.parametrize("old", [False, True], ids=["zip", "legacy"])
PROTOCOL = pytest.mark.parametrize("protocol", [2, 3, 4, 5])


def save(value: object, path: Path, *, old: bool = False, protocol: int = 2) -> Path:
    torch.save(value, path, pickle_protocol=protocol, _use_new_zipfile_serialization=not old)
    return path


def tree(path: Path) -> Any:
    with files.read(path) as package:
        return package.only.tree


PLAIN = {
    "nothing": None, "yes": True, "no": False, "integer": 2**40, "negative": -(2**70), "float": 0.1, "text": "ä\n☃",
    "bytes": b"\0\xff", "no bytes": b"", "list": [1, [2, ()], {}], "tuple": (1, 2, 3, 4), "set": {1, 2}, "empty set": set(),
    5: "five", None: 1.5, "ordered": collections.OrderedDict(a=1, b=2), "default": collections.defaultdict(list, {"a": [1]}),
    "size": torch.Size([2, 3]),
}  # fmt: skip


@OLD
@PROTOCOL
def test_what_is_no_tensor_comes_as_plain_values(tmp_path: Path, old: bool, protocol: int) -> None:
    found = tree(save(PLAIN, tmp_path / "x.pt", old=old, protocol=protocol))
    assert found == {**PLAIN, "size": (2, 3)}
    assert type(found["ordered"]) is dict


@PROTOCOL
def test_dtypes_devices_numbers_and_arrays_come_as_what_they_say(tmp_path: Path, protocol: int) -> None:
    values = {
        "dtype": torch.bfloat16, "device": torch.device("cuda", 1), "cpu": torch.device("cpu"),
        "half": np.float16(1.5), "double": np.float64(-0.25), "long": np.int64(-3), "yes": np.bool_(True),
        "rows": np.arange(6, dtype=np.float32).reshape(2, 3), "columns": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "big": np.arange(3, dtype=">i4"), "bytes": bytearray(b"ab"),
    }  # fmt: skip
    found = tree(save(values, tmp_path / "x.pt", protocol=protocol))
    assert (found["dtype"], found["device"], found["cpu"]) == ("BF16", "cuda:1", "cpu")
    assert (found["half"], found["double"], found["long"], found["yes"]) == (1.5, -0.25, -3, True)
    assert (found["rows"].dtype, found["rows"].shape) == ("F32", (2, 3))
    assert found["rows"].read() == np.arange(6, dtype="<f4").tobytes()
    assert found["columns"].read() == np.arange(6, dtype="<i8").tobytes()
    assert found["big"].read() == np.arange(3, dtype="<i4").tobytes()
    assert found["bytes"] == b"ab"


class OnApple:
    """What torch writes for a tensor on one of Apple's devices."""

    def __reduce__(self) -> tuple[Any, ...]:
        return torch._utils._rebuild_device_tensor_from_numpy, (np.arange(4, dtype="f4"), torch.float32, "mps", False)


@PROTOCOL
def test_a_tensor_that_was_saved_on_apples_devices_is_read(tmp_path: Path, protocol: int) -> None:
    with files.read(save({"x": OnApple()}, tmp_path / "x.pt", protocol=protocol)) as package:
        assert package.only.tensors["x"].dtype == "F32"
        assert package.only.tensors["x"].read() == np.arange(4, dtype="<f4").tobytes()


def test_arguments_are_kept_as_a_record(tmp_path: Path) -> None:
    found = tree(save({"args": argparse.Namespace(rank=4, name="x")}, tmp_path / "x.pt"))
    assert isinstance(found["args"], Record)
    assert (found["args"].name, found["args"].fields) == ("argparse.Namespace", {"rank": 4, "name": "x"})


def foreign_class(module: str, name: str, monkeypatch: pytest.MonkeyPatch) -> type:
    """A class that pickles as `module.name`."""
    parts = module.split(".")
    for count in range(1, len(parts) + 1):
        monkeypatch.setitem(sys.modules, ".".join(parts[:count]), types.ModuleType(parts[count - 1]))
    made = type(name, (), {"__module__": module})
    monkeypatch.setattr(sys.modules[module], name, made, raising=False)
    return made


@OLD
def test_objects_of_lightning_and_omegaconf_are_left_out_with_a_warning(
    tmp_path: Path, old: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    callback = foreign_class("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint", monkeypatch)
    config = foreign_class("omegaconf.dictconfig", "DictConfig", monkeypatch)
    setting = config()
    setting.parent, setting.node = setting, torch.ones(1)  # a ring, as omegaconf's are
    value = {"state_dict": {"a.weight": torch.zeros(2)}, "callbacks": {callback: {"best": 1}}, "hyper": setting}
    path = save(value, tmp_path / "x.ckpt", old=old)
    with files.read(path) as package:
        assert list(package.only.tensors) == ["a.weight"]
        assert [(p.code, p.where) for p in package.problems] == [("left-out", "omegaconf.dictconfig.DictConfig")]
        assert package.only.tree["callbacks"] == {
            "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint": {"best": 1}
        }


def test_the_weights_are_found_in_state_dict_and_tensors_beside_it_are_warned_of(tmp_path: Path) -> None:
    inner = collections.OrderedDict({"a": torch.zeros(2), "b.c": torch.ones(1)})
    inner._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]
    value = {"epoch": 1, "state_dict": {"state_dict": inner}, "optimizer": [{"state": {0: torch.zeros(5)}}]}
    with files.read(save(value, tmp_path / "x.ckpt")) as package:
        assert list(package.only.tensors) == ["a", "b.c"]
        assert [(p.code, p.message[:9]) for p in package.problems] == [("left-out", "1 tensors")]
        assert package.only.tree["optimizer"][0]["state"][0].shape == (5,)


def test_other_structures_are_named_by_the_way_to_their_tensors(tmp_path: Path) -> None:
    with files.read(save({768: [torch.zeros(1), {"linear.weight": torch.ones(2)}]}, tmp_path / "x.pt")) as package:
        assert list(package.only.tensors) == ["768.0", "768.1.linear.weight"]
    with files.read(save(torch.ones(2), tmp_path / "x.pt")) as package:
        assert list(package.only.tensors) == ["tensor"]
