"""extract: models of two dtypes; what rounding alone makes different was not trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import adapterhub
from adapterhub.errors import RefusedInput
from tests.operations.checkpoint_files import saved
from tests.operations.test_lora_extract import CONV, LINEAR, named, stored


def weights(seed: int = 5) -> dict[str, np.ndarray]:
    from tests.operations.test_lora_extract import weights as halves

    random = np.random.default_rng(seed)
    return {name: random.standard_normal(array.shape).astype("f4") for name, array in halves().items()}


def halved(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: array.astype("f2") for name, array in found.items()}


def test_what_rounding_alone_makes_different_is_not_extracted(tmp_path: Path) -> None:
    wide = weights()
    base = saved(tmp_path / "base.safetensors", halved(wide))
    with pytest.raises(RefusedInput, match="do not differ"):
        adapterhub.extract(saved(tmp_path / "same.safetensors", wide), base, tmp_path / "a.safetensors", rank=2)
    tuned = dict(wide)
    for _, place in (LINEAR, CONV):
        tuned[f"{place}.weight"] = tuned[f"{place}.weight"] + np.float32(0.25)
    done = adapterhub.extract(saved(tmp_path / "tuned.safetensors", tuned), base, tmp_path / "b.safetensors", rank=2)
    assert stored(tmp_path / "b.safetensors").keys() == {named(LINEAR[0]), named(CONV[0])}
    told = [problem for problem in done.problems if problem.code == "rounding"]
    assert [problem.message for problem in told] == [
        f"{len(wide) - 2} tensors differ by nothing but rounding to F16, and are not in the LoRA",
        "2 tensors differ, in one model rounded to F16, and that rounding is part of what was taken",
    ]
    assert done.exactness == "approximate"


def test_models_of_different_architectures_are_named_and_called_that(tmp_path: Path) -> None:
    from tests.operations.checkpoint_files import weights as of

    paths = [saved(tmp_path / f"{name}.safetensors", of(name)) for name in ("sd1", "sd2")]
    with pytest.raises(
        RefusedInput, match=r"these are for different models: .*sd1\.safetensors is for sd1, .* is for sd2"
    ):
        adapterhub.extract(*paths, tmp_path / "c.safetensors", rank=2)
