"""The mechanics of every trainer: what is drawn, and that a run is a function of its settings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from safetensors.torch import load_file

from adapterhub import train
from adapterhub.errors import UsageError
from adapterhub.train.base import opened
from adapterhub.train.beginning import begun, subject
from adapterhub.train.loop import Loop
from adapterhub.train.lora import attach
from adapterhub.train.randomness import generator
from tests.train.trainings import BUSY, PRIOR, TECHNIQUES, digests, settings

BaseOf = Callable[[str], Path]


def trained(technique: str, base: Path, images: Path, folder: Path, **changes: Any) -> dict[str, str]:
    train.run(settings(technique, base, images, folder, **changes))
    return digests(folder)


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_the_same_seed_gives_the_same_files_and_another_gives_others(
    technique: str, base_of: BaseOf, pictures: Path, tmp_path: Path
) -> None:
    first = trained(technique, base_of("sd1"), pictures, tmp_path / "a" / "fox", **BUSY)
    again = trained(technique, base_of("sd1"), pictures, tmp_path / "b" / "fox", **BUSY)
    other = trained(technique, base_of("sd1"), pictures, tmp_path / "c" / "fox", **BUSY, seed=4)
    assert first == again
    assert first.keys() == other.keys()
    assert not {*first.values()} <= {*other.values()}
    assert losses(tmp_path / "a" / "fox") == losses(tmp_path / "b" / "fox")


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_micro_batches_change_nothing_but_the_rounding_of_sums(
    technique: str, base_of: BaseOf, pictures: Path, tmp_path: Path
) -> None:
    own = {**BUSY, **(PRIOR if technique in ("lora", "dreambooth") else {})}
    for size in (1, 3, 4):
        train.run(settings(technique, base_of("sd1"), pictures, tmp_path / f"{size}" / "fox", micro_batch=size, **own))
    whole = losses(tmp_path / "4" / "fox")
    assert losses(tmp_path / "1" / "fox") == pytest.approx(whole, abs=1e-5)
    assert losses(tmp_path / "3" / "fox") == pytest.approx(whole, abs=1e-5)


def difference(one: Path, other: Path) -> float:
    """How far the numbers of two safetensors files are apart, at most."""
    first, second = load_file(one), load_file(other)
    assert first.keys() == second.keys()
    return max(float((first[name].float() - second[name].float()).abs().max()) for name in first) if first else 0.0


def test_micro_batches_end_with_the_same_parameters(base_of: BaseOf, pictures: Path, tmp_path: Path) -> None:
    for size in (1, 4):
        trained("lora", base_of("sd1"), pictures, tmp_path / f"{size}" / "fox", micro_batch=size, learning_rate=1e-3,
                text_targets=("attention",), **BUSY)  # fmt: skip
    files = [tmp_path / size / "fox" / "fox.safetensors" for size in ("1", "4")]
    assert difference(*files) < 1e-3
    assert max(float(one.abs().max()) for name, one in load_file(files[0]).items() if "lora_up" in name) > 1e-3


HALVES = {"bf16": {"precision": "bf16"}, "checkpointing": {"gradient_checkpointing": True},
          "bf16, checkpointing": {"precision": "bf16", "gradient_checkpointing": True}}  # fmt: skip


@pytest.mark.parametrize(
    ("architecture", "name"), [*(("sd1", name) for name in HALVES), ("sdxl", "bf16, checkpointing")]
)
def test_less_precision_and_less_memory_give_the_same_losses(
    architecture: str, name: str, base_of: BaseOf, pictures: Path, tmp_path: Path
) -> None:
    for place, changes in (("plain", {}), ("other", HALVES[name])):
        train.run(
            settings("lora", base_of(architecture), pictures, tmp_path / place, text_targets=("attention",), **changes)
        )
    near = 0.02 if "bf16" in name else 1e-5
    assert losses(tmp_path / "other") == pytest.approx(losses(tmp_path / "plain"), rel=near)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_fp16_is_refused_where_there_is_no_gpu(base_of: BaseOf, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="fp16 takes a GPU"):
        train.run(settings("lora", base_of("sd1"), pictures, tmp_path / "half", precision="fp16"))
    assert not (tmp_path / "half").exists()


def looped(base: Path, images: Path, folder: Path, look: Callable[[Loop], None], **changes: Any) -> None:
    """A LoRA's loop before its first step."""
    told = settings("lora", base, images, folder, **changes)
    with begun(told) as accelerator, opened(told.base, ("sd1", "sd2", "sdxl")) as model:
        concept = subject(told, model, ["a cat"])
        attach(model, told)
        loop = Loop(told, model, [concept], accelerator)
        loop._prepare()
        look(loop)


def test_the_gradient_is_that_of_finite_differences(base_of: BaseOf, pictures: Path, tmp_path: Path) -> None:
    def look(loop: Loop) -> None:
        loop.denoiser.double()
        batch = loop._batch([*loop.concepts[0].draws(loop.sampling, 0)])
        batch = batch._replace(latents=batch.latents.double(), noise=batch.noise.double(),
                               condition=batch.condition._replace(states=batch.condition.states.double()))  # fmt: skip
        loop.objective = loop.denoiser.objective

        def loss() -> torch.Tensor:
            kept, lost = loop.objective._roots(batch.t, 4)
            noised = kept.double() * batch.latents + lost.double() * batch.noise
            predicted = loop.base.unet(noised, batch.t, batch.condition.states, return_dict=False)[0]
            return (predicted - batch.noise).square().mean()

        name, up = next((name, one) for name, one in loop.parameters.items() if name.endswith("attn2.to_v.up"))
        loss().backward()
        found = up.grad[0, 0].item()
        values = []
        for change in (1e-4, -2e-4):
            with torch.no_grad():
                up[0, 0] += change
                values.append(loss().item())
        assert found == pytest.approx((values[0] - values[1]) / 2e-4, rel=1e-5)
        assert abs(found) > 1e-9, name

    looped(base_of("sd1"), pictures, tmp_path / "out", look)


@pytest.mark.parametrize("velocity", [False, True])
def test_min_snr_is_that_of_diffusers_and_of_hand_numbers(velocity: bool) -> None:
    from adapterhub.train.objective import Objective

    scheduler = DDPMScheduler(1000, 0.00085, 0.012, "scaled_linear")
    objective = Objective(scheduler.alphas_cumprod.float(), velocity, 5.0)
    t = torch.tensor([0, 10, 250, 600, 999])
    snr = compute_snr(scheduler, t)
    expected = snr.clamp_max(5.0) / (snr + 1 if velocity else snr)
    assert torch.allclose(objective.weights(t), expected, rtol=1e-4)
    hand = Objective(torch.tensor([0.5, 0.9]), velocity, 5.0)  # SNR 1 and 9
    assert hand.weights(torch.tensor([0, 1])).tolist() == pytest.approx([0.5, 0.5] if velocity else [1.0, 5 / 9])


def test_a_schedule_ends_in_noise_alone_as_diffusers_makes_it() -> None:
    from diffusers.schedulers.scheduling_ddpm import rescale_zero_terminal_snr

    from adapterhub.train.objective import with_zero_terminal_snr

    scheduler = DDPMScheduler(1000, 0.00085, 0.012, "scaled_linear")
    expected = (1 - rescale_zero_terminal_snr(scheduler.betas)).cumprod(0)
    found = with_zero_terminal_snr(scheduler.alphas_cumprod)
    assert torch.allclose(found, expected, atol=1e-6)
    assert found[-1] == 0
    assert found[0] == pytest.approx(scheduler.alphas_cumprod[0].item())


def test_a_step_draws_what_its_settings_say(base_of: BaseOf, pictures: Path, tmp_path: Path) -> None:
    def look(loop: Loop) -> None:
        drawn = [draw for step in range(40) for draw in loop.concepts[0].draws(loop.sampling, step)]
        assert [sorted(draw.picture for draw in drawn[at : at + 4]) for at in (0, 4, 8)] == [[0, 1, 2, 3]] * 3
        assert {tuple(draw.picture for draw in drawn[at : at + 4]) for at in range(0, 160, 4)}.__len__() > 5
        assert 50 < sum(draw.flipped for draw in drawn) < 110
        assert 25 < sum(not draw.caption for draw in drawn) < 75
        assert len({draw.where for draw in drawn}) == 160
        assert {*range(0, 1000, 100)} <= {draw.t // 100 * 100 for draw in drawn}
        noise = torch.stack([draw.noise for draw in drawn])
        plain = torch.randn(2, 4, *loop.sampling.shape, generator=generator(3, "subject/noise", 0))[1]
        offset = noise[:4] - plain
        assert torch.allclose(offset, offset[..., :1, :1].expand_as(offset), atol=1e-6)
        assert offset.std() == pytest.approx(0.1, rel=0.6)

    looped(base_of("sd1"), pictures, tmp_path / "out", look, **BUSY)


def test_a_flipped_picture_is_encoded_mirrored_and_a_crop_is_where_it_was_drawn(
    base_of: BaseOf, pictures: Path, tmp_path: Path
) -> None:
    def look(loop: Loop) -> None:
        concept = loop.concepts[0]
        draw = next(concept.draws(loop.sampling, 0))._replace(picture=3, where=0.25, flipped=False)
        seen: list[torch.Tensor] = []
        encode = loop.base.vae.encode
        loop.base.vae.encode = lambda pixels: seen.append(pixels) or encode(pixels)
        for flipped in (False, True):
            concept.latents(draw._replace(flipped=flipped), loop.encoder)
        assert torch.equal(seen[0].flip(-1), seen[1])
        width = concept.pictures[3].image.width
        left = round((width - 32) * 0.25)
        assert concept.sizes(draw, 32) == (40, 56, 0, left, 32, 32)
        assert concept.sizes(draw._replace(flipped=True), 32) == (40, 56, 0, width - 32 - left, 32, 32)

    looped(base_of("sdxl"), pictures, tmp_path / "out", look, crop="random", flip=True)


def test_a_model_that_predicts_v_is_trained_on_v(base_of: BaseOf, pictures: Path, tmp_path: Path) -> None:
    def look(loop: Loop) -> None:
        batch = loop._batch([*loop.concepts[0].draws(loop.sampling, 0)])
        kept = loop.base.scheduler.alphas_cumprod[batch.t].reshape(-1, 1, 1, 1)
        noised = kept.sqrt() * batch.latents + (1 - kept).sqrt() * batch.noise
        v = kept.sqrt() * batch.noise - (1 - kept).sqrt() * batch.latents
        with torch.no_grad():
            predicted = loop.base.unet(noised, batch.t, batch.condition.states, return_dict=False)[0]
            found = loop.denoiser(batch)
        assert torch.allclose(found, (predicted - v).square().flatten(1).mean(1), rtol=1e-5)

    looped(base_of("sd2"), pictures, tmp_path / "out", look, prediction="v_prediction")


def test_the_conditions_that_are_kept_are_bounded(
    base_of: BaseOf, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapterhub.train.loop._CONDITIONS", 2)

    def look(loop: Loop) -> None:
        first = loop._known(["a", "b", "c"])
        assert [*loop._conditions] == ["b", "c"]
        assert torch.equal(loop._known(["a", "b", "c"]).states, first.states)

    looped(base_of("sd1"), pictures, tmp_path / "out", look)
