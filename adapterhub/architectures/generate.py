"""Write the inventories: build each architecture from its configuration without memory, and list its modules.

    python -m adapterhub.architectures.generate            # rewrite what is stale
    python -m adapterhub.architectures.generate --check    # exit 1 where anything is

Never imported by adapterhub itself. It needs torch, diffusers and transformers.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from adapterhub.architectures.inventory import FOLDER, kind
from adapterhub.tensors import Shape

Tensors = Mapping[str, Shape]
Config = Mapping[str, Any]


def main(arguments: Sequence[str], folder: Path = FOLDER) -> int:
    """Rewrite the inventories in `folder` that are not what its configs say, or, with `--check`, name them and return 1."""
    check = list(arguments) == ["--check"]
    if arguments and not check:
        print(__doc__)
        return 2
    stale = {path: text for path, text in _inventories(folder) if not path.exists() or path.read_text("utf-8") != text}
    for path, text in stale.items():
        print(f"{path.name} is stale" if check else f"{path.name} written")
        if not check:
            path.write_text(text, "utf-8")
    return 1 if check and stale else 0


def live(config: Config) -> dict[str, Shape]:
    """The parameters of the diffusers or transformers model that `config` describes, under canonical names, in its order."""
    import torch

    with torch.device("meta"):
        model, prefix = _diffusers(config) if "_class_name" in config else _transformers(config)
    return {prefix + name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def unbiased_kinds(tensors: Tensors) -> set[str]:
    """The kinds of module that have no bias. ValueError where a kind sometimes has one, or a tensor is something else."""
    weights, biases = _of(tensors, "weight"), _of(tensors, "bias")
    if len(weights) + len(biases) != len(tensors) or any(biases[path] != weights[path][:1] for path in biases):
        raise ValueError("a parameter is neither the weight of a module nor a bias along its rows")
    without = {kind(path) for path in weights.keys() - biases.keys()}
    if mixed := without & {kind(path) for path in biases}:
        raise ValueError(f"some have a bias and some do not: {', '.join(sorted(mixed))}")
    return without


def _diffusers(config: Config) -> tuple[Any, str]:
    import diffusers

    return getattr(diffusers, config["_class_name"]).from_config(dict(config)), ""


def _transformers(config: Config) -> tuple[Any, str]:
    import transformers

    model_class = getattr(transformers, config["architectures"][0])
    model = model_class(model_class.config_class(**config))
    flattened = not any(name.startswith("text_model.") for name, _ in model.named_parameters())
    return model, "text_model." if flattened else ""  # transformers 5.6 and later: see Architecture


def _inventories(folder: Path) -> Iterable[tuple[Path, str]]:
    for path in sorted((folder / "configs").glob("*.json")):
        components = json.loads(path.read_text("utf-8"))
        yield folder / path.name, _text({component: live(config) for component, config in components.items()})


def _text(components: Mapping[str, Tensors]) -> str:
    """One line a module, so that a change shows in a diff as what it is."""
    unbiased = {component: sorted(unbiased_kinds(tensors)) for component, tensors in components.items()}
    weights = {
        f"{component}.{path}": list(shape)
        for component, tensors in components.items()
        for path, shape in _of(tensors, "weight").items()
    }
    return f'{{\n"unbiased": {{\n{_lines(unbiased)}\n}},\n"weights": {{\n{_lines(weights)}\n}}\n}}\n'


def _lines(rows: Mapping[str, Any]) -> str:
    return ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in rows.items())


def _of(tensors: Tensors, leaf: str) -> dict[str, Shape]:
    return {name.removesuffix(f".{leaf}"): shape for name, shape in tensors.items() if name.endswith(f".{leaf}")}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
