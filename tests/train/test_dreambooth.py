"""DreamBooth: the base's folder with trained weights in it, and nothing else changed."""

import hashlib
import json
import resource
import shutil
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import adapterhub
from adapterhub import files
from adapterhub.documents import DreamBoothSettings
from adapterhub.errors import MachineFailure, MalformedFile, OutputExists, UsageError
from adapterhub.layouts.checkpoint.diffusers import FILES
from adapterhub.train import dreambooth
from adapterhub.train.samples import drawn, grid

UNET, TEXT = "unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"


def settings(base, pictures, output, **changes):
    told = {"base": str(base), "images": str(pictures), "output": str(output), "prompt": "a photo of a sks cat", "steps": 2, "batch": 2,
            "resolution": 32, "sample_count": 0, "sample_steps": 2, "learning_rate": 1e-3, **changes}  # fmt: skip
    return DreamBoothSettings(**told)


def tree(folder):
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(Path(folder).rglob("*")) if path.is_file()}  # fmt: skip


def metadata(path):
    with files.read(path) as package:
        return next(iter(package.files.values())).metadata


@pytest.fixture(scope="module")
def trained(base_of, pictures, tmp_path_factory):
    """A training of SD 1 in every form, and its report."""
    output = tmp_path_factory.mktemp("dreambooth") / "fox"
    told = settings(
        base_of("sd1"), pictures, output, layouts=("diffusers", "single-file"), extract_rank=2, sample_count=2
    )
    return output, dreambooth.train(told)


def test_all_of_the_unet_is_trained_and_every_other_file_is_the_bases(trained, base_of):
    found, base = tree(trained[0] / "fox"), tree(base_of("sd1"))
    assert found.keys() - base.keys() == {"adapterhub_aside.safetensors"}
    assert [name for name in base if found[name] != base[name]] == [UNET]
    after, before = (load_file(folder / UNET) for folder in (trained[0] / "fox", base_of("sd1")))
    assert after.keys() == before.keys()
    assert [
        name for name in before if torch.equal(after[name], before[name]) or after[name].dtype != before[name].dtype
    ] == []
    assert trained[1].trained == sum(tensor.numel() for tensor in before.values())


def test_diffusers_draws_with_the_folder_what_training_ended_with(trained, tmp_path):
    output, report = trained
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(
        str(output / "fox"), safety_checker=None, requires_safety_checker=False
    )
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    row = drawn(pipe, ["a photo of sks cat"] * 2, [0, 1], steps=2, guidance=7.5, side=32)
    theirs = np.asarray(Image.open(grid([("a photo of sks cat", row)], tmp_path / "grid.png"))).astype(int)
    mine = np.asarray(Image.open(report.samples[0])).astype(int)
    assert np.abs(mine - theirs).max() <= 1


def test_the_single_file_is_the_same_model_and_says_how_it_was_made(trained, base_of):
    output, report = trained
    prints = {adapterhub.inspect(output / name, hash=True).fingerprint for name in ("fox", "fox.safetensors")}
    assert len(prints) == 1
    assert prints != {adapterhub.inspect(base_of("sd1"), hash=True).fingerprint}
    for fields in (metadata(output / "fox.safetensors"), metadata(output / "fox" / "adapterhub_aside.safetensors")):
        recipe, told = json.loads(fields["adapterhub.recipe"]), json.loads(fields["adapterhub.training"])
        assert (recipe["command"], recipe["inputs"][0]["sha256"]) == (
            "train dreambooth",
            report.recipe.inputs[0].sha256,
        )
        assert (told["technique"], told["data"]["subject"]["pictures"]) == ("dreambooth", 4)
        assert str(base_of("sd1")) not in json.dumps(dict(fields))
        assert fields["modelspec.architecture"] == "stable-diffusion-v1"
    assert metadata(output / "fox.safetensors")["modelspec.prediction_type"] == "epsilon"


def test_the_extracted_lora_is_what_extract_makes_of_the_two_models(trained, base_of, tmp_path):
    output, report = trained
    adapterhub.extract(output / "fox", base_of("sd1"), tmp_path / "own.safetensors", rank=2)
    mine, theirs = load_file(output / "fox-lora.safetensors"), load_file(tmp_path / "own.safetensors")
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert [(Path(one.path).name, one.layout) for one in report.files] == [
        ("fox", "diffusers"), ("fox.safetensors", "single-file"), ("fox-lora.safetensors", "kohya")]  # fmt: skip


@pytest.mark.parametrize("architecture", ["sd1", "sd2", "sdxl"])
def test_text_encoders_are_trained_on_request_as_far_as_the_unet_sees_them(base_of, pictures, tmp_path, architecture):
    base = base_of(architecture)
    dreambooth.train(
        settings(base, pictures, tmp_path / "fox", text_encoder=True, class_prompt="a cat", class_count=1, steps=1)
    )
    encoders = [name for name in FILES if name.startswith("text") and (base / name).is_dir()]
    unseen = ("layers.11.", "final_layer_norm.") if architecture == "sdxl" else ()
    for name in encoders:
        after, before = (load_file(folder / FILES[name]) for folder in (tmp_path / "fox" / "fox", base))
        assert after.keys() == before.keys()
        felt = [
            weight for weight in before if "k_proj.bias" not in weight
        ]  # softmax ignores what all keys have in common
        hidden = [weight for weight in felt if name == "text_encoder" and any(part in weight for part in unseen)]
        assert [weight for weight in felt if torch.equal(after[weight], before[weight])] == hidden
    changed = {name for name, digest in tree(tmp_path / "fox" / "fox").items() if tree(base).get(name) != digest}
    assert changed == {UNET, *(FILES[name] for name in encoders), "adapterhub_aside.safetensors"}


@pytest.fixture(scope="module")
def half(base_of, tmp_path_factory):
    """The tiny SD 1 in float16."""
    folder = tmp_path_factory.mktemp("half") / "base"
    shutil.copytree(base_of("sd1"), folder)
    for path in folder.rglob("*.safetensors"):
        save_file({name: tensor.half() for name, tensor in load_file(path).items()}, path, {"format": "pt"})
    return folder


@pytest.mark.parametrize(("dtype", "stored", "told"), [(None, torch.float16, ["cast"]), ("bf16", torch.bfloat16, ["cast"]),
                                                       ("fp32", torch.float32, [])])  # fmt: skip
def test_trained_weights_have_the_dtype_of_the_base_or_the_one_asked_for(half, pictures, tmp_path, dtype, stored, told):
    done = dreambooth.train(settings(half, pictures, tmp_path / "fox", dtype=dtype, steps=1))
    assert {tensor.dtype for tensor in load_file(tmp_path / "fox" / "fox" / UNET).values()} == {stored}
    assert {tensor.dtype for tensor in load_file(tmp_path / "fox" / "fox" / TEXT).values()} == {torch.float16}
    assert [problem.code for problem in done.problems if problem.code.startswith("cast")] == told


def test_a_single_file_alone_leaves_no_folder(base_of, pictures, tmp_path):
    dreambooth.train(settings(base_of("sd1"), pictures, tmp_path / "fox", layouts=("single-file",), steps=1))
    assert sorted(path.name for path in (tmp_path / "fox").iterdir()) == [
        "config.toml",
        "fox.safetensors",
        "log.jsonl",
        "loss.png",
    ]


def test_the_scheduler_says_what_the_model_was_trained_to_predict(base_of, pictures, tmp_path):
    told = settings(
        base_of("sd1"), pictures, tmp_path / "fox", prediction="v_prediction", zero_terminal_snr=True, steps=1
    )
    dreambooth.train(told)
    name = "scheduler/scheduler_config.json"
    after, before = (json.loads((folder / name).read_text()) for folder in (tmp_path / "fox" / "fox", base_of("sd1")))
    assert after == before | {
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
    }


def test_a_run_that_was_killed_and_resumed_ends_with_the_same_bytes(base_of, pictures, tmp_path):
    class Killed(BaseException):
        pass

    def kill(done):
        if done.step == 3:
            raise Killed

    more = {"class_prompt": "a cat", "class_count": 2, "steps": 4, "text_encoder": True, "save_every": 2}
    dreambooth.train(settings(base_of("sd1"), pictures, tmp_path / "whole" / "fox", **more))
    cut = settings(base_of("sd1"), pictures, tmp_path / "cut" / "fox", **more)
    with pytest.raises(Killed):
        dreambooth.train(cut, watch=kill)
    assert not (tmp_path / "cut" / "fox" / "fox").exists()
    dreambooth.train(cut, resume=True)
    whole, resumed = tree(tmp_path / "whole" / "fox"), tree(tmp_path / "cut" / "fox")
    assert whole.pop("config.toml") != resumed.pop("config.toml")  # of another output
    assert whole == resumed


def test_a_full_disk_leaves_no_half_of_a_model(base_of, pictures, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, limits[1]))
    try:
        with pytest.raises(MachineFailure, match=r"cannot write .*fox"):
            dreambooth.train(settings(base_of("sd1"), pictures, tmp_path / "fox", steps=1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(path.name for path in (tmp_path / "fox").iterdir()) == ["config.toml", "log.jsonl"]


def test_what_is_no_model_is_not_replaced_by_one(base_of, pictures, tmp_path):
    shutil.copytree(pictures, tmp_path / "fox" / "fox")
    before = tree(tmp_path)
    with pytest.raises(UsageError, match="is no model, and is not replaced by one"):
        dreambooth.train(settings(base_of("sd1"), pictures, tmp_path / "fox"), force=True)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["base", "images"])
def test_what_is_read_does_not_lie_where_results_go(base_of, pictures, tmp_path, name):
    shutil.copytree({"base": base_of("sd1"), "images": pictures}[name], tmp_path / "fox" / "mine")
    before = tree(tmp_path)
    told = settings(base_of("sd1"), pictures, tmp_path / "fox").model_copy(
        update={name: str(tmp_path / "fox" / "mine")}
    )
    with pytest.raises(UsageError, match=f"{name} lies in .*where results take the place"):
        dreambooth.train(told, force=True)
    assert tree(tmp_path) == before


def test_a_base_that_links_to_files_outside_of_it_is_refused_before_the_first_step(base_of, pictures, tmp_path):
    shutil.copytree(base_of("sd1"), tmp_path / "base")
    (tmp_path / "secret").write_text("not of the base")
    (tmp_path / "base" / "scheduler" / "notes.json").symlink_to(tmp_path / "secret")
    with pytest.raises(MalformedFile, match="is a link out of the folder"):
        dreambooth.train(settings(tmp_path / "base", pictures, tmp_path / "fox"))
    assert not (tmp_path / "fox" / "log.jsonl").exists()


def test_a_result_is_replaced_only_by_force(base_of, pictures, tmp_path):
    told = settings(base_of("sd1"), pictures, tmp_path / "fox", steps=1)
    dreambooth.train(told)
    first = tree(tmp_path / "fox" / "fox")[UNET]
    with pytest.raises(OutputExists):
        dreambooth.train(told)
    dreambooth.train(told.model_copy(update={"seed": 1}), force=True)
    assert tree(tmp_path / "fox" / "fox")[UNET] != first


def test_a_base_whose_weights_are_of_a_variant_alone_is_opened(half, pictures, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(half, base)
    for path in base.rglob("*.safetensors"):
        path.rename(path.with_name(path.name.replace(".safetensors", ".fp16.safetensors")))
    assert dreambooth.train(settings(base, pictures, tmp_path / "fox", steps=1)).steps == 1
    assert {tensor.dtype for tensor in load_file(tmp_path / "fox" / "fox" / UNET).values()} == {torch.float16}
