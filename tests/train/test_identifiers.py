"""Identifiers: rare words of a base's own tokenizers, and warnings of words that are not rare."""

import re

import pytest
import torch
import transformers

import adapterhub
from adapterhub.documents import LoraSettings
from adapterhub.errors import NotAnAdapter, UsageError
from adapterhub.train import lora
from adapterhub.train.base import opened
from adapterhub.train.identifiers import find, rare_words, warned


@pytest.fixture(scope="module")
def clip(base_of):
    """CLIP's own tokenizer, which every base here has."""
    return transformers.CLIPTokenizer.from_pretrained(base_of("sd1") / "tokenizer")


@pytest.fixture(scope="module")
def open_base(base_of):
    with opened(str(base_of("sdxl")), ("sdxl",)) as base:
        yield base


def test_rare_words_are_single_tokens_of_the_last_fifth_that_survive_a_round_trip(clip):
    words = rare_words([clip])
    assert len(words) == 1592
    assert words == sorted(set(words))
    assert all(re.fullmatch("[a-z]{3,4}", word) for word in words)
    for word in words[::40]:
        (number,) = clip(word).input_ids[1:-1]
        assert number >= 512 + 0.8 * (49408 - 514)
        assert clip.decode([number]).strip() == word


@pytest.mark.parametrize(("word", "is_rare"), [
    ("sks", True), ("ohwx", True), ("olis", True),  # 48136, 47993, 49397
    ("sand", False), ("toy", False),  # 5094, 5988: in the paper's range of T5
    ("shs", False),  # 16184
    ("zwx", False), ("krk", False), ("xjy", False),  # several tokens
])  # fmt: skip
def test_the_words_that_people_use_are_told_apart(clip, word, is_rare):
    assert (word in rare_words([clip])) == is_rare


@pytest.mark.parametrize("architecture", ["sd1", "sdxl"])
def test_the_same_seed_finds_the_same_words_and_another_finds_others(base_of, architecture):
    first, again, other = (find(str(base_of(architecture)), count=4, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert {one.text for one in first.identifiers}.isdisjoint(one.text for one in other.identifiers)
    assert (first.candidates, len(first.identifiers)) == (1592, 4)
    assert [[token.component for token in one.tokens] for one in first.identifiers] == [
        ["text_encoder", "text_encoder_2"][: 1 + (architecture == "sdxl")]] * 4  # fmt: skip


def test_the_prior_is_the_largest_cosine_to_any_other_token(base_of):
    found = find(str(base_of("sdxl")), count=2).identifiers
    with opened(str(base_of("sdxl")), ("sdxl",)) as base:
        for one in found:
            for token, encoder in zip(one.tokens, base.encoders.values(), strict=True):
                table = encoder.get_input_embeddings().weight
                cosines = torch.nn.functional.cosine_similarity(table, table[token.id], dim=1)
                cosines[token.id] = -1
                assert [near.id for near in token.nearest] == cosines.topk(3).indices.tolist()
                assert token.nearest[0].cosine == pytest.approx(float(cosines.max()), abs=1e-4)
                norms = table.norm(dim=1)
                assert token.length == pytest.approx(float(norms[token.id] / norms.median()), abs=1e-4)
                assert token.rank == round((token.id - 512) / (49408 - 514), 4)
            assert one.prior == max(token.nearest[0].cosine for token in one.tokens)
    assert [one.prior for one in found] == sorted(one.prior for one in found)


def test_a_single_file_has_the_words_of_its_folder(base_of, tmp_path):
    adapterhub.convert(base_of("sd1"), tmp_path / "model.safetensors", to="single-file")
    found = find(str(tmp_path / "model.safetensors"), count=3)
    assert found.identifiers == find(str(base_of("sd1")), count=3).identifiers


def test_what_has_no_text_encoder_is_refused(style):
    with pytest.raises(NotAnAdapter, match="no text encoder, whose tokens could be looked at"):
        find(str(style))


def test_no_words_are_not_asked_for(base_of):
    with pytest.raises(UsageError, match="count is 0"):
        find(str(base_of("sd1")), count=0)


@pytest.mark.parametrize(("prompt", "class_prompt", "codes"), [
    ("a photo of sks dog", "a photo of a dog", []),
    ("a photo of SKS labradoodle", None, []),  # one rare word is enough
    ("a photo of zwx dog", "a photo of a dog", ["identifier-split"]),
    ("a photo of sand dog", "a photo of a dog", ["identifier-common"]),
    ("a photo of shs dog", None, ["identifier-common"]),
    ("a photo of a dog", "a photo of a dog", []),  # nothing is called
    (None, None, []),
])  # fmt: skip
def test_a_prompt_without_a_rare_word_is_warned_of(open_base, prompt, class_prompt, codes):
    assert [problem.code for problem in warned(prompt, open_base, class_prompt)] == codes


def test_warnings_say_what_the_model_reads(open_base):
    (split,), (common,) = (warned(f"a {word} cat", open_base, "a cat") for word in ("zwx", "sand"))
    assert split.message == "'zwx' is 2 tokens (z, wx), each of which means something"
    assert common.message == ("no word of 'a sand cat' is rare: 9% of the vocabulary are more frequent than 'sand', "
                              "and the rarest fifth begins at 80%")  # fmt: skip


def test_a_training_tells_of_them(base_of, pictures, tmp_path):
    told = LoraSettings(base=str(base_of("sd1")), images=str(pictures), output=str(tmp_path), prompt="a photo of zwx cat", rank=1,
                        steps=1, resolution=32, sample_count=0)  # fmt: skip
    assert lora.train(told).problems[0].code == "identifier-split"
