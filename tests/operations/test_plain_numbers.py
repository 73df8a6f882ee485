"""Numbers of Python among the tensors of a torch file: an alpha is an alpha, as readers that call float() on it take it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import adapterhub
from tests.operations.made_loras import LINEAR, TEXT, head

HEAD = head(LINEAR)
DOTTED = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k"


def stored(path: Path, alpha: Any, name: str = HEAD, **others: Any) -> Path:
    random = torch.Generator().manual_seed(3)
    tensors = {f"{name}.lora_down.weight": torch.randn(4, 768, generator=random),
               f"{name}.lora_up.weight": torch.randn(320, 4, generator=random), f"{name}.alpha": alpha}  # fmt: skip
    torch.save(tensors | others, path)
    return path


@pytest.mark.parametrize("alpha", [2.0, 2, np.float32(2), 0.1])
def test_an_alpha_that_is_a_plain_number_is_the_strength_and_stands_in_the_ledger(tmp_path: Path, alpha: Any) -> None:
    plain = stored(tmp_path / "a.ckpt", alpha)
    assert adapterhub.inspect(plain).alphas == {f"{float(alpha):g}": 1}
    assert adapterhub.diff(plain, stored(tmp_path / "b.pt", torch.tensor(float(alpha), dtype=torch.float64))).equal
    done = adapterhub.convert(plain, tmp_path / "c.safetensors", to="kohya")
    assert f"{HEAD}.alpha" in [name for entry in done.entries for name in entry.source]
    assert float(load_file(tmp_path / "c.safetensors")[f"{HEAD}.alpha"]) == float(alpha)


def test_it_is_one_under_dotted_names_and_beside_other_things(tmp_path: Path) -> None:
    for name, others in ((DOTTED, {}), (HEAD, {"epoch": 3, "note": "mine", "config": {"rank": 4}})):
        found = adapterhub.inspect(stored(tmp_path / "a.pt", 2.0, name, **others))
        assert found.alphas == {"2": 1}
        assert found.metadata == {}


def test_a_number_of_no_module_stays_metadata(tmp_path: Path) -> None:
    found = adapterhub.inspect(stored(tmp_path / "a.pt", 2.0, **{"network.alpha": 7.0, f"{head(TEXT)}.alpha": 1.0}))
    assert found.metadata == {"network.alpha": "7.0", f"{head(TEXT)}.alpha": "1.0"}
    assert found.alphas == {"2": 1}


def test_factors_are_no_wider_than_theirs_where_alpha_alone_is_of_float64(tmp_path: Path) -> None:
    paths = [stored(tmp_path / "a.pt", 0.1), stored(tmp_path / "b.pt", 2.0)]
    adapterhub.combine(paths, tmp_path / "c.safetensors")
    assert {str(tensor.dtype) for tensor in load_file(tmp_path / "c.safetensors").values()} == {"torch.float32"}
