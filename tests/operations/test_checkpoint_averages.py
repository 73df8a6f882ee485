"""`--ema`: moving averages in place of the weights, of one whole UNet or not at all."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file

import adapterhub
from adapterhub.errors import BrokenAdapter, NotAnAdapter
from tests.operations.checkpoint_files import (
    SCHEDULE,
    UNET,
    averages,
    content,
    drops,
    saved,
    schedule,
    stored,
    weights,
)


@pytest.mark.parametrize(("name", "start"), [("sd1", "model."), ("sd1", UNET), ("sdxl", "model.")])
def test_the_moving_averages_take_the_place_of_the_weights(name, start, tmp_path):
    live = weights(name)
    unet = {place: tensor + np.float32(1) for place, tensor in live.items() if place.startswith(UNET)}
    source = saved(tmp_path / "model.safetensors", {**live, **averages(live, start), **schedule()})
    done = adapterhub.convert(source, tmp_path / "out.safetensors", ema=True)
    assert content(tmp_path / "out.safetensors") == stored({**live, **unet})
    assert done.exactness == "bit-exact"
    gone = dict.fromkeys(unet, "its moving average was asked for")
    rest = ["model_ema.decay", "model_ema.num_updates", *SCHEDULE]
    assert drops(done) == gone | dict.fromkeys(rest, "a leftover of training, pruned")


def test_the_averages_reach_a_folder_as_well(model, tmp_path):
    adapterhub.convert(model, tmp_path / "folder", to="diffusers", ema=True)
    found = load_file(tmp_path / "folder/unet/diffusion_pytorch_model.safetensors")
    assert np.array_equal(found["conv_in.weight"], weights("sd1")[f"{UNET}input_blocks.0.0.weight"] + np.float32(1))


def test_a_model_without_averages_has_none_to_give(plain, tmp_path):
    with pytest.raises(NotAnAdapter, match="no moving averages"):
        adapterhub.convert(plain, tmp_path / "out.safetensors", ema=True)


TWICE = {"model_ema.out2bias": np.ones(2, "f4")}
OTHER_SHAPE = {"model_ema.diffusion_modelout2bias": np.ones(3, "f4")}


@pytest.mark.parametrize(("gone", "more", "told"), [
    (300, {}, rf"300 of 686 weights of the UNet have no moving average: {UNET}\S+, {UNET}\S+, {UNET}\S+, …"),
    (0, TWICE, "in two spellings: 686 as model_ema.diffusion_model.+ and 1 as model_ema.out2bias"),
    (0, OTHER_SHAPE, rf"1 of 686 weights of the UNet have a moving average of another shape: {UNET}out.2.bias"),
])  # fmt: skip
def test_averages_that_are_not_one_whole_unet_are_refused(gone, more, told, tmp_path):
    live = weights("sd1")
    kept = dict(list(averages(live).items())[gone:])
    source = saved(tmp_path / "model.safetensors", {**live, **kept, **more})
    with pytest.raises(BrokenAdapter, match=told):
        adapterhub.convert(source, tmp_path / "out.safetensors", ema=True)
    assert not (tmp_path / "out.safetensors").exists()
