"""What stands beside the tensors in a file of torch comes as plain values, and nothing is left out in silence."""

import argparse
import collections
import sys
import types
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adapterhub import files
from adapterhub.errors import MalformedFile, UsageError
from adapterhub.files import File, Package
from adapterhub.files.pickles.values import Record
from adapterhub.tensors import from_bytes

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


def foreign_class(module: str, name: str, monkeypatch: pytest.MonkeyPatch, base: type = object) -> type:
    """A class that pickles as `module.name`."""
    parts = module.split(".")
    for count in range(1, len(parts) + 1):
        monkeypatch.setitem(sys.modules, ".".join(parts[:count]), types.ModuleType(parts[count - 1]))
    made = type(name, (base,), {"__module__": module})
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
    timer = foreign_class("pytorch_lightning.callbacks.timer", "Timer", monkeypatch)
    callbacks = {callback: {"best": 1}, timer: {"time_elapsed": {"train": 1.5}}}
    value = {"state_dict": {"a.weight": torch.zeros(2)}, "callbacks": callbacks, "hyper": setting}
    path = save(value, tmp_path / "x.ckpt", old=old)
    with files.read(path) as package:
        assert list(package.only.tensors) == ["a.weight"]
        assert [(p.code, p.where) for p in package.problems] == [("left-out", "omegaconf.dictconfig.DictConfig")]
        assert package.only.tree["callbacks"] == {
            "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint": {"best": 1},
            "pytorch_lightning.callbacks.timer.Timer": {"time_elapsed": {"train": 1.5}},
        }


AVERAGES = {
    "ldm.modules.ema.LitEma": True, "sgm.modules.ema.LitEma": True, "ema_pytorch.ema_pytorch.EMA": True,
    "diffusers.training_utils.EMAModel": False, "torch_ema.ema.ExponentialMovingAverage": False,
}  # fmt: skip
"""Classes, and whether they are modules of torch."""


@OLD
@pytest.mark.parametrize("name", AVERAGES)
def test_an_object_that_holds_averaged_weights_is_left_out_with_a_warning(
    tmp_path: Path, name: str, old: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if AVERAGES[name]:
        average: Any = foreign_class(*name.rsplit(".", 1), monkeypatch, torch.nn.Module)()
        average.register_buffer("decay", torch.tensor(0.5))
        average.inner = torch.nn.ParameterDict({"x": torch.nn.Parameter(torch.zeros(3))})
    else:
        average = foreign_class(*name.rsplit(".", 1), monkeypatch)()
        average.shadow_params, average.num_updates = [torch.ones(2), torch.ones(3)], 4
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the source of a class that has none cannot be saved beside it
        path = save({"state_dict": {"a": torch.arange(2)}, "ema": average}, tmp_path / "x.ckpt", old=old)
    with files.read(path) as package:
        assert {key: found.read() for key, found in package.only.tensors.items()} == {
            "a": torch.arange(2).numpy().tobytes()
        }
        assert [(p.code, p.where) for p in package.problems] == [("left-out", name)]
        assert package.only.tree["ema"].name == name
        assert package.only.tree["ema"].fields == {}


def test_the_weights_are_found_in_state_dict_and_tensors_beside_it_are_warned_of(tmp_path: Path) -> None:
    inner = collections.OrderedDict({"a": torch.zeros(2), "b.c": torch.ones(1)})
    inner._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]
    value = {"epoch": 1, "state_dict": {"state_dict": inner}, "optimizer": [{"state": {0: torch.zeros(5)}}]}
    with files.read(save(value, tmp_path / "x.ckpt")) as package:
        assert list(package.only.tensors) == ["a", "b.c"]
        assert [(p.code, p.message[:9]) for p in package.problems] == [("left-out", "1 tensors")]
        assert package.only.tree["optimizer"][0]["state"][0].shape == (5,)


@pytest.mark.parametrize("name", ["model", "module", "model_state_dict"])
def test_the_weights_are_found_in_what_other_trainers_call_them(tmp_path: Path, name: str) -> None:
    """DeepSpeed `runtime/engine.py` (`_save_checkpoint`) says module; scripts say model."""
    state = {"a": torch.zeros(2), "b.c": torch.ones(1)}
    value = {name: state, "optimizer": [torch.zeros(5)], "step": 7}
    with files.read(save(value, tmp_path / "x.ckpt")) as package:
        assert list(package.only.tensors) == ["a", "b.c"]
        assert list(package.only.beside) == ["optimizer.0"]
        assert package.only.metadata == {"step": "7"}
        assert [(p.where, p.message[:9]) for p in package.problems] == [(name, "1 tensors")]
    with files.read(save({"state_dict": {"x": torch.zeros(1)}, **value}, tmp_path / "x.ckpt")) as package:
        assert list(package.only.tensors) == ["x"]
    for other in ({name: "a text"}, {name: {"part": state}}, {name: torch.ones(2)}):
        with files.read(save({**other, "y": torch.zeros(1)}, tmp_path / "x.ckpt")) as package:
            assert "y" in package.only.tensors


def test_other_structures_are_named_by_the_way_to_their_tensors(tmp_path: Path) -> None:
    with files.read(save({768: [torch.zeros(1), {"linear.weight": torch.ones(2)}]}, tmp_path / "x.pt")) as package:
        assert list(package.only.tensors) == ["768.0", "768.1.linear.weight"]
    with files.read(save(torch.ones(2), tmp_path / "x.pt")) as package:
        assert list(package.only.tensors) == ["tensor"]


class Slotted(torch.nn.Parameter):
    """A Parameter whose state torch gives as a pair: attributes, and what lies in slots."""

    __slots__ = ("mark",)


def marked(kind: type, **attributes: object) -> torch.nn.Parameter:
    parameter: torch.nn.Parameter = torch.Tensor._make_subclass(kind, torch.arange(6.0).reshape(2, 3), True)
    for name, value in attributes.items():
        setattr(parameter, name, value)
    return parameter


@OLD
@PROTOCOL
@pytest.mark.parametrize("kind", [torch.nn.Parameter, Slotted])
def test_a_parameter_with_plain_attributes_is_its_tensor(tmp_path: Path, old: bool, protocol: int, kind: type) -> None:
    value = marked(kind, _is_hf_initialized=True, mark="x", rate=0.5, index=3, nothing=None)
    with files.read(save({"x": value}, tmp_path / "x.pt", old=old, protocol=protocol)) as package:
        assert package.only.tensors["x"].read() == np.arange(6, dtype="<f4").tobytes()
        assert package.problems == ()


@pytest.mark.parametrize("attribute", [torch.zeros(2), [1], {"a": 1}, b"x"], ids=["tensor", "list", "dict", "bytes"])
@pytest.mark.parametrize("kind", [torch.nn.Parameter, Slotted])
def test_a_parameter_with_any_other_attribute_is_refused(tmp_path: Path, kind: type, attribute: object) -> None:
    with pytest.raises(MalformedFile) as caught:
        files.read(save({"x": marked(kind, mark=attribute)}, tmp_path / "x.pt"))
    assert caught.value.rule == "pickle-call"


COMPLEX = np.array([[1 + 2j, -0.1j], [3e300, complex(float("inf"), -7)]])


@OLD
@PROTOCOL
def test_complex_numbers_of_two_doubles_are_moved_as_bytes(tmp_path: Path, old: bool, protocol: int) -> None:
    path = save(
        {"x": torch.from_numpy(COMPLEX), "t": torch.from_numpy(COMPLEX).T},
        tmp_path / "x.pt",
        old=old,
        protocol=protocol,
    )
    with files.read(path) as package:
        found = package.only.tensors
        assert [(t.dtype, t.shape, t.nbytes) for t in found.values()] == [("C128", (2, 2), 64)] * 2
        assert found["x"].read() == found["t"].transpose().read() == COMPLEX.tobytes()
        assert found["t"].read() == COMPLEX.T.tobytes() == b"".join(row.read() for row in found["t"].split_rows([1, 1]))


def test_complex_numbers_of_two_doubles_on_a_big_endian_machine_are_turned_half_by_half(tmp_path: Path) -> None:
    path = save({"x": torch.from_numpy(COMPLEX)}, tmp_path / "x.pt")
    with zipfile.ZipFile(path) as archive:
        records = {info.filename: archive.read(info) for info in archive.infolist()}
    records |= {"x/data/0": COMPLEX.byteswap().tobytes(), "x/byteorder": b"big"}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records.items():
            archive.writestr(name, content)
    with files.read(path) as package:
        assert package.only.tensors["x"].read() == COMPLEX.tobytes()
    assert torch.equal(torch.load(path, weights_only=True)["x"], torch.from_numpy(COMPLEX))


def test_safetensors_neither_holds_nor_is_given_complex_numbers_of_two_doubles(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(UsageError, match="safetensors has no C128, which 1 tensors have: 'x'"):
        files.write(Package.new({path.name: File({"x": from_bytes("C128", (1,), bytes(16))})}), path)
    assert list(tmp_path.iterdir()) == []
    header = b'{"x":{"dtype":"C128","shape":[1],"data_offsets":[0,16]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    with pytest.raises(MalformedFile) as caught:
        files.read(path)
    assert caught.value.rule == "unknown-dtype"
