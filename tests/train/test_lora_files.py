"""The files of a LoRA do, wherever they are loaded, what the layers did in training."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import peft
import pytest
import torch
from safetensors.torch import load_file

import adapterhub
from adapterhub import layouts
from adapterhub.adapter import Kind
from adapterhub.documents import LoraSettings, Training
from adapterhub.errors import LossyConversion
from adapterhub.train import lora, samples
from adapterhub.train.base import opened
from adapterhub.train.beginning import begun, subject
from adapterhub.train.loop import Loop
from adapterhub.train.results import Made, finish

FORMS: dict[str, dict[str, Any]] = {
    "plain": {"alpha": 3.0, "text_targets": ("attention",)},
    "rank stabilized": {"alpha": 3.0, "text_targets": ("attention",), "rank_stabilized": True},
    "by pattern": {"ranks": {"*.attn2.*": 3}, "alphas": {"*.to_v": 1.0}},
    "DoRA": {"alpha": 3.0, "dora": True},
    "convolutions": {"alpha": 3.0, "targets": ("attention", "convolutions")},
    "convolutions, DoRA": {"alpha": 3.0, "targets": ("attention", "convolutions"), "dora": True},
}
FOLDING = ("diffusers-attn-procs", "diffusers-lora-linear")
"""Layouts that have no place for α, so that α / r goes into a factor, rounded once."""
IDS = torch.tensor([[49406, 320, 1125, 539, 320, 2368, 49407]])
NOISE = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))


class Trained(NamedTuple):
    """What a training left, what the model predicted with its layers in place, and without them."""

    folder: Path
    report: Training
    predicted: torch.Tensor
    before: torch.Tensor


def predicted(unet: Any, encoder: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = unet(NOISE, torch.tensor([500]), encoder(IDS)[0]).sample
    return found


@pytest.fixture(scope="module")
def trained(base_of, pictures, tmp_path_factory) -> Callable[[str], Trained]:
    """A training in each of the forms, every step of it as `lora.train` has them."""

    @cache
    def make(form: str) -> Trained:
        folder = tmp_path_factory.mktemp("lora") / "fox"
        told = LoraSettings(base=str(base_of("sd1")), images=str(pictures), output=str(folder), prompt="a sks cat", rank=2, steps=3,
                            batch=2, resolution=32, sample_count=0, learning_rate=0.05, **FORMS[form])  # fmt: skip
        with begun(told) as accelerator, opened(told.base, lora.ARCHITECTURES) as base:
            before = predicted(base.unet, base.encoders["text_encoder"])
            layers = lora.attach(base, told)
            loop = Loop(told, base, [subject(told, base, ["a sks cat"])], accelerator)
            loop.run()
            after = predicted(base.unet.eval(), base.encoders["text_encoder"].eval())
            report = finish(Made("lora", loop, lora.adapter(base, layers), told.layouts, lora.facts(told)))
        assert (after - before).abs().max() > 0.05
        return Trained(folder, report, after, before)

    return make


def loaded(base: Path) -> Any:
    return diffusers.StableDiffusionPipeline.from_pretrained(
        str(base), safety_checker=None, requires_safety_checker=False
    )


@pytest.mark.parametrize(("form", "name"), [
    *((form, "fox-diffusers.safetensors") for form in FORMS),
    *((form, "fox.safetensors") for form in ("plain", "rank stabilized", "convolutions")),
])  # of Kohya's files diffusers reads neither DoRA nor α that differ aright: tests/consumers/test_readers_diffusers.py  # fmt: skip
def test_diffusers_predicts_with_the_file_what_training_did_and_with_scale_0_what_the_base_does(
    trained, base_of, form, name
):
    made, pipe = trained(form), loaded(base_of("sd1"))
    pipe.load_lora_weights(str(made.folder), weight_name=name, adapter_name="fox")
    torch.testing.assert_close(predicted(pipe.unet, pipe.text_encoder), made.predicted, rtol=1e-5, atol=1e-5)
    pipe.set_adapters("fox", 0.0)
    if "DoRA" not in form:
        torch.testing.assert_close(predicted(pipe.unet, pipe.text_encoder), made.before, rtol=1e-5, atol=1e-5)
    pipe.unload_lora_weights()
    torch.testing.assert_close(predicted(pipe.unet, pipe.text_encoder), made.before, rtol=0, atol=1e-6)


def test_what_is_odd_about_an_adapter_is_told_once_for_all_of_its_files(trained):
    told = trained("plain").report
    assert len(told.files) > 1
    assert "other-widths" in [problem.code for problem in told.problems]
    assert len(set(told.problems)) == len(told.problems)


def latents(pipe: Any) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    drawn: torch.Tensor = pipe("a sks cat", num_inference_steps=2, height=32, width=32, output_type="latent",
                               generator=torch.Generator().manual_seed(0)).images  # fmt: skip
    return drawn


@pytest.mark.parametrize("architecture", ["sd1", "sd2", "sdxl"])
def test_diffusers_draws_with_both_files_what_training_drew(base_of, pictures, tmp_path, architecture):
    told = LoraSettings(base=str(base_of(architecture)), images=str(pictures), output=str(tmp_path / "fox"), prompt="a sks cat", rank=2,
                        alpha=3, text_targets=("attention",), steps=2, batch=2, resolution=32, sample_count=0, learning_rate=0.05)  # fmt: skip
    with begun(told) as accelerator, opened(told.base, lora.ARCHITECTURES) as base:
        layers = lora.attach(base, told)
        loop = Loop(told, base, [subject(told, base, ["a sks cat"])], accelerator)
        loop.run()
        wanted = latents(samples.pipeline(base, told))
        finish(Made("lora", loop, lora.adapter(base, layers), told.layouts, lora.facts(told)))
    reader = diffusers.StableDiffusionXLPipeline if architecture == "sdxl" else diffusers.StableDiffusionPipeline
    for name in ("fox.safetensors", "fox-diffusers.safetensors"):
        pipe = reader.from_pretrained(told.base)
        pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
        before = latents(pipe)
        pipe.load_lora_weights(told.output, weight_name=name)
        assert (before - wanted).abs().max() > 0.01
        torch.testing.assert_close(latents(pipe), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_peft_predicts_the_same_with_its_own_folder(trained, base_of, tmp_path, form):
    made, pipe = trained(form), loaded(base_of("sd1"))
    adapterhub.convert(made.folder / "fox.safetensors", tmp_path / "peft", to="peft")
    parts = {part.name: part for part in (tmp_path / "peft").iterdir() if part.is_dir()} or {"unet": tmp_path / "peft"}
    models = {"unet": pipe.unet, "text_encoder": pipe.text_encoder}
    for part, folder in parts.items():
        models[part] = peft.PeftModel.from_pretrained(models[part], folder).eval().base_model.model
    torch.testing.assert_close(predicted(models["unet"], models["text_encoder"]), made.predicted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("form", "refused"), [
    ("plain", set()), ("rank stabilized", set()), ("by pattern", set()), ("DoRA", {"diffusers-lora-linear", "diffusers-attn-procs"}),
    ("convolutions", {"diffusers-attn-procs"}), ("convolutions, DoRA", {"diffusers-lora-linear", "diffusers-attn-procs"}),
])  # fmt: skip
def test_the_file_comes_back_from_every_layout_that_holds_it(trained, tmp_path, form, refused):
    source, lost = trained(form).folder / "fox.safetensors", set()
    for layout in (
        one.name for one in layouts.every(Kind.LORA) if one.writes and one.name != "cloneofsimo"
    ):  # which has no gaps
        there, back = tmp_path / layout / "there", tmp_path / layout / "back.safetensors"
        there.parent.mkdir()
        try:
            adapterhub.convert(source, there, to=layout)
        except LossyConversion:
            lost.add(layout)
            continue
        adapterhub.convert(there, back, to="kohya")
        found = adapterhub.diff(source, back)
        assert (layout, found.equal) == (layout, layout not in FOLDING)
        assert (found.max_error or 0.0) < 1e-6
    assert lost == refused


@pytest.mark.parametrize(
    ("form", "alphas"), [("plain", [3.0]), ("rank stabilized", [3 * 2**0.5]), ("by pattern", [1.0, 2.0, 3.0])]
)
def test_alpha_is_stored_as_readers_divide_it_by_the_rank(trained, form, alphas):
    tensors = load_file(trained(form).folder / "fox.safetensors")
    assert sorted({float(tensor) for name, tensor in tensors.items() if name.endswith(".alpha")}) == pytest.approx(
        alphas
    )
