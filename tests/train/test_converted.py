"""What was trained draws the same pictures after a way through the layouts of other tools and back, and within them where diffusers reads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

import adapterhub
from adapterhub.hypernetworks import attach
from tests.train.steps import loaded
from tests.train.trainings import settings

Pipe = Any


class Way(NamedTuple):
    """The layouts on the way, each with the name of its file or folder, how diffusers takes one, and what the pictures are asked for with."""

    stations: tuple[tuple[str, str], ...]
    load: Callable[[Path, Path], Pipe]
    prompt: str
    changes: dict[str, Any]
    unread: tuple[str, ...] = ()


def with_word(base: Path, path: Path) -> Pipe:
    pipe = loaded(base)
    pipe.load_textual_inversion(str(path), token="<fox>")
    return pipe


def with_lora(base: Path, path: Path) -> Pipe:
    pipe = loaded(base)
    pipe.load_lora_weights(str(path))
    return pipe


def with_hypernetwork(base: Path, path: Path) -> Pipe:
    pipe = loaded(base)
    attach(pipe, path)
    return pipe


WAYS = {
    "textual_inversion": Way(
        (("a1111", "fox.pt"), ("kohya", "fox.safetensors"), ("a1111-image", "fox.png"), ("diffusers", "back.safetensors")),
        with_word, "a photo of <fox>", {"learning_rate": 0.5}, ("kohya", "a1111-image"),
    ),
    "lora": Way(
        (("diffusers", "diffusers.safetensors"), ("peft", "peft"), ("comfyui", "comfyui.safetensors"), ("kohya", "back.safetensors")),
        with_lora, "a photo of sks cat", {"learning_rate": 0.1, "alpha": 3.0, "text_targets": ("attention",)}, ("peft", "comfyui"),
    ),
    "dreambooth": Way(
        (("single-file", "fox.safetensors"), ("diffusers", "back")),
        lambda base, path: loaded(path), "a photo of sks cat", {"learning_rate": 1e-2, "text_encoder": True}, ("single-file",),
    ),
    "hypernetwork": Way(
        (("safetensors", "fox.safetensors"), ("a1111", "back.pt")),
        with_hypernetwork, "a photo of a cat", {"learning_rate": 0.05},
    ),
}  # fmt: skip


def drawn(pipe: Pipe, prompt: str) -> torch.Tensor:
    latents: torch.Tensor = pipe(prompt, num_inference_steps=2, height=32, width=32, output_type="latent",
                                 generator=torch.Generator().manual_seed(0)).images  # fmt: skip
    return latents


@pytest.mark.parametrize("technique", WAYS)
def test_the_same_is_drawn_in_other_layouts_and_back(base_of, pictures, tmp_path, technique):
    way, base = WAYS[technique], base_of("sd1")
    done = adapterhub.train(settings(technique, base, pictures, tmp_path / "fox", **way.changes))
    trained = here = Path(done.files[0].path)
    wanted = drawn(way.load(base, trained), way.prompt)
    plain = with_word(base, untrained(base, pictures, tmp_path)) if technique == "textual_inversion" else loaded(base)
    assert (drawn(plain, way.prompt) - wanted).abs().max() > 0.01
    (tmp_path / "way").mkdir()
    for layout, name in way.stations:
        target = tmp_path / "way" / name
        configured = {"config": base, "tokenizer": base} if target.name == "back" else {}  # of no published size
        report = adapterhub.convert(here, target, to=layout, **configured)
        assert report.exactness == "bit-exact", layout
        here = target
        if layout not in way.unread:
            torch.testing.assert_close(drawn(way.load(base, here), way.prompt), wanted, rtol=1e-5, atol=1e-5)
    assert here.name.startswith("back")
    assert adapterhub.diff(trained, here).max_error == 0


def untrained(base: Path, pictures: Path, folder: Path) -> Path:
    done = adapterhub.train(settings("textual_inversion", base, pictures, folder / "new", learning_rate=1e-12))
    return Path(done.files[0].path)
