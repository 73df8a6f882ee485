r"""LoraConfig and its relatives: where PEFT and diffusers keep rank, alpha and targets, per component.

Source: huggingface/peft `tuners/lora/config.py`, `tuners/lokr/config.py`, `utils/other.py:get_pattern_key` (a pattern P
applies to a path that `(.*\.)?(P)$` matches; the first that does wins). Patterns come from strangers and are never run as
regular expressions: literal ones are compared, others refused.

Text encoders' targets are written without `text_model.`: as suffixes they match CLIP before and after transformers 5.6.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from adapterhub.adapter import Key, Module, Role, Roles
from adapterhub.algorithms import algorithm_of, rank_of
from adapterhub.errors import BrokenAdapter, LossyConversion
from adapterhub.files import Package
from adapterhub.layouts.base import Reading
from adapterhub.tensors import LazyTensor, Shape, holds, item, scalar

PEFT_TYPES = {"lora": "LORA", "loha": "LOHA", "lokr": "LOKR", "ia3": "IA3", "oft": "OFT", "boft": "BOFT"}
"""Our algorithm → PEFT's `peft_type`; a directory holds one."""

_ALPHA_FIELD = {"LORA": "lora_alpha", "ADALORA": "lora_alpha", "LOHA": "alpha", "LOKR": "alpha"}
_CHANGES_THE_BASE = ("pissa", "olora", "loftq", "corda")
_UNKNOWN = {"coft": "a constraint applied on the way forward", "fan_in_fan_out": "a transposed weight"}
_LARGEST = 2.0**127
_LITERAL = re.compile(r"[\w.\-]+")


def alpha_scalar(value: float, factor: LazyTensor) -> LazyTensor:
    """alpha as a tensor, as Kohya stores it: 0-d, in the dtype of the factors if that holds it, else in F32 or F64."""
    return _scalar(struct.pack("<d", value), factor.dtype)


@lru_cache(maxsize=256)
def _scalar(bits: bytes, dtype: str) -> LazyTensor:
    """By the bits of a value, for -0.0 equals 0.0; most modules of a file have the same."""
    (value,) = struct.unpack("<d", bits)
    return scalar(value, next((name for name in (dtype, "F32") if holds(name, value)), "F64"))


def target(module: str) -> str:
    """How a config names a module."""
    return module.removeprefix("text_model.")


def factor_of(tensors: Roles) -> LazyTensor:
    """The tensor whose dtype alpha takes."""
    return next(tensor for role, tensor in tensors.items() if role is not Role.ALPHA)


def config_of(modules: Mapping[Module, Roles], component: str) -> dict[str, Any]:
    """Rank, alpha, patterns and targets of one component's modules."""
    targets = {target(module): tensors for (owner, module), tensors in modules.items() if owner == component}
    ranks = {name: _rank(tensors) for name, tensors in targets.items()}
    alphas = {name: _number(_alpha(tensors, ranks[name])) for name, tensors in targets.items()}
    rank, alpha = _most_common(ranks.values()), _most_common(alphas.values())
    use_dora, lora_bias = (_all_or_none(targets, role) for role in (Role.DORA_SCALE, Role.UP_BIAS))
    if use_dora and lora_bias:
        raise refusal("PEFT and diffusers have no DoRA with biases", targets)
    return {
        "r": rank,
        "rank_pattern": {name: value for name, value in ranks.items() if value != rank},
        "alpha": alpha,
        "alpha_pattern": {name: value for name, value in alphas.items() if value != alpha},
        "target_modules": sorted(targets),
        "use_dora": use_dora,
        "lora_bias": lora_bias,
    }


def lora_config(modules: Mapping[Module, Roles], component: str) -> dict[str, Any]:
    """The fields of LoraConfig that say what one component's tensors mean."""
    config = config_of(modules, component)
    config["lora_alpha"] = config.pop("alpha")
    return config


def read_alphas(reading: Reading, component: str, config: Mapping[str, Any], place: str) -> None:
    """Puts ALPHA beside every factor of `component` as `config` says; `place` is where the config lies."""
    kind = str(config.get("peft_type") or "LORA").upper()
    field = _ALPHA_FIELD.get(kind)
    if field is None or config.get(field) is None:
        return
    patterns = _literal(config.get("alpha_pattern") or {}, place)
    _require_numbers({field: config[field], **patterns}, place)
    for (owner, module), tensors in reading.modules.items():
        rank = rank_of(tensors)
        if owner != component or Role.ALPHA in tensors:
            continue
        alpha = float(_pattern(patterns, module, config[field]))
        if rank is None:
            _scale_full_lokr(tensors, module, alpha, config, place)
            continue
        if config.get("use_rslora"):
            alpha *= math.sqrt(rank)
        tensors[Role.ALPHA] = alpha_scalar(alpha, factor_of(tensors))


def require_known(config: Mapping[str, Any], place: str) -> None:
    """Raises BrokenAdapter for settings under which the tensors mean something else than adapterhub computes."""
    for name, what in _UNKNOWN.items():
        if config.get(name):
            raise BrokenAdapter(f"{place}: {name}, {what}, is not known", [place], mend="Merge it with PEFT instead.")


def keep(reading: Reading, field: str, configs: Mapping[str, Mapping[str, Any]]) -> None:
    """Puts into a metadata field what no tensor tells of the `configs` by component, so that a way back restores it."""
    told = {
        component: {name: value for name, value in config.items() if name not in _DERIVED and value not in _NOTHING}
        for component, config in configs.items()
    }
    if any(told.values()):
        types = {component: {"peft_type": config.get("peft_type") or "LORA"} for component, config in configs.items()}
        reading.metadata[field] = json.dumps({name: told[name] | types[name] for name in told}, sort_keys=True)


def kept(text: str | None) -> dict[str, dict[str, Any]]:
    """What `keep` put into a metadata field, by component; nothing where it is not of its form."""
    return {component: config for component, config in _object(text).items() if isinstance(config, dict)}


def _object(text: str | None) -> dict[str, Any]:
    try:
        fields = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def changed_bases(package: Package) -> Iterator[tuple[str, str]]:
    """(place, method) of every config whose training changed the base first, so that ΔW is none of the original model."""
    documents = {name: value for name, value in package.documents.items() if name.endswith("adapter_config.json")}
    fields = [_object(file.metadata.get("lora_adapter_metadata")) for file in package.files.values()]
    stated = [
        (place, config.get("init_lora_weights")) for place, config in documents.items() if isinstance(config, dict)
    ]
    stated += [(name, value) for flat in fields for name, value in flat.items() if name.endswith("init_lora_weights")]
    for place, method in stated:
        if isinstance(method, str) and method.lower().startswith(_CHANGES_THE_BASE):
            yield place, method


def components_with_config(fields: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """`lora_adapter_metadata`, flat as diffusers stores it, by component; "" for a file without component prefixes."""
    components: dict[str, dict[str, Any]] = {}
    for name, value in fields.items():
        component, dot, field = name.partition(".")
        components.setdefault(component if dot else "", {})[field if dot else component] = value
    return components


def magnitude_in(reading: Reading) -> None:
    """PEFT's magnitudes (O,) and (1, O, 1, 1) as (O, 1) and (O, 1, 1, 1): the output axis of LyCORIS."""
    for tensors in reading.modules.values():
        if (magnitude := tensors.get(Role.DORA_SCALE)) is not None:
            ones = [1] * max(1, len(magnitude.shape) - 1)
            tensors[Role.DORA_SCALE] = magnitude.reshape(magnitude.size, *ones)


def read_multipliers(reading: Reading, component: str, config: Mapping[str, Any]) -> None:
    """PEFT's IA3 of convolutions, (1, C, 1, 1) on either axis, as (1, C) where `config` says the input and else (C, 1)."""
    inputs = config.get("feedforward_modules") or ()
    if isinstance(inputs, str):
        return  # a regular expression, which is never run: the shapes have to tell
    for module, tensors in reading.modules.items():
        multiplier = tensors.get(Role.IA3_L)
        if module.component == component and multiplier is not None and len(multiplier.shape) > 2:
            along_input = any(module.module.endswith(str(name)) for name in inputs)
            tensors[Role.IA3_L] = multiplier.reshape(*((1, multiplier.size) if along_input else (multiplier.size, 1)))


def on_input(vector: LazyTensor) -> bool:
    """Whether a magnitude or a multiplier lies along the input: (1, I[, 1, 1]), against (O, 1[, 1, 1])."""
    return len(vector.shape) > 1 and vector.shape[0] == 1 < vector.size


def magnitude_out(key: Key, tensor: LazyTensor) -> LazyTensor:
    """The inverse of `magnitude_in`. Raises LossyConversion for a magnitude along the input."""
    if key.role is not Role.DORA_SCALE:
        return tensor
    if on_input(tensor):
        raise refusal("PEFT and diffusers have DoRA's magnitude along the output, not along the input", [key.module])
    return tensor.reshape(tensor.size) if len(tensor.shape) <= 2 else tensor.reshape(1, tensor.size, 1, 1)


def multiplier_out(key: Key, tensor: LazyTensor, weight: Shape) -> LazyTensor:
    """The inverse of `read_multipliers` for a module of shape `weight`."""
    if key.role is not Role.IA3_L or len(weight) == 2:
        return tensor
    return tensor.reshape(1, tensor.size, *[1] * (len(weight) - 2))


def _scale_full_lokr(
    tensors: dict[Role, LazyTensor], module: str, alpha: float, config: Mapping[str, Any], place: str
) -> None:
    """PEFT multiplies a LoKr of two full factors by alpha / r all the same (`tuners/lokr/layer.py`)."""
    rank = _pattern(_literal(config.get("rank_pattern") or {}, place), module, config.get("r") or 0)
    _require_numbers({"r": rank}, place)
    algorithm = algorithm_of(tensors)
    if algorithm and algorithm.name == "lokr" and rank and alpha != rank:
        tensors[Role.SCALAR] = scalar(alpha / rank, "F32")


def _rank(tensors: Roles) -> int:
    """The rank; of a LoKr whose factors are both whole, one that PEFT makes them whole for."""
    if Role.LOKR_W1 in tensors and Role.LOKR_W2 in tensors:
        return (max(tensors[Role.LOKR_W1].shape + tensors[Role.LOKR_W2].shape[:2]) + 1) // 2
    return rank_of(tensors) or 0


def _all_or_none(targets: Mapping[str, Roles], role: Role) -> bool:
    """Whether the modules have `role`. PEFT makes one up for those that lack it, which changes them: LossyConversion."""
    without = [target for target, tensors in targets.items() if role not in tensors]
    if without and len(without) < len(targets):
        raise refusal(f"PEFT and diffusers have {role} on all modules of a component or on none", without)
    return not without


def refusal(message: str, modules: Iterable[str]) -> LossyConversion:
    """What to raise where PEFT would make something else of `modules`."""
    names = list(modules)
    others = f" and {len(names) - 1} more" if len(names) > 1 else ""
    losses = [(name, message) for name in names]
    return LossyConversion(
        f"{message} ({names[0]}{others})", losses, mend="Use --as lora, --as full, or another layout."
    )


def _alpha(tensors: Roles, rank: int) -> float:
    if Role.SCALE in tensors:
        return item(tensors[Role.SCALE]) * rank
    return item(tensors[Role.ALPHA]) if Role.ALPHA in tensors and rank_of(tensors) is not None else float(rank)


def _number(value: float) -> int | float:
    return int(value) if value == int(value) else value


def _most_common(values: Iterable[Any]) -> Any:
    return Counter(values).most_common(1)[0][0]


def _require_numbers(fields: Mapping[str, Any], place: str) -> None:
    """Raises BrokenAdapter for what is no finite number of float32's range, the widest that trainers use."""
    for name, value in fields.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _LARGEST:
            raise BrokenAdapter(f"{place}: {name} is {str(value)[:40]}, and must be a number", [place],
                                mend="It holds alpha: mend it or take it out.")  # fmt: skip


def _literal(patterns: Any, place: str) -> dict[str, Any]:
    if not isinstance(patterns, Mapping):
        raise BrokenAdapter(f"{place}: a pattern that is no object of names and numbers", [place],
                            mend="It holds ranks or alphas: mend it or take it out.")  # fmt: skip
    literal = {pattern.replace("\\.", "."): value for pattern, value in patterns.items()}
    if odd := [pattern for pattern in literal if not _LITERAL.fullmatch(pattern.removeprefix("^"))]:
        raise BrokenAdapter(
            f"{place}: pattern {odd[0]!r} is a regular expression, and those of a file are never run", odd,
            mend="Write the module's path instead.",
        )  # fmt: skip
    return literal


def _pattern(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """What the first pattern says that is the end of the path `module` or, where it begins with ^, the whole of it."""
    for pattern, value in patterns.items():
        whole = pattern.removeprefix("^") in (module, target(module))
        if whole or (not pattern.startswith("^") and module.endswith(f".{pattern}")):
            return value
    return default


_NOTHING: tuple[Any, ...] = (None, False, "", "none", [], {})
# What tensors tell, and what chose the modules that are now listed.
_DERIVED = frozenset({"exclude_modules", "layers_to_transform", "layers_pattern", "target_parameters", "inference_mode",
                      "r", "lora_alpha", "alpha", "rank_pattern", "alpha_pattern", "target_modules", "use_dora",
                      "lora_bias", "use_rslora", "peft_type"})  # fmt: skip
