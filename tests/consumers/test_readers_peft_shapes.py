"""PEFT makes its tensors from one config a directory: which shapes of LoHa and LoKr it can be brought to make."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from adapterhub.errors import LossyConversion
from adapterhub.operations.convert import convert

HEAD = "lora_unet_mid_block_attentions_0_transformer_blocks_0"


def kohya(path: Path, modules: dict[str, dict[str, torch.Tensor]]) -> Path:
    """A Kohya file of modules in the UNet's middle."""
    save_file(
        {f"{HEAD}_{name}.{role}": value for name, roles in modules.items() for role, value in roles.items()}, path
    )
    return path


def lokr(rows: tuple[int, int], columns: tuple[int, int], rank: int | None = None) -> dict[str, torch.Tensor]:
    """A LoKr whose second factor is whole, or a product of `rank`."""
    (o1, o2), (i1, i2) = rows, columns
    second = {"lokr_w2": (o2, i2)} if rank is None else {"lokr_w2_a": (o2, rank), "lokr_w2_b": (rank, i2)}
    shapes = {"lokr_w1": (o1, i1), **second}
    generator = torch.Generator().manual_seed(7)
    drawn = {role: torch.randn(shape, generator=generator) for role, shape in shapes.items()}
    return {**drawn, "alpha": torch.tensor(3.0)}


@pytest.mark.parametrize(
    "modules",
    [
        {"attn1_to_q": lokr((4, 8), (4, 8), 2), "attn1_to_k": lokr((4, 8), (4, 8))},  # one decomposed, one whole
        {"attn1_to_q": lokr((8, 4), (8, 4), 1), "ff_net_2": lokr((8, 4), (8, 16), 1)},  # factor 8
        {"attn1_to_q": lokr((2, 16), (2, 16), 4), "attn1_to_k": lokr((2, 16), (2, 16), 2)},  # two ranks
    ],
)
def test_peft_makes_the_shapes_that_lycoris_made_by_other_settings(bench, modules, tmp_path):
    source = kohya(tmp_path / "lokr.safetensors", modules)
    convert(source, tmp_path / "peft", to="peft", architecture="sd1")
    before = bench.layers({"unet": bench.models("sd1")["unet"]})
    merged = bench.with_peft(bench.models("sd1")["unet"], tmp_path / "peft" / "unet").merge_and_unload()
    after, changes = bench.layers({"unet": merged}), bench.changes(source, "sd1")
    assert bench.far({module: after[module].weight - before[module].weight for module in changes}, changes) == []


def loha(core: bool) -> dict[str, torch.Tensor]:
    """A LoHa of a 3×3 convolution over 32 channels, with or without cores."""
    a, b = ((2, 32), (2, 32)) if core else ((32, 2), (2, 32 * 9))
    shapes = {"hada_w1_a": a, "hada_w1_b": b, "hada_w2_a": a, "hada_w2_b": b}
    shapes |= {"hada_t1": (2, 2, 3, 3), "hada_t2": (2, 2, 3, 3)} if core else {}
    return {**{role: torch.ones(shape) for role, shape in shapes.items()}, "alpha": torch.tensor(2.0)}


CONVOLUTIONS = "lora_unet_mid_block_resnets_0_conv"


@pytest.mark.parametrize(
    "tensors",
    [
        {f"{HEAD}_attn1_to_q": lokr((8, 4), (2, 16), 1)},  # no factor splits 32 into 8 × 4 and into 2 × 16
        {f"{HEAD}_attn1_to_q": lokr((4, 8), (4, 8), 6)},  # PEFT takes so high a rank for a whole factor
        {f"{CONVOLUTIONS}1": loha(core=True), f"{CONVOLUTIONS}2": loha(core=False)},
        {f"{HEAD}_attn1_to_q": {**lokr((4, 8), (4, 8), 2), "dora_scale": torch.ones(32, 1)}},
        {f"{HEAD}_attn1_to_q": lokr((4, 8), (4, 8), 2), f"{CONVOLUTIONS}1": loha(core=True)},  # two methods
    ],
)
def test_what_no_config_of_peft_describes_is_refused(tensors, tmp_path):
    source = tmp_path / "lora.safetensors"
    save_file({f"{head}.{role}": value for head, roles in tensors.items() for role, value in roles.items()}, source)
    with pytest.raises(LossyConversion):
        convert(source, tmp_path / "peft", to="peft", architecture="sd1")
    assert not (tmp_path / "peft").exists()
