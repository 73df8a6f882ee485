"""The world that the trainers learn in: its captions tell the truth, its probe sees what is there, its base draws what is asked."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import adapterhub
from fixtures.learning import base, evaluate, models, scenes, thumbnail, words
from fixtures.learning.probe import Seen, look
from fixtures.learning.scenes import HUES, SHAPES, Array, Scene, turn

LEARNING = Path(__file__).parents[2] / "fixtures" / "learning"
BASE = LEARNING / "tiny-base"
WORLD = [scenes.scene(random) for random in [np.random.default_rng(3)] for _ in range(400)]


def drawn(views: list[Scene]) -> Array:
    return np.stack([scenes.draw(view) for view in views])


@pytest.fixture(scope="module")
def seen() -> Seen:
    return look(drawn(WORLD))


@pytest.fixture(scope="module")
def pipeline() -> Iterator[Any]:
    """The committed base, opened by diffusers without a network, on one thread."""

    def refuse(*address: object) -> None:
        raise AssertionError(f"a connection to {address[1:]}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        opened = diffusers.StableDiffusionPipeline.from_pretrained(str(BASE), dtype=torch.float32)
        opened.set_progress_bar_config(disable=True)
        yield opened


def through(pipeline: Any, pictures: Array) -> Array:
    """What the VAE makes of pictures."""
    inputs = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() * 2 - 1
    with torch.no_grad():
        out = pipeline.vae.decode(pipeline.vae.encode(inputs).latent_dist.mean).sample
    return np.asarray((out / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1), np.float64)


def off(found: Array, wanted: list[float]) -> Array:
    """Degrees between hues."""
    return np.abs(turn(found - np.array(wanted)))


def test_the_probe_sees_every_scene_as_it_is(seen: Seen) -> None:
    assert list(seen.shape) == [scene.shape for scene in WORLD]
    assert list(seen.background) == [scene.background for scene in WORLD]
    assert off(seen.hue, [scene.hue for scene in WORLD]).max() < 1
    assert list(np.isnan(seen.dot)) == [scene.dot is None for scene in WORLD]
    assert np.nanmax(off(seen.dot, [np.nan if scene.dot is None else scene.dot for scene in WORLD])) < 1
    assert np.abs(seen.x - [scene.x for scene in WORLD]).max() < 0.5
    assert np.abs(seen.radius / [scene.radius for scene in WORLD] - 1).max() < 0.05


def test_the_probe_knows_the_subject_from_all_else(seen: Seen) -> None:
    assert look(drawn(scenes.held_out(40))).subject.all()
    assert list(seen.subject) == [scenes.is_subject(scene) for scene in WORLD]
    near = [Scene("circle", 120, 32, 32, 14, "gray", scenes.ORANGE), Scene("circle", scenes.TEAL, 32, 32, 14, "gray")]
    near += [Scene("square", scenes.TEAL, 32, 32, 14, "gray", scenes.ORANGE)]
    assert not look(drawn(near)).subject.any()


@pytest.mark.parametrize("picture", [np.zeros((64, 64, 3)), np.indices((64, 64)).sum(0)[..., None].repeat(3, 2) % 2.0])
def test_the_probe_sees_nothing_where_there_is_nothing(picture: Array) -> None:
    assert list(look(picture[None]).shape) == [""]


def test_the_probe_sees_through_the_vae(pipeline: Any) -> None:
    found, views = look(through(pipeline, drawn(WORLD[:200]))), WORLD[:200]
    assert np.mean(found.shape == np.array([view.shape for view in views])) >= 0.98
    assert np.median(off(found.hue, [view.hue for view in views])) <= 5
    assert look(through(pipeline, drawn(scenes.held_out(60)))).subject.mean() >= 0.9


def test_captions_say_nothing_that_a_picture_does_not_show() -> None:
    random = np.random.default_rng(0)
    for scene in WORLD:
        first, *rest = scenes.caption(scene, random).split(" with a ")
        told = set(first.split()) | set(" ".join(rest).partition(" on ")[2].split())
        assert told & SHAPES.keys() <= {scene.shape}
        assert told & HUES.keys() <= {scenes.named(scene.hue)}
        assert told & scenes.BACKGROUNDS.keys() <= {scene.background}
        assert told & scenes.THINGS.keys() <= {scenes.thing_of(scene)}
        assert not rest or scene.dot is not None
        assert not rest or set(rest[0].partition(" on ")[0].split()) - {"dot"} <= {scenes.named(scene.dot)}


def test_one_caption_in_ten_is_empty_and_each_part_is_dropped_sometimes() -> None:
    random = np.random.default_rng(0)
    red = Scene("circle", 0, 32, 32, 12, "white", 120)
    captions = [scenes.caption(red, random) for _ in range(2000)]
    assert 0.08 < captions.count("") / 2000 < 0.12
    assert {"a photo of a circle", "a red circle with a green dot on white", "a circle with a dot"} <= set(captions)
    assert {word for caption in captions for word in caption.split()} >= set(scenes.RARE)


def test_the_subject_is_rare_in_the_world_and_has_no_name() -> None:
    random = np.random.default_rng(1)
    share = np.mean([scenes.is_subject(scenes.scene(random)) for _ in range(20_000)])
    assert 0 < share < 0.002
    assert (scenes.named(scenes.TEAL), scenes.named(scenes.ORANGE)) == (None, None)
    apart = [off(np.array(look), [scenes.TEAL, scenes.ORANGE]).max() for look in scenes.THINGS.values()]
    assert min(apart) >= 2 * scenes.ALIKE


def test_the_committed_views_are_what_the_script_draws(tmp_path: Path) -> None:
    scenes.write_views(tmp_path)
    names = [path.name for path in sorted(tmp_path.iterdir())]
    assert names == [f"view-{n}.{end}" for n in (1, 2, 3, 4) for end in ("png", "txt")]
    for name in names:
        if name.endswith(".txt"):
            assert (LEARNING / "subject" / name).read_text("utf-8") == (tmp_path / name).read_text("utf-8")
        else:
            kept, made = (np.asarray(Image.open(folder / name)) for folder in (LEARNING / "subject", tmp_path))
            assert np.array_equal(kept, made)


def test_every_word_of_the_world_is_one_token_and_rare_words_come_last(pipeline: Any) -> None:
    tokenizer = pipeline.tokenizer
    assert [tokenizer.tokenize(word) for word in words.COMMON] == [[f"{word}</w>"] for word in words.COMMON]
    rare = [tokenizer.convert_tokens_to_ids(tokenizer.tokenize(word)) for word in scenes.RARE]
    assert [len(numbers) for numbers in rare] == [1] * len(scenes.RARE)
    assert min(rare)[0] >= len(tokenizer) - 2 - 30
    assert len(tokenizer.tokenize("elephant")) > 1
    assert tokenizer.model_max_length == 77
    assert (LEARNING / "tiny-base/tokenizer/vocab.json").read_text("utf-8").startswith('{"!": 0')


def test_the_base_draws_what_a_caption_says(pipeline: Any) -> None:
    found = evaluate.accuracy(pipeline)
    assert min(found.values()) >= 0.95


def test_the_base_does_not_know_the_subject_and_its_circles_differ(pipeline: Any) -> None:
    found = evaluate.measure(pipeline, f"a photo of a {scenes.IDENTIFIER} circle", 12)
    assert (found.subject, found.leak) == (0, 0)
    assert found.diversity > 0.25
    assert found.others >= 0.9
    assert found.grid.size == (8 * 64, 3 * 64)


def test_what_is_sampled_depends_on_seed_and_number_alone(pipeline: Any) -> None:
    first, again = (evaluate.sample(pipeline, evaluate.CLASS, count) for count in (2, 3))
    assert np.abs(first - again[:2]).max() < 1e-3
    assert np.abs(first - evaluate.sample(pipeline, evaluate.CLASS, 2, seed=1)).max() > 0.1


def test_distances_are_those_of_pixels() -> None:
    views = drawn(scenes.held_out(3))
    assert evaluate.nearest(views).max() < 1e-12
    assert evaluate.nearest(views[:1] + 0.1)[0] == pytest.approx(0.01)
    assert evaluate.diversity(np.stack([np.zeros((64, 64, 3)), np.full((64, 64, 3), 0.5)])) == pytest.approx(0.5)


def test_the_base_is_an_sd1_that_becomes_a_single_file_and_back_bit_for_bit(tmp_path: Path) -> None:
    assert adapterhub.inspect(BASE).architecture == "sd1"
    one, back = tmp_path / "base.safetensors", tmp_path / "back"
    there = adapterhub.convert(BASE, one, to="single-file", verify=True)
    again = adapterhub.convert(one, back, to="diffusers", config=BASE, verify=True)
    assert [(done.exactness, done.max_error) for done in (there, again)] == [("bit-exact", 0.0)] * 2
    for file in sorted(BASE.rglob("*.safetensors")):
        kept, made = load_file(file), load_file(back / file.relative_to(BASE))
        assert kept.keys() == made.keys()
        assert all(torch.equal(kept[name], made[name]) for name in kept)


def test_the_base_is_valid_but_for_its_widths() -> None:
    assert [problem.code for problem in adapterhub.inspect(BASE).problems] == ["other-widths"]


def test_a_sampler_made_from_the_bases_scheduler_does_not_clip_latents(pipeline: Any) -> None:
    sampler = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config)
    told = {name: sampler.config[name] for name in ("clip_sample", "set_alpha_to_one", "steps_offset", "beta_schedule")}
    assert told == {
        "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1, "beta_schedule": "scaled_linear",
    }  # fmt: skip


def test_the_script_trains_a_base_of_the_same_names_and_widths(tmp_path: Path) -> None:
    recipe = base.Recipe(scenes=32, vae_steps=2, vae_batch=2, steps=2, prompts=2, each=2)
    models.save(base.train(recipe), tmp_path)
    for file in [path.relative_to(BASE) for path in BASE.rglob("*.safetensors")]:
        kept, made = load_file(BASE / file), load_file(tmp_path / file)
        assert {name: tensor.shape for name, tensor in kept.items()} == {
            name: tensor.shape for name, tensor in made.items()
        }
    for name in ("tokenizer/vocab.json", "tokenizer/merges.txt", "scheduler/scheduler_config.json"):
        assert (tmp_path / name).read_text("utf-8") == (BASE / name).read_text("utf-8")


def test_a_vae_begins_with_thumbnails_whose_hues_are_right() -> None:
    torch.manual_seed(0)
    vae = models.build().vae
    thumbnail.begin(vae)
    views = WORLD[:40]
    inputs = torch.from_numpy(drawn(views)).permute(0, 3, 1, 2).float() * 2 - 1
    with torch.no_grad():
        latents = vae.encode(inputs).latent_dist.mean
        out = (vae.decode(latents).sample / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    small = torch.nn.functional.avg_pool2d(inputs, 8)
    assert (
        min(float(torch.corrcoef(torch.stack([latents[:, c].ravel(), small[:, c].ravel()]))[0, 1]) for c in range(3))
        > 0.99
    )
    assert np.median(off(look(np.asarray(out, np.float64)).hue, [view.hue for view in views])) < 2


def test_the_base_is_small_and_in_half_precision() -> None:
    files = [path for path in BASE.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 2.9e6
    dtypes = {tensor.dtype for path in files if path.suffix == ".safetensors" for tensor in load_file(path).values()}
    assert dtypes == {torch.float16}
    assert json.loads((BASE / "scheduler/scheduler_config.json").read_text("utf-8"))["steps_offset"] == 1
