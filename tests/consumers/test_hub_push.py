"""What was pushed to the loopback Hub changes what diffusers generates exactly as the local file does.

The code that a card shows is what loads it: it is taken out of the card and executed, with one step for a picture.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import peft
import pytest
import torch
from safetensors.torch import save_file

import adapterhub
from tests.consumers.test_checkpoints import Saved, assert_same, saved_as
from tests.consumers.test_embeddings import FIXTURES, encoder, tokenizer, vae, words
from tests.hub.loopback import LoopbackHub, hub
from tests.operations.a1111_nets import hypernetwork

__all__ = ["hub", "saved_as", "words"]

BASE = "alice/tiny"
CALLED = (diffusers.StableDiffusionPipeline, diffusers.StableDiffusionXLPipeline)


def unet(width: int, **told: Any) -> torch.nn.Module:
    torch.manual_seed(1)
    return diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4, attention_head_dim=2,
        down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",), mid_block_type=None,
        cross_attention_dim=width, **told,
    )  # fmt: skip


def decoder() -> torch.nn.Module:
    torch.manual_seed(2)
    return vae()


@pytest.fixture
def sd1(words: Path) -> Any:
    noise = diffusers.DDIMScheduler(steps_offset=1, clip_sample=False)
    return diffusers.StableDiffusionPipeline(
        decoder(), encoder(768), tokenizer(words), unet(768), noise, None, None, requires_safety_checker=False
    )


@pytest.fixture
def sdxl(words: Path) -> Any:
    more = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 16 + 24,
    }
    return diffusers.StableDiffusionXLPipeline(
        decoder(), encoder(768), encoder(1280), tokenizer(words), tokenizer(words), unet(768 + 1280, **more),
        diffusers.DDIMScheduler(steps_offset=1, clip_sample=False), add_watermarker=False,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """One step from the same noise; and diffusers, which asks the environment when it is imported, is not offline."""
    monkeypatch.setattr("diffusers.loaders.lora_base.HF_HUB_OFFLINE", False)
    for pipeline in CALLED:
        monkeypatch.setattr(pipeline, "__call__", one_step(pipeline.__call__))


def one_step(call: Any) -> Any:
    @functools.wraps(call)
    def seeded(self: Any, prompt: str) -> Any:
        generator = torch.Generator().manual_seed(0)
        return call(self, prompt, num_inference_steps=1, output_type="np", generator=generator)

    return seeded


def published(hub: LoopbackHub, pipeline: Any, folder: Path) -> None:
    """The tiny pipeline as the base, a public repository."""
    pipeline.save_pretrained(folder / "base")
    files = [path for path in (folder / "base").rglob("*") if path.is_file()]
    hub.add(BASE, {path.relative_to(folder / "base").as_posix(): path.read_bytes() for path in files})


def shown(hub: LoopbackHub, repo: str) -> np.ndarray:
    """The picture that the card's own code makes."""
    card = hub.files(repo)["README.md"].decode()
    (snippet,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(snippet, repo, "exec"), names)
    return np.asarray(names["image"])


def drawn(pipeline: Any, prompt: str) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    return np.asarray(pipeline(prompt).images[0])


def lora(folder: Path) -> Path:
    head = "lora_te_text_model_encoder_layers_0_self_attn_"
    torch.manual_seed(3)
    tensors: dict[str, torch.Tensor] = {}
    for name in ("q_proj", "v_proj"):
        tensors[f"{head}{name}.lora_down.weight"] = torch.randn(4, 768)
        tensors[f"{head}{name}.lora_up.weight"] = torch.randn(768, 4)
        tensors[f"{head}{name}.alpha"] = torch.tensor(2.0)
    save_file(tensors, folder / "fox.safetensors")
    return folder / "fox.safetensors"


def test_a_lora_from_the_hub_draws_what_the_local_file_draws(hub: LoopbackHub, sd1: Any, tmp_path: Path) -> None:
    published(hub, sd1, tmp_path)
    adapterhub.push(lora(tmp_path), "alice/fox-lora", base_model=BASE, instance_prompt="a cat b")
    before = drawn(sd1, "a cat b")
    adapterhub.convert(tmp_path / "fox.safetensors", tmp_path / "local.safetensors", to="diffusers")
    sd1.load_lora_weights(str(tmp_path), weight_name="local.safetensors")
    local = drawn(sd1, "a cat b")
    found = shown(hub, "alice/fox-lora")
    assert np.array_equal(found, local)
    assert not np.allclose(found, before)


def test_a_lora_is_found_by_its_repository_alone(hub: LoopbackHub, sd1: Any, tmp_path: Path) -> None:
    adapterhub.push(lora(tmp_path), "alice/fox-lora", also=["kohya"])
    sd1.load_lora_weights("alice/fox-lora")
    assert len([name for name, _ in sd1.text_encoder.named_modules() if name.endswith("lora_A.default_0")]) == 2


@pytest.mark.parametrize("source", ["a1111/sd1.pt", "kohya/sd1-easy.safetensors"])
def test_an_embedding_from_the_hub_draws_what_the_local_file_draws(
    source: str, hub: LoopbackHub, sd1: Any, tmp_path: Path
) -> None:
    published(hub, sd1, tmp_path)
    done = adapterhub.push(FIXTURES / source, "alice/crane", base_model=BASE)
    (token,) = re.findall(r'pipeline\("(.*)"\)', done.card)
    before = drawn(sd1, token)
    adapterhub.convert(FIXTURES / source, tmp_path / "local.safetensors", to="diffusers")
    sd1.load_textual_inversion(str(tmp_path / "local.safetensors"))
    local = drawn(sd1, token)
    found = shown(hub, "alice/crane")
    assert np.array_equal(found, local)
    assert not np.allclose(found, before)


def test_both_files_of_an_embedding_for_sdxl_are_loaded(hub: LoopbackHub, sdxl: Any, tmp_path: Path) -> None:
    published(hub, sdxl, tmp_path)
    source = FIXTURES / "kohya/sdxl.safetensors"
    done = adapterhub.push(source, "alice/crane", base_model=BASE)
    (token,) = re.findall(r'pipeline\("(.*)"\)', done.card)
    before = drawn(sdxl, token)
    adapterhub.convert(source, tmp_path / "pair", to="diffusers")
    for end, part in (("", (sdxl.text_encoder, sdxl.tokenizer)), ("_2", (sdxl.text_encoder_2, sdxl.tokenizer_2))):
        sdxl.load_textual_inversion(
            str(tmp_path / "pair"),
            weight_name=f"learned_embeds{end}.safetensors",
            text_encoder=part[0],
            tokenizer=part[1],
        )
    local = drawn(sdxl, token)
    found = shown(hub, "alice/crane")
    assert np.array_equal(found, local)
    assert not np.allclose(found, before)


def test_a_peft_folder_goes_as_it_is(hub: LoopbackHub, sd1: Any, tmp_path: Path) -> None:
    published(hub, sd1, tmp_path)
    torch.manual_seed(3)
    before = drawn(sd1, "a photo")
    told = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(sd1.text_encoder, told)
    adapted.save_pretrained(tmp_path / "adapter")
    local = drawn(sd1, "a photo")
    adapterhub.push(tmp_path / "adapter", "alice/fox-peft", base_model=BASE)
    found = shown(hub, "alice/fox-peft")
    assert np.array_equal(found, local)
    assert not np.allclose(found, before)


def test_a_whole_model_is_the_same_pipeline(hub: LoopbackHub, saved_as: Any, tmp_path: Path) -> None:
    whole: Saved = saved_as("sd1")
    done = adapterhub.push(whole.folder, "alice/foxes", also=["single-file"])
    assert {"model_index.json", "theirs.safetensors"} <= {row.name for row in done.files}
    assert_same(diffusers.StableDiffusionPipeline.from_pretrained("alice/foxes"), whole)
    assert np.array_equal(shown(hub, "alice/foxes"), drawn(whole.pipeline, "a photo"))


def test_both_forms_of_a_hypernetwork_do_what_the_source_does(hub: LoopbackHub, tmp_path: Path) -> None:
    hypernetwork(tmp_path / "style.pt", [320, 768], [1, 2, 1])
    adapterhub.push(tmp_path / "style.pt", "alice/style")
    wanted = adapterhub.inspect(tmp_path / "style.pt", hash=True).fingerprint
    for name in ("style.pt", "style.safetensors"):
        (tmp_path / f"there-{name}").write_bytes(hub.files("alice/style")[name])
        assert adapterhub.inspect(tmp_path / f"there-{name}", hash=True).fingerprint == wanted
    card = hub.files("alice/style")["README.md"].decode()
    assert "library_name" not in card
    assert "```" not in card
