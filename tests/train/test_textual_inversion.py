"""Textual Inversion: nothing but the new vectors moves, and every reader finds in the files what was trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers.loaders import TextualInversionLoaderMixin
from pydantic import ValidationError
from safetensors.torch import load_file

import adapterhub
from adapterhub.adapter import Kind, Role
from adapterhub.documents import TextualInversionSettings
from adapterhub.errors import AdapterhubError, RefusedInput, UnknownName, UsageError
from adapterhub.operations.lora import deltas
from adapterhub.operations.source import open_adapter
from adapterhub.train import samples
from adapterhub.train import textual_inversion as trainer
from adapterhub.train.base import opened
from adapterhub.train.beginning import begun
from adapterhub.train.conditioning import Conditioner
from adapterhub.train.loop import Loop
from tests.train.steps import SHORT, digests, killed_and_resumed, loaded, same_pictures

WIDTHS = {"sd1": {"text_encoder": 8}, "sd2": {"text_encoder": 8}, "sdxl": {"text_encoder": 8, "text_encoder_2": 16}}
FILES = {
    "sd1": {"diffusers": "fox.safetensors", "a1111": "fox.pt", "kohya": "fox-kohya.safetensors"},
    "sd2": {"diffusers": "fox.safetensors", "a1111": "fox.pt", "kohya": "fox-kohya.safetensors"},
    "sdxl": {"kohya": "fox.safetensors", "diffusers": "fox-diffusers"},
}


@pytest.fixture
def settings(base_of, pictures, tmp_path):
    """The settings of a short training of an architecture."""

    def make(name="sd1", **told):
        fields = {**SHORT, "base": str(base_of(name)), "images": str(pictures), "output": str(tmp_path / "out"), "captions": False,
                  "token": "<fox>", "initial_words": "animal", "vectors": 3}  # fmt: skip
        return TextualInversionSettings(**{**fields, **told})

    return make


@pytest.mark.parametrize(("name", "keep_norm"), [("sd1", False), ("sd1", True), ("sd2", False), ("sdxl", True)])
def test_only_the_new_vectors_move_whatever_decays(settings, name, keep_norm):
    told = settings(name, keep_norm=keep_norm, optimizer_options={"weight_decay": 0.5})
    with begun(told) as accelerator, opened(told.base, trainer.ARCHITECTURES) as base:
        before = digests(base)
        words = trainer.attach(base, told)
        first = {part: word.vectors.detach().clone() for part, word in words.items()}
        after = (lambda: [word.keep_norm() for word in words.values()]) if keep_norm else None
        loop = Loop(told, base, [trainer.subject(told, base)], accelerator, after=after)
        loop.run()
        assert digests(base, without="vectors") == before
        assert {part: tuple(word.vectors.shape) for part, word in words.items()} == {
            part: (3, width) for part, width in WIDTHS[name].items()
        }
        for part, word in words.items():
            assert (word.vectors != first[part]).any(dim=1).all()
            usual = word.table.weight.norm(dim=1).median()
            assert torch.allclose(word.vectors.norm(dim=1), usual.expand(3), rtol=1e-6) == keep_norm
    remembered = loop.optimizer.state_dict()["state"].values()
    wanted = 3 * sum(WIDTHS[name].values())
    assert loop.trained == wanted
    assert sum(one["exp_avg_sq"].numel() for one in remembered) == wanted


def test_vectors_are_float32_while_the_rest_is_half(settings):
    told = settings(precision="bf16", gradient_checkpointing=True)
    with begun(told) as accelerator, opened(told.base, trainer.ARCHITECTURES) as base:
        word = trainer.attach(base, told)["text_encoder"]
        first = word.vectors.detach().clone()
        Loop(told, base, [trainer.subject(told, base)], accelerator).run()
        assert (word.vectors.dtype, word.table.weight.dtype, base.unet.dtype) == (
            torch.float32,
            torch.bfloat16,
            torch.bfloat16,
        )
        assert (word.vectors != first).any(dim=1).all()


@pytest.mark.parametrize("name", WIDTHS)
def test_every_layout_holds_the_same_bits_there_and_back(settings, name, tmp_path):
    done = trainer.train(settings(name))
    assert {file.layout: Path(file.path).name for file in done.files} == FILES[name]
    assert [problem for problem in done.problems if problem.severity == "error"] == []
    wanted = held(Path(done.files[0].path), name)
    assert {component: tuple(value.shape) for component, value in wanted.items()} == {
        part: (3, width) for part, width in WIDTHS[name].items()
    }
    for file in done.files:
        for layout in FILES[name]:
            folder = name == "sdxl" and layout == "diffusers"
            there = tmp_path / f"{file.layout}-{layout}" / ("" if folder else Path(FILES[name][layout]).name)
            there.parent.mkdir(exist_ok=True)
            made = adapterhub.convert(Path(file.path), there, to=layout, architecture=name)
            assert made.exactness == "bit-exact"
            found = held(there, name)
            assert found.keys() == wanted.keys()
            assert all(torch.equal(found[part], value) for part, value in wanted.items())


def held(path, name):
    """The vectors of a file by text encoder."""
    with open_adapter(path, kinds=(Kind.EMBEDDING,), architecture=name) as source:
        assert {key.role for key in source.adapter.tensors} == {Role.VECTORS}
        return {key.component: deltas.tensor(tensor, torch.float32) for key, tensor in source.adapter.tensors.items()}


def test_diffusers_reads_what_was_trained(settings, base_of, tmp_path):
    told = settings(sample_count=2, sample_steps=2)
    done = trainer.train(told)
    pipe = loaded(base_of("sd1"))
    pipe.load_textual_inversion(done.files[0].path)
    prompt = "a photo of a <fox>"
    with torch.no_grad():
        theirs, _ = pipe.encode_prompt(prompt, "cpu", 1, do_classifier_free_guidance=False)
    with opened(told.base, trainer.ARCHITECTURES) as base:
        word = trainer.attach(base, told)["text_encoder"]
        word.vectors.data = held(Path(done.files[0].path), "sd1")["text_encoder"]
        ours = Conditioner(base)
        with torch.no_grad():
            assert torch.equal(ours(ours.tokens([prompt])).states, theirs)
    assert same_pictures(tmp_path / "out/samples/step-000003.png", pipe, prompt, told, tmp_path)


def test_pictures_without_the_word_are_the_bases_bit_for_bit(settings, base_of):
    done = trainer.train(settings(learning_rate=0.5))
    pipe = loaded(base_of("sd1"))

    def pictures_of(noun):
        drawn = samples.drawn(pipe, [f"a photo of a {noun}"] * 2, [0, 1], steps=2, guidance=3.0, side=32)
        return [picture.tobytes() for picture in drawn]

    before = {noun: pictures_of(noun) for noun in ("cat", "<fox>")}
    pipe.load_textual_inversion(done.files[0].path)
    assert pictures_of("cat") == before["cat"]
    assert pictures_of("<fox>") != before["<fox>"]


def test_diffusers_reads_both_encoders_of_sdxl(settings, base_of, tmp_path):
    told = settings("sdxl", sample_count=1, sample_steps=2)
    done = trainer.train(told)
    assert load_file(done.files[0].path).keys() == {"clip_l", "clip_g"}
    folder = Path(done.files[1].path)
    pipe = loaded(base_of("sdxl"))
    for ending in ("", "_2"):
        parts = {
            "text_encoder": getattr(pipe, f"text_encoder{ending}"),
            "tokenizer": getattr(pipe, f"tokenizer{ending}"),
        }
        pipe.load_textual_inversion(str(folder), weight_name=f"learned_embeds{ending}.safetensors", **parts)
    assert same_pictures(tmp_path / "out/samples/step-000003.png", pipe, "a photo of a <fox>", told, tmp_path)


def test_captions_of_a_word_with_several_vectors_are_written_out_once(settings):
    told = settings(vectors=12)
    with opened(told.base, trainer.ARCHITECTURES) as base:
        first = len(base.tokenizers["text_encoder"])
        trainer.attach(base, told)
        tokenizer = base.tokenizers["text_encoder"]
        (ids,) = Conditioner(base).tokens(["a <fox>, red"])
        (plain,) = Conditioner(base).tokens(["a , red"])
        a, comma, red = plain[0, 1:4].tolist()
        assert ids[0, 1:16].tolist() == [a, *range(first, first + 12), comma, red]
        theirs = TextualInversionLoaderMixin().maybe_convert_prompt("a <fox>, red", tokenizer)
        assert tokenizer.tokenize(theirs) == tokenizer.convert_ids_to_tokens(ids[0, 1:16])


def test_without_the_word_the_encoder_says_what_it_did(settings):
    told = settings()
    with opened(told.base, trainer.ARCHITECTURES) as base:
        conditioner = Conditioner(base)
        plain = conditioner(conditioner.tokens(["a photo of an animal"])).states
        trainer.attach(base, told)
        extended = Conditioner(base)
        assert torch.equal(extended(extended.tokens(["a photo of an animal"])).states, plain)
        assert not torch.equal(extended(extended.tokens(["a photo of an <fox>"])).states, plain)


@pytest.mark.parametrize(("words", "wanted"), [
    ("cat", ["cat"] * 5), ("cat dog", ["cat", "cat", "cat", "dog", "dog"]), ("a b c d e", list("abcde")),
])  # fmt: skip
def test_initial_words_are_shared_out_as_a1111_does(settings, words, wanted):
    told = settings(vectors=5, initial_words=words)
    with opened(told.base, trainer.ARCHITECTURES) as base:
        word = trainer.attach(base, told)["text_encoder"]
        ids = [base.tokenizers["text_encoder"].convert_tokens_to_ids(f"{one}</w>") for one in wanted]
        assert torch.equal(word.vectors, word.table.weight[ids])


def test_a_killed_run_ends_with_the_bytes_of_one_that_was_not(settings, tmp_path):
    told = settings(keep_norm=True, caption_dropout=0.2, flip=True, save_every=1)
    once, again = trainer.train(told), trainer.train(told, force=True)
    resumed = killed_and_resumed(trainer, told.model_copy(update={"output": str(tmp_path / "other" / "out")}))
    assert [file.sha256 for file in once.files] == [file.sha256 for file in again.files]
    assert [file.sha256 for file in once.files] == [file.sha256 for file in resumed.files]


def test_the_word_may_stand_in_captions(settings, tmp_path, pictures):
    folder = tmp_path / "captioned"
    folder.mkdir()
    for path in pictures.glob("*.png"):
        (folder / path.name).write_bytes(path.read_bytes())
        (folder / path.name).with_suffix(".txt").write_text("a {} on a mat")
    told = settings(images=str(folder), captions=True)
    with opened(told.base, trainer.ARCHITECTURES) as base:
        trainer.attach(base, told)
        assert trainer.subject(told, base).captions == [["a <fox> on a mat"]] * 4


def test_the_file_tells_what_it_was_made_of(settings):
    done = trainer.train(settings(initial_words="cat"))
    tree = torch.load(done.files[1].path, weights_only=True)
    assert (tree["name"], tree["step"], tree["sd_checkpoint_name"]) == ("fox", 3, "theirs")
    assert tree["sd_checkpoint"] == done.recipe.inputs[0].sha256[:10]
    assert tree["string_to_param"]["*"].shape == (3, 8)
    shown = adapterhub.inspect(done.files[0].path).metadata
    assert shown["modelspec.architecture"].startswith("stable-diffusion-v1")
    assert "<fox>" in shown["adapterhub.training"]


BAD = {
    "a word that the base has": ({"token": "<a>", "prepared": "<a>"}, UsageError, "<a> already"),
    "a vector's name that the base has": ({"prepared": "<fox>_2"}, UsageError, "<fox>_2 already"),
    "an initial word of several tokens": ({"initial_words": "xyzzyplugh"}, UsageError, "'xyzzyplugh' is "),
    "more words than vectors": ({"initial_words": "cat dog a b"}, UsageError, "4 initial words for 3 vectors"),
    "no initial word": ({"initial_words": "  "}, UsageError, "0 initial words"),
    "captions without the word": ({"captions": True}, UsageError, "0.png: its caption says neither <fox> nor {}"),
    "templates that are not there": ({"templates": "nowhere.txt"}, UsageError, "nowhere.txt: the templates cannot"),
    "a layout that is only read": ({"layouts": ("ldm",)}, UsageError, "layout ldm"),
    "a layout that needs a picture": ({"layouts": ("a1111-image",)}, UsageError, "layout a1111-image"),
    "an unknown layout": ({"layouts": ("nope",)}, UnknownName, "nope"),
}  # fmt: skip


@pytest.mark.parametrize(("told", "error", "message"), BAD.values(), ids=BAD)
def test_what_is_wrong_is_said_before_the_first_step(settings, told, error, message):
    known = told.get("prepared")
    given = settings(**{name: value for name, value in told.items() if name != "prepared"})
    steps = []
    if known is not None:
        with opened(given.base, trainer.ARCHITECTURES) as base:
            base.tokenizers["text_encoder"].add_tokens([known])
            with pytest.raises(error, match=message):
                trainer.attach(base, given)
    else:
        with pytest.raises(error, match=message):
            trainer.train(given, watch=steps.append)
        assert steps == []


def test_a_word_too_long_for_the_encoder_is_refused(settings, tmp_path):
    (tmp_path / "long.txt").write_text(f"{'very ' * 20}{{}}\n")
    with pytest.raises(RefusedInput, match="its caption has 84 tokens, and the text encoder reads 75"):
        trainer.train(settings(vectors=64, templates=str(tmp_path / "long.txt")))


def test_a_layout_for_one_encoder_is_refused_for_two(settings):
    with pytest.raises(UsageError, match="a1111 has no place for vectors of text_encoder and text_encoder_2"):
        trainer.train(settings("sdxl", layouts=("a1111", "kohya")))


@pytest.mark.parametrize("told", [
    {"token": "<FOX>"}, {"token": "fox"}, {"token": "<a fox>"}, {"token": "<fox>_1"}, {"vectors": 0}, {"vectors": 65},
    {"layouts": ()}, {"layouts": ("kohya", "kohya")},
])  # fmt: skip
def test_settings_refuse_what_readers_would_change(settings, told):
    with pytest.raises(ValidationError):
        settings(**told)


def test_another_architecture_is_refused(settings):
    with pytest.raises(AdapterhubError, match="knows sd1, sd2, sdxl"):
        trainer.train(settings("sdxl-refiner"))
