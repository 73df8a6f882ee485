"""What ends a training with a reason: numbers that are none, optimizers that are none, settings that do not fit the base."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from adapterhub import train
from adapterhub.errors import RefusedInput, UsageError
from tests.train.test_loop import losses
from tests.train.trainings import settings

BaseOf = Callable[[str], Path]
UNET, VAE = "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"


def changed(base: Path, folder: Path, file: str, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    """A copy of a base with other weights."""
    shutil.copytree(base, folder)
    weights = load_file(folder / file)
    change(weights)
    save_file(weights, folder / file, {"format": "pt"})
    return folder


def nowhere(name: str) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(weights: dict[str, torch.Tensor]) -> None:
        weights[name].view(-1)[0] = torch.nan

    return change


@pytest.mark.parametrize(
    ("file", "name", "said"),
    [(UNET, "conv_in.weight", "unet.conv_in.weight"), (VAE, "encoder.conv_in.weight", "vae.encoder.conv_in.weight")],
)
def test_a_base_with_weights_that_are_no_numbers_is_named_at_the_first_step(
    file: str, name: str, said: str, base_of: BaseOf, pictures: Path, tmp_path: Path
) -> None:
    base = changed(base_of("sd1"), tmp_path / "base", file, nowhere(name))
    with pytest.raises(RefusedInput, match=f"step 1: the loss is not a finite number: {said}, a base weight") as raised:
        train.run(settings("lora", base, pictures, tmp_path / "fox"))
    assert "No state was saved" in str(raised.value.mend)


def test_what_is_trained_becoming_no_numbers_stops_with_the_step_and_keeps_the_state(
    base_of: BaseOf, pictures: Path, tmp_path: Path
) -> None:
    with pytest.raises(RefusedInput, match=r"step \d: the (loss|gradient) is not a finite number") as raised:
        train.run(
            settings(
                "lora", base_of("sd1"), pictures, tmp_path / "fox", learning_rate=1e25, save_every=1, max_grad_norm=0
            )
        )
    assert "Lower --learning-rate." in str(raised.value.mend)
    assert "The last state in the output's folder is from before this." in str(raised.value.mend)
    (state,) = (tmp_path / "fox").glob("state-*")
    assert int(state.name.removeprefix("state-")) == len(losses(tmp_path / "fox"))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no module": ({"optimizer": "nowhere.at_all:Adam"}, "No module named"),
    "no class": ({"optimizer": "torch.optim:Nothing"}, "no attribute 'Nothing'"),
    "no optimizer": ({"optimizer": "collections:OrderedDict"}, "cannot be made"),
    "another option": ({"optimizer_options": {"speed": 1}}, "unexpected keyword argument 'speed'"),
    "a closure": ({"optimizer": "torch.optim:LBFGS"}, "again and again"),
    "schedule": ({"schedule": "polynomial", "learning_rate": 1e-9}, "schedule polynomial cannot be made"),
    "noise alone": ({"zero_terminal_snr": True}, "for models that predict v"),
    "resolution": ({"resolution": 33}, "multiple of 8"),
    "layout": ({"layouts": ("tiktok",)}, "unknown layout 'tiktok'"),
    "tracker": ({"trackers": ("wandb",)}, "wandb is not installed"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_settings_that_cannot_be_carried_out_are_refused_before_the_first_step(
    name: str, base_of: BaseOf, pictures: Path, tmp_path: Path
) -> None:
    changes, said = REFUSED[name]
    if name == "tracker" and find_spec("wandb"):
        pytest.skip("wandb is installed")
    with pytest.raises((UsageError, RefusedInput)) as raised:
        train.run(settings("lora", base_of("sd1"), pictures, tmp_path / "fox", **changes))
    assert said in str(raised.value)
    assert not (tmp_path / "fox").exists()


def test_a_model_of_nine_channels_is_refused(base_of: BaseOf, pictures: Path, tmp_path: Path) -> None:
    def widen(weights: dict[str, torch.Tensor]) -> None:
        weights["conv_in.weight"] = weights["conv_in.weight"].repeat(1, 3, 1, 1)[:, :9].contiguous()

    base = changed(base_of("sd1"), tmp_path / "base", UNET, widen)
    config = json.loads((base / "unet/config.json").read_text())
    (base / "unet/config.json").write_text(json.dumps(config | {"in_channels": 9}))
    with pytest.raises(RefusedInput, match="takes 9 channels, and a latent has 4"):
        train.run(settings("lora", base, pictures, tmp_path / "fox"))


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant_with_warmup", "cosine_with_restarts", "polynomial"])
def test_the_learning_rate_goes_on_as_its_schedule_says(
    schedule: str, base_of: BaseOf, pictures: Path, tmp_path: Path
) -> None:
    train.run(
        settings(
            "lora",
            base_of("sd1"),
            pictures,
            tmp_path / "fox",
            schedule=schedule,
            warmup=2,
            batch=1,
            optimizer="torch.optim:SGD",
            optimizer_options={"momentum": 0.9},
        )
    )
    rates = [json.loads(line)["learning_rate"] for line in (tmp_path / "fox" / "log.jsonl").read_text().splitlines()]
    assert rates[:2] == pytest.approx([0.005, 0.01])  # after the step: what the next one has
    if schedule == "constant_with_warmup":
        assert rates[2:] == pytest.approx([0.01, 0.01])
    else:
        assert rates[2] == pytest.approx(0.005, rel=1e-4)
        assert rates[3] == pytest.approx(0, abs=2e-7)


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_trackers_are_told_of_losses(base_of: BaseOf, pictures: Path, tmp_path: Path) -> None:
    train.run(settings("lora", base_of("sd1"), pictures, tmp_path / "fox", trackers=("tensorboard",)))
    assert [*(tmp_path / "fox").rglob("events.out.tfevents.*")]
