"""Prior preservation: equation 2 of DreamBooth to the number, and pictures of the class that the frozen base drew."""

import json
import shutil
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from diffusers.training_utils import compute_snr
from PIL import Image
from safetensors.torch import load_file
from torch.nn.functional import mse_loss

from adapterhub.documents import DreamBoothSettings, LoraSettings
from adapterhub.errors import UsageError
from adapterhub.train import dreambooth, lora
from adapterhub.train.base import opened
from adapterhub.train.beginning import subject
from adapterhub.train.concept import Encoder, sampling_of
from adapterhub.train.prior import prior
from adapterhub.train.randomness import number

CLASS = "a photo of a cat"


def settings(base, pictures, output, **changes):
    told = {"base": str(base), "images": str(pictures), "output": str(output), "prompt": "a photo of a sks cat", "rank": 2,
            "class_prompt": CLASS, "class_count": 2, "class_images": str(pictures), "resolution": 32, "batch": 2, "steps": 1,
            "captions": False, "sample_count": 0, "sample_steps": 2, "layouts": ("kohya",), **changes}  # fmt: skip
    return LoraSettings(**told)


def losses(output):
    return [json.loads(line)["loss"] for line in (Path(output) / "log.jsonl").read_text().splitlines()]


def by_hand(told):
    """The two means of equation 2 at the first step, as diffusers' parts compute them from the same draws."""
    with opened(told.base, ("sd1", "sd2")) as base, torch.no_grad():
        sampling = sampling_of(told, base)
        encoder = Encoder(base.vae, torch.device("cpu"), sampling)
        predicts_v = (told.prediction or base.scheduler.config.prediction_type) == "v_prediction"
        means = []
        for concept in (subject(told, base, [told.prompt]), *prior(told, base, Accelerator())):
            terms = []
            for draw in concept.draws(sampling, 0):
                latents, t = concept.latents(draw, encoder)[None], torch.tensor([draw.t])
                ids = base.tokenizers["text_encoder"](
                    [draw.caption], padding="max_length", return_tensors="pt"
                ).input_ids
                states = base.encoders["text_encoder"](ids)[0]
                noise = draw.noise[None]
                predicted = base.unet(base.scheduler.add_noise(latents, noise, t), t, states).sample
                target = base.scheduler.get_velocity(latents, noise, t) if predicts_v else noise
                snr = compute_snr(base.scheduler, t)
                weight = snr.clamp(max=told.snr_gamma or torch.inf) / (snr + predicts_v) if told.snr_gamma else 1.0
                terms.append(float(weight * mse_loss(predicted, target)))
            means.append(sum(terms) / len(terms))
    return means


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("gamma", "prediction"), [(None, None), (5.0, None), (5.0, "v_prediction")])
def test_the_loss_is_the_subjects_mean_and_lambda_times_the_classes(
    base_of, pictures, tmp_path, batch, gamma, prediction
):
    told = settings(
        base_of("sd1"), pictures, tmp_path, batch=batch, snr_gamma=gamma, prediction=prediction, prior_weight=0.3
    )
    lora.train(told)
    instance, preserved = by_hand(told)
    assert losses(tmp_path) == [pytest.approx(instance + 0.3 * preserved, rel=1e-5)]
    assert abs(instance - preserved) > 1e-3


def test_the_class_has_times_and_noise_of_its_own(base_of, pictures, tmp_path):
    told = settings(base_of("sd1"), pictures, tmp_path, batch=4)
    with opened(told.base, ("sd1",)) as base:
        first, second = subject(told, base, [told.prompt]), *prior(told, base, Accelerator())
        drawn = [list(concept.draws(sampling_of(told, base), 0)) for concept in (first, second)]
    assert [one.t for one in drawn[0]] != [one.t for one in drawn[1]]
    assert all(not torch.equal(a.noise, b.noise) for a, b in zip(*drawn, strict=True))
    assert {one.caption for one in drawn[1]} == {CLASS}
    assert [sum(one.weight for one in concept) for concept in drawn] == [1.0, 1.0]


def test_with_a_lambda_of_0_the_result_is_bit_for_bit_that_without_a_prior(base_of, pictures, tmp_path):
    outputs = tmp_path / "with" / "out", tmp_path / "without" / "out"
    lora.train(settings(base_of("sd1"), pictures, outputs[0], prior_weight=0.0, steps=2))
    lora.train(settings(base_of("sd1"), pictures, outputs[1], class_prompt=None, steps=2))
    found, wanted = (load_file(output / "out.safetensors") for output in outputs)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in found)


def drawn_by_diffusers(base, seeds):
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(
        str(base), safety_checker=None, requires_safety_checker=False
    )
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    pipe.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return pipe([CLASS] * len(seeds), num_inference_steps=2, guidance_scale=7.5, eta=1.0, height=32, width=32,
                generator=generators).images  # fmt: skip


def shown(folder):
    return [np.asarray(Image.open(path)).astype(int) for path in sorted(folder.glob("*.png"))]


@pytest.mark.parametrize("trainer", [lora, dreambooth])
def test_the_frozen_base_draws_the_class_by_ancestral_sampling_before_anything_is_trained(
    base_of, pictures, tmp_path, trainer
):
    told = settings(base_of("sd1"), pictures, tmp_path, class_images=None, learning_rate=0.1, steps=2)
    if trainer is dreambooth:
        own = told.model_dump(include=set(DreamBoothSettings.model_fields), exclude={"layouts"})
        told = DreamBoothSettings(**own)
    trainer.train(told)
    seeds = [number(0, "class", index) & 0xFFFF_FFFF for index in range(2)]
    found = shown(tmp_path / "class")
    assert len(found) == 2
    for mine, theirs in zip(found, drawn_by_diffusers(base_of("sd1"), seeds), strict=True):
        assert np.abs(mine - np.asarray(theirs).astype(int)).max() <= 1


def test_pictures_of_the_class_are_used_again_only_if_they_were_drawn_alike(base_of, pictures, tmp_path):
    told = settings(base_of("sd1"), pictures, tmp_path, class_images=None)
    lora.train(told)
    first = tmp_path / "class" / "0000.png"
    Image.new("RGB", (32, 32), "red").save(first)
    lora.train(told, force=True)
    assert Image.open(first).getpixel((0, 0)) == (255, 0, 0)
    lora.train(told.model_copy(update={"class_prompt": "a painting of a cat"}), force=True)
    assert Image.open(first).getpixel((0, 0)) != (255, 0, 0)
    assert json.loads((tmp_path / "class" / "class.json").read_text())["prompt"] == "a painting of a cat"


def test_fewer_pictures_than_asked_for_are_refused_before_the_first_step(base_of, pictures, tmp_path):
    with pytest.raises(
        UsageError, match=r"4 pictures of the class, and 5 were asked for\nAdd some, or give --class-count 4"
    ):
        lora.train(settings(base_of("sd1"), pictures, tmp_path, class_count=5))
    assert not (tmp_path / "log.jsonl").exists()


def test_pictures_that_no_training_drew_are_not_replaced(base_of, pictures, tmp_path):
    shutil.copytree(pictures, tmp_path / "class")
    before = sorted((tmp_path / "class").iterdir())
    with pytest.raises(UsageError, match="holds what no training has drawn"):
        lora.train(settings(base_of("sd1"), pictures, tmp_path, class_images=None), force=True)
    assert sorted((tmp_path / "class").iterdir()) == before
