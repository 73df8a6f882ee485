"""The closed list of globals that files of tensors name, and what each becomes. Every other name is refused.

Source: torch `_utils.py`, `serialization.py`, `nn/modules/container.py`; A1111 `modules/safe.py` (the list that real
files need); CPython `_compat_pickle.py` (the names of Python 2, which protocol 2 keeps).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

from adapterhub.files.pickles.numpy_values import NumpyArray, NumpyType, array, numpy_type, scalar
from adapterhub.files.pickles.state import Refusal
from adapterhub.files.pickles.tensors import ELEMENTS, STORAGES, Element, Storage, rebuild
from adapterhub.files.pickles.values import Budget, Global, Ordered, Parameters, Record
from adapterhub.tensors import LazyTensor

_BYTES = ELEMENTS["uint8"]


def _tensor(
    budget: Budget, storage: Any, offset: Any, shape: Any, stride: Any, grad: Any, hooks: Any, metadata: Any = None
) -> LazyTensor:
    """`torch._utils._rebuild_tensor_v2`: the dtype is that of the storage."""
    element = storage.element if isinstance(storage, Storage) else None
    return _typed_tensor(budget, storage, offset, shape, stride, grad, hooks, element, metadata)


def _typed_tensor(
    budget: Budget, storage: Any, offset: Any, shape: Any, stride: Any, grad: Any, hooks: Any, element: Any,
    metadata: Any = None,
) -> LazyTensor:  # fmt: skip
    """`torch._utils._rebuild_tensor_v3`: the storage is bytes, and the dtype stands beside it."""
    budget.count_tensor()
    if not isinstance(storage, Storage) or not isinstance(element, Element):
        raise Refusal("pickle-call", "a tensor that is rebuilt from what is no storage, or with what is no dtype")
    _require_no_hooks(hooks)
    if metadata is not None:
        raise Refusal("pickle-call", "a tensor that is conjugated or negated by a mark")
    if element != storage.element and (storage.element != _BYTES or (storage.big_endian and element.swapped > 1)):
        raise Refusal("pickle-call", f"a tensor of {element.dtype} over a storage of {storage.element.dtype}")
    return rebuild(storage, element, offset, shape, stride, budget.limits)


def _parameter(budget: Budget, tensor: Any, grad: Any, hooks: Any) -> LazyTensor:
    """`torch._utils._rebuild_parameter`: the tensor."""
    _require_no_hooks(hooks)
    if not isinstance(tensor, LazyTensor):
        raise Refusal("pickle-call", "a Parameter of what is no tensor")
    return tensor


def _parameter_with_state(budget: Budget, tensor: Any, grad: Any, hooks: Any, state: Any) -> LazyTensor:
    """`torch._utils._rebuild_parameter_with_state`: the tensor. The state is what was set on the Parameter in Python, such
    as transformers' `_is_hf_initialized`; it says nothing of weights, and is given up where it is plain.
    """
    parts = state if type(state) is tuple and len(state) == 2 else (state,)
    if not all(part is None or (type(part) is dict and all(map(_is_plain, part.values()))) for part in parts):
        raise Refusal("pickle-call", "a Parameter with attributes other than truths, numbers and texts")
    return _parameter(budget, tensor, grad, hooks)


def _is_plain(value: Any) -> bool:
    return value is None or type(value) in (bool, int, float, str)


def _tensor_from_numpy(budget: Budget, content: Any, element: Any, device: Any, grad: Any) -> LazyTensor:
    """`torch._utils._rebuild_device_tensor_from_numpy`: how tensors on Apple's devices are saved."""
    budget.count_tensor()
    tensor = content.tensor if isinstance(content, NumpyArray) else content
    if not isinstance(tensor, LazyTensor) or not isinstance(element, Element) or tensor.dtype != element.dtype:
        raise Refusal("pickle-call", "a tensor from what is no NumPy array of its dtype")
    return tensor


def _require_no_hooks(hooks: Any) -> None:
    if not isinstance(hooks, dict) or hooks:
        raise Refusal("pickle-call", "a tensor with hooks, which are code")


def _ordered(budget: Budget, pairs: Any = ()) -> Ordered:
    """`collections.OrderedDict()`; Python 2 gives it a list of pairs."""
    made = Ordered()
    if type(pairs) not in (list, tuple) or any(type(pair) not in (list, tuple) or len(pair) != 2 for pair in pairs):
        raise Refusal("pickle-call", "collections.OrderedDict of what is no list of pairs")
    for key, value in pairs:
        budget.check_key(key)
        if key in made:
            raise Refusal("pickle-duplicate", "a key stands twice in a collections.OrderedDict")
        made[key] = value
    return made


def _default_dictionary(budget: Budget, factory: Any = None) -> Ordered:
    if factory is not None and not isinstance(factory, Global):
        raise Refusal("pickle-call", "collections.defaultdict of what is no class")
    return Ordered()


def _set(budget: Budget, items: Any) -> set[Any]:
    if type(items) is not list:
        raise Refusal("pickle-call", "set of what is no list")
    for item in items:
        budget.check_key(item)
    return set(items)


def _encoded(budget: Budget, text: Any, encoding: Any) -> bytes:
    """`_codecs.encode(text, "latin1")`, as protocol 2 writes bytes."""
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise Refusal("pickle-call", "_codecs.encode other than of text to Latin-1")
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        raise Refusal("pickle-call", "_codecs.encode of what Latin-1 does not have") from None


def _bytes(budget: Budget, *content: Any) -> bytes:
    """`bytes()`, `bytearray(bytes)`, `bytearray(text, "latin-1")`."""
    if not content:
        return b""
    if len(content) == 2:
        return _encoded(budget, *content)
    if type(content[0]) is not bytes:
        raise Refusal("pickle-call", "bytearray of what is no bytes")
    return content[0]


def _size(budget: Budget, axes: Any) -> tuple[Any, ...]:
    if type(axes) is not tuple or len(axes) > budget.limits.rank or not all(type(extent) is int for extent in axes):
        raise Refusal("pickle-call", "torch.Size of other than a few integers")
    return axes


def _device(budget: Budget, name: Any, index: Any = None) -> str:
    if type(name) is not str or len(name) > 64 or type(index) not in (int, type(None)):
        raise Refusal("pickle-call", "torch.device of other than a name and a number")
    return name if index is None else f"{name}:{index}"


def _empty_array(budget: Budget, kind: Any, shape: Any, code: Any) -> NumpyArray:
    if not isinstance(kind, Global) or kind.name != "numpy.ndarray" or shape != (0,) or code not in (b"b", "b"):
        raise Refusal("pickle-call", "numpy.core.multiarray._reconstruct of other than an empty numpy.ndarray")
    return NumpyArray(budget.limits)


def _full_array(budget: Budget, content: Any, kind: Any, shape: Any, order: Any) -> LazyTensor:
    return array(content, kind, shape, order == "F", budget.limits)


def _numpy_type(budget: Budget, code: Any, align: Any = False, copy: Any = False) -> NumpyType:
    return numpy_type(code)


def _scalar(budget: Budget, kind: Any, content: Any) -> float:
    return scalar(kind, content)


_BUILTINS = ("builtins", "__builtin__")
_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMERIC = ("numpy.core.numeric", "numpy._core.numeric")
_LIGHTNING = ("pytorch_lightning", "lightning.pytorch")
_OMEGACONF = {
    "dictconfig": "DictConfig", "listconfig": "ListConfig", "base": "ContainerMetadata Metadata",
    "nodes": "AnyNode StringNode IntegerNode FloatNode BooleanNode BytesNode PathNode EnumNode",
}  # fmt: skip
# Until Lightning 1.5 a checkpoint named the classes of the callbacks that had something to remember; these had.
_CALLBACKS = (("model_checkpoint", "ModelCheckpoint"), ("early_stopping", "EarlyStopping"), ("timer", "Timer"))
_AVERAGES = (
    ("ldm.modules.ema", "LitEma"), ("sgm.modules.ema", "LitEma"), ("diffusers.training_utils", "EMAModel"),
    ("torch_ema.ema", "ExponentialMovingAverage"), ("ema_pytorch.ema_pytorch", "EMA"),
)  # fmt: skip
"""What holds a second, averaged set of weights, where a whole object of it was saved instead of its state."""
_CLASSES = (
    *((f"{root}.callbacks.{module}", name) for root in _LIGHTNING for module, name in _CALLBACKS),
    *_AVERAGES,
    *((f"omegaconf.{module}", name) for module, names in _OMEGACONF.items() for name in names.split()),
)  # fmt: skip
"""Classes whose objects are left out, with a warning."""
_TYPES = (*product(_BUILTINS, "int float bool str dict list tuple".split()), ("typing", "Any"), ("numpy", "ndarray"))
"""Named, as what something is of, and never called."""
_CALLS: tuple[tuple[tuple[str, ...], str, Callable[..., Any], tuple[int, ...]], ...] = (
    (("torch._utils",), "_rebuild_tensor_v2", _tensor, (6, 7)),
    (("torch._utils",), "_rebuild_tensor_v3", _typed_tensor, (7, 8)),
    (("torch._utils",), "_rebuild_parameter", _parameter, (3,)),
    (("torch._utils",), "_rebuild_parameter_with_state", _parameter_with_state, (4,)),
    (("torch._utils",), "_rebuild_device_tensor_from_numpy", _tensor_from_numpy, (4,)),
    (("torch",), "Size", _size, (1,)),
    (("torch",), "device", _device, (1, 2)),
    (("collections",), "OrderedDict", _ordered, (0, 1)),
    (("collections",), "defaultdict", _default_dictionary, (0, 1)),
    (_BUILTINS, "set", _set, (1,)),
    (_BUILTINS, "bytes", _bytes, (0,)),
    (_BUILTINS, "bytearray", _bytes, (0, 1, 2)),
    (("_codecs",), "encode", _encoded, (2,)),
    (("numpy",), "dtype", _numpy_type, (1, 2, 3)),
    (_MULTIARRAY, "scalar", _scalar, (2,)),
    (_MULTIARRAY, "_reconstruct", _empty_array, (3,)),
    (_NUMERIC, "_frombuffer", _full_array, (4,)),
)
"""Modules, name, what a call of it means, and with how many arguments."""


def _globals() -> Iterator[tuple[tuple[str, str], Global]]:
    for modules, name, call, counts in _CALLS:
        for module in modules:
            yield (module, name), Global(f"{module}.{name}", call, counts)
    for name, element in ELEMENTS.items():
        yield ("torch", name), Global(f"torch.{name}", value=element)
    for name, kind in STORAGES.items():
        yield ("torch", name), Global(f"torch.{name}", value=ELEMENTS[kind])
    for module in ("torch", "torch.storage"):
        yield (module, "UntypedStorage"), Global(f"{module}.UntypedStorage", value=_BYTES)
    for module, name in _CLASSES:
        yield (module, name), Global(f"{module}.{name}", new=partial(Record, f"{module}.{name}"))
    for module, name in _TYPES:
        yield (module, name), Global(f"{module}.{name}")
    yield ("torch.nn.modules.container", "ParameterDict"), Global("torch.nn.ParameterDict", new=Parameters)
    yield ("argparse", "Namespace"), Global("argparse.Namespace", new=partial(Record, "argparse.Namespace", kept=True))
    for root in _LIGHTNING:
        yield (f"{root}.utilities.parsing", "AttributeDict"), Global(f"{root}…AttributeDict", new=Ordered)


GLOBALS = dict(_globals())
