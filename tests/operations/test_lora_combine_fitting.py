"""combine: a file that fits several models is taken for one of the model that the others are for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import adapterhub
from adapterhub.errors import RefusedInput

HEAD = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_"


def pair(path: Path, module: str, width: int) -> Path:
    random = np.random.default_rng(width)
    shapes = {"lora_down.weight": (4, width), "lora_up.weight": (320, 4)}
    made = {f"{HEAD}{module}.{role}": random.standard_normal(shape).astype("f4") for role, shape in shapes.items()}
    save_file({**made, f"{HEAD}{module}.alpha": np.array(4, "f4")}, path)
    return path


@pytest.mark.parametrize("turned", [False, True])
def test_what_fits_several_models_is_for_that_of_the_others(tmp_path: Path, turned: bool) -> None:
    either, second = (
        pair(tmp_path / "a.safetensors", "attn1_to_q", 320),
        pair(tmp_path / "b.safetensors", "attn2_to_k", 1024),
    )
    assert [adapterhub.inspect(path).architecture for path in (either, second)] == ["sd1", "sd2"]
    paths = [second, either] if turned else [either, second]
    done = adapterhub.combine(paths, tmp_path / "c.safetensors")
    assert (done.modules, done.exactness, done.problems) == (2, "bit-exact", [])
    assert adapterhub.inspect(tmp_path / "c.safetensors").architecture == "sd2"


def test_what_fits_no_common_model_is_refused(tmp_path: Path) -> None:
    paths = [pair(tmp_path / f"{width}.safetensors", "attn2_to_k", width) for width in (768, 1024)]
    with pytest.raises(RefusedInput, match=r"these are for different models: .*768\.safetensors is for sd1"):
        adapterhub.combine(paths, tmp_path / "c.safetensors")
