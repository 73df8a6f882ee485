"""Nearest tokens against a brute-force search by torch, in tiny text encoders that transformers saved."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from adapterhub import embeddings
from adapterhub.documents import Nearest
from adapterhub.errors import MalformedFile, NotAnAdapter, RefusedInput, UsageError
from adapterhub.operations.embedding import nearest as module
from adapterhub.operations.embedding.vocabulary import named

WORDS = ["cat</w>", "cat", "Ã©</w>", "Ġ", "<|startoftext|>", "ä", "!", "</w>", *(f"w{n}</w>" for n in range(42))]
KEY = "text_model.embeddings.token_embedding.weight"


def encoder(folder: Path, width: int = 768, heads: int = 12) -> torch.Tensor:
    """Saves a text encoder of 50 tokens to `folder`; gives their vectors, of which 7 repeats 3 and 9 is zero."""
    torch.manual_seed(width)
    model = CLIPTextModel(CLIPTextConfig(vocab_size=50, hidden_size=width, intermediate_size=8, num_hidden_layers=1,
                                         num_attention_heads=heads, max_position_embeddings=4))  # fmt: skip
    (table,) = [value for name, value in model.named_parameters() if name.endswith("token_embedding.weight")]
    with torch.no_grad():
        table[7], table[9] = table[3], 0
    model.save_pretrained(folder)
    return table.detach().double()


def tokenizer(folder: Path, words: list[str] = WORDS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, torch.Tensor]]:
    """A diffusers folder with both text encoders of SDXL, and the vectors of their tokens by width."""
    folder = tmp_path_factory.mktemp("model")
    parts = {name: ["transformers", "CLIPTextModel"] for name in ("text_encoder", "text_encoder_2")}
    (folder / "model_index.json").write_text(json.dumps(parts))
    tokenizer(folder / "tokenizer")
    tokenizer(folder / "tokenizer_2", [word.replace("w", "v", 1) for word in WORDS])
    return folder, {768: encoder(folder / "text_encoder"), 1280: encoder(folder / "text_encoder_2", 1280, 20)}


def saved(path: Path, **tensors: torch.Tensor) -> Path:
    save_file({name: tensor.float().contiguous() for name, tensor in tensors.items()}, path)
    return path


def ids(found: Nearest, vector: int = 0) -> list[int]:
    return [token.id for token in found.vectors[vector].nearest]


def test_the_order_cosines_and_distances_are_those_of_a_search_by_brute_force(model, tmp_path):
    folder, tables = model
    vectors = torch.randn(3, 768, generator=torch.Generator().manual_seed(1)) / 50
    found = embeddings.nearest(saved(tmp_path / "a.safetensors", emb_params=vectors), base=folder, top=50)
    table, wide = tables[768], vectors.double()
    cosines = torch.nn.functional.cosine_similarity(wide[:, None], table[None], dim=2)
    for number, vector in enumerate(found.vectors):
        order = sorted((n for n in range(50) if n != 9), key=lambda n: (-cosines[number, n].item().__round__(12), n))
        assert ids(found, number) == order
        for near in vector.nearest:
            assert near.cosine == pytest.approx(cosines[number, near.id].item(), abs=1e-12)
            assert near.distance == pytest.approx((wide[number] - table[near.id]).norm().item(), rel=1e-12)
        assert (vector.vector, vector.component) == (number + 1, "text_encoder")
        assert vector.length == pytest.approx(wide[number].norm().item(), rel=1e-12)
    (told,) = found.tables
    assert (told.tokens, told.width) == (50, 768)
    assert told.median_length == pytest.approx(float(np.median(table.norm(dim=1))), rel=1e-12)


def test_a_tokens_own_row_finds_it_and_equal_rows_come_by_their_numbers(model, tmp_path):
    folder, tables = model
    source = saved(tmp_path / "a.safetensors", emb_params=tables[768][[0, 7]])
    found = embeddings.nearest(source, base=folder, top=2)
    first, second = found.vectors
    assert (first.nearest[0].id, first.nearest[0].token, first.nearest[0].ends_word) == (0, "cat", True)
    assert first.nearest[0].cosine == pytest.approx(1, abs=1e-15)
    assert first.nearest[0].distance == 0
    assert [(near.id, near.distance) for near in second.nearest] == [(3, 0), (7, 0)]
    assert second.nearest[0].cosine == second.nearest[1].cosine


@pytest.mark.parametrize("rows", [1, 3, 49])
def test_the_answer_does_not_depend_on_how_the_table_is_cut(model, tmp_path, monkeypatch, rows):
    folder, tables = model
    source = saved(tmp_path / "a.safetensors", emb_params=tables[768][[3]])
    whole = embeddings.nearest(source, base=folder)
    monkeypatch.setattr(module, "_BLOCK", rows * 768 * 4 + 5)
    assert embeddings.nearest(source, base=folder) == whole


def test_each_text_encoder_of_sdxl_has_its_own_tokens(model, tmp_path):
    folder, tables = model
    source = saved(tmp_path / "a.safetensors", clip_l=tables[768][[10]], clip_g=tables[1280][[10]])
    found = embeddings.nearest(source, base=folder, top=1)
    assert {vector.component: vector.nearest[0].token for vector in found.vectors} == {
        "text_encoder": "w2", "text_encoder_2": "v2",
    }  # fmt: skip
    assert {table.width for table in found.tables} == {768, 1280}


def test_a_text_encoder_is_a_folder_a_file_or_part_of_a_whole_model(model, tmp_path):
    folder, tables = model
    source = saved(tmp_path / "a.safetensors", emb_params=tables[768][[0]])
    prefix = "cond_stage_model.transformer."
    saved(
        tmp_path / "whole.safetensors",
        **{prefix + KEY: tables[768], "model.diffusion_model.out.2.bias": torch.zeros(4)},
    )
    torch.save({"state_dict": {prefix + KEY: tables[768].float()}}, tmp_path / "whole.ckpt")
    places = [folder / "text_encoder", folder / "text_encoder" / "model.safetensors", tmp_path / "whole.safetensors",
              tmp_path / "whole.ckpt"]  # fmt: skip
    for place in places:
        found = embeddings.nearest(source, tokenizer=folder / "tokenizer", text_encoder=place, top=3)
        assert found.vectors == embeddings.nearest(source, base=folder, top=3).vectors


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_table_in_half_precision_is_widened_exactly(model, tmp_path, dtype):
    folder, tables = model
    save_file({KEY: tables[768].to(dtype)}, tmp_path / "half.safetensors")
    source = saved(tmp_path / "a.safetensors", emb_params=tables[768][[0]].to(dtype))
    found = embeddings.nearest(
        source, tokenizer=folder / "tokenizer", text_encoder=tmp_path / "half.safetensors", top=1
    )
    assert (ids(found), found.vectors[0].nearest[0].distance) == ([0], 0)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_nothing_is_near_to_a_vector_without_direction(model, tmp_path, value):
    source = saved(tmp_path / "a.safetensors", emb_params=torch.full((1, 768), value))
    assert embeddings.nearest(source, base=model[0]).vectors[0].nearest == []


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_a_token_without_direction_is_near_to_nothing(model, tmp_path, value):
    folder, tables = model
    table = tables[768].clone()
    table[4] = value
    source = saved(tmp_path / "a.safetensors", emb_params=tables[768][[4]])
    saved(tmp_path / "odd.safetensors", **{KEY: table})
    found = embeddings.nearest(
        source, tokenizer=folder / "tokenizer", text_encoder=tmp_path / "odd.safetensors", top=50
    )
    assert {*range(50)} - {*ids(found)} == {4, 9}


def test_tokens_are_named_by_a_whole_tokenizer_and_by_added_ones(model, tmp_path):
    folder, tables = model
    source = saved(tmp_path / "a.safetensors", emb_params=tables[768][[0, 1, 2]])
    whole, added = tmp_path / "whole", tokenizer(tmp_path / "added", WORDS[:1])
    whole.mkdir()
    document = {"model": {"vocab": {"dog</w>": 0}}, "added_tokens": [{"id": 1, "content": "<my cat>"}]}
    (whole / "tokenizer.json").write_text(json.dumps(document))
    (added / "added_tokens.json").write_text(json.dumps({"<my cat>": 1}))
    for place, first in ((whole, "dog"), (added, "cat")):
        found = embeddings.nearest(source, tokenizer=place, text_encoder=folder / "text_encoder", top=1)
        assert [vector.nearest[0].token for vector in found.vectors] == [first, "<my cat>", None]


@pytest.mark.parametrize(("spelled", "text", "ends"), [
    ("cat</w>", "cat", True), ("cat", "cat", False), ("Ã©</w>", "é", True), ("Ġ", " ", False), ("ðŁĺĬ</w>", "😊", True),
    ("ðŁ", r"\xf0\x9f", False), ("<|endoftext|>", "<|endoftext|>", False), ("</w>", "</w>", False), ("<my cat>", "<my cat>", False),
    ("ĀŃ", "\0\\xad", False), ("Ń</w>", r"\xad", True),
])  # fmt: skip
def test_names_are_read_in_the_alphabet_of_bytes(spelled, text, ends):
    assert named(spelled) == (text, ends)


def test_the_alphabet_is_that_of_transformers():
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    for byte, sign in bytes_to_unicode().items():
        assert named(sign).text == bytes([byte]).decode("utf-8", "backslashreplace")


def test_a_model_for_other_embeddings_is_refused_with_both_widths(model, tmp_path):
    source = saved(tmp_path / "a.safetensors", emb_params=torch.ones(1, 1024))
    with pytest.raises(RefusedInput, match=r"vectors of 1024 for text_encoder.*768 and 1280"):
        embeddings.nearest(source, base=model[0])


def test_a_file_without_a_token_table_is_refused(model, tmp_path):
    source = saved(tmp_path / "a.safetensors", emb_params=torch.ones(1, 768))
    with pytest.raises(NotAnAdapter, match=r"token_embedding\.weight"):
        embeddings.nearest(source, tokenizer=model[0] / "tokenizer", text_encoder=source)


@pytest.mark.parametrize("content", ["[]", '{"a": "b"}', '{"a": true}', '{"a": 1, "a": 2}', "{", '{"a": NaN}'])
def test_a_vocabulary_that_is_none_is_refused(model, tmp_path, content):
    source = saved(tmp_path / "a.safetensors", emb_params=torch.ones(1, 768))
    (tmp_path / "vocab.json").write_text(content)
    with pytest.raises(MalformedFile):
        embeddings.nearest(source, tokenizer=tmp_path, text_encoder=model[0] / "text_encoder")


@pytest.mark.parametrize(
    "document", [[], {}, {"model": {"vocab": []}}, {"model": {"vocab": {}}, "added_tokens": [{"id": "a"}]}]
)
def test_a_whole_tokenizer_that_is_none_is_refused(model, tmp_path, document):
    source = saved(tmp_path / "a.safetensors", emb_params=torch.ones(1, 768))
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(MalformedFile, match="no vocabulary"):
        embeddings.nearest(source, tokenizer=tmp_path, text_encoder=model[0] / "text_encoder")


@pytest.mark.parametrize("given", [
    {}, {"tokenizer": "t"}, {"text_encoder": "e"}, {"base": "b", "text_encoder": "e"}, {"base": "b", "tokenizer": "t"},
    {"base": "b", "top": 0},
])  # fmt: skip
def test_half_a_model_is_wrong_usage(tmp_path, given):
    with pytest.raises(UsageError):
        embeddings.nearest(tmp_path / "a.safetensors", **given)


def test_a_folder_without_a_tokenizer_says_what_to_give(model, tmp_path):
    source = saved(tmp_path / "a.safetensors", emb_params=torch.ones(1, 768))
    with pytest.raises(UsageError, match=r"vocab\.json(.|\n)*--tokenizer DIR"):
        embeddings.nearest(source, tokenizer=tmp_path, text_encoder=model[0] / "text_encoder")


def test_the_files_are_as_transformers_saves_them(model):
    names = load_file(model[0] / "text_encoder" / "model.safetensors").keys()
    assert [name for name in names if name.endswith("token_embedding.weight")]
