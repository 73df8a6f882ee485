"""Names, tokens and metadata of embeddings through conversions; files of several tokens; embeddings that travel in LoRAs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import adapterhub
from adapterhub.errors import BrokenAdapter, NotAnAdapter, UsageError
from fixtures.embeddings import FIELDS, TOKEN
from tests.files.pictures import strips_by_hand
from tests.operations.embedding_files import CRANE, FIXTURES, stored


def test_a1111s_fields_are_written_as_it_writes_them(tmp_path):
    adapterhub.convert(FIXTURES / "embedding/diffusers/sd1.bin", tmp_path / "crane.pt", to="a1111")
    tree = torch.load(tmp_path / "crane.pt", weights_only=True)
    assert list(tree)[:6] == [
        "string_to_token",
        "string_to_param",
        "name",
        "step",
        "sd_checkpoint",
        "sd_checkpoint_name",
    ]
    assert (tree["string_to_token"], list(tree["string_to_param"])) == ({"*": 265}, ["*"])
    assert [tree[field] for field in FIELDS] == [TOKEN, None, None, None]
    adapterhub.convert(CRANE, tmp_path / "birb.pt", to="a1111")
    tree = torch.load(tmp_path / "birb.pt", weights_only=True)
    assert {field: tree[field] for field in FIELDS} == FIELDS


@pytest.mark.parametrize(("layout", "suffix", "key"), [
    ("diffusers", ".safetensors", "<birb>"), ("diffusers", ".bin", "<birb>"), ("kohya", ".safetensors", "emb_params"),
    ("a1111", ".pt", "string_to_param.*"), ("a1111-image", ".png", "string_to_param.*"),
])  # fmt: skip
def test_token_renames_it(layout, suffix, key, tmp_path):
    out = tmp_path / f"out{suffix}"
    adapterhub.convert(CRANE, out, to=layout, token="<birb>")
    assert list(stored(out)) == [key]
    if layout == "a1111-image":  # A1111 calls a picture by the name inside
        with Image.open(out) as image:
            assert json.loads(strips_by_hand(image.convert("RGB")))["name"] == "<birb>"
    token = {"kohya": "out", "a1111": "out"}.get(layout, "<birb>")
    assert [told.token for told in adapterhub.inspect(out).tokens] == [token]
    adapterhub.convert(out, tmp_path / "last.bin", to="diffusers")
    assert list(stored(tmp_path / "last.bin")) == ["<birb>"]


def test_token_names_one_token_and_not_several(tmp_path):
    with pytest.raises(UsageError, match="several"):
        adapterhub.convert(FIXTURES / "embedding/diffusers/sd1.ti.pt", f"{tmp_path}/out/", to="a1111", token="<x>")


@pytest.mark.parametrize("token", ["clip_l", "emb_params", "weight", "x.alpha", "IN01", "__metadata__"])
def test_a_token_that_is_another_layouts_key_is_wrong_usage_for_diffusers(token, tmp_path):
    with pytest.raises(UsageError, match="cannot be a token"):
        adapterhub.convert(CRANE, tmp_path / "x.safetensors", to="diffusers", token=token)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_gets_the_usual_name_of_a_file(tmp_path):
    for layout, name in (("diffusers", "learned_embeds.safetensors"), ("kohya", "paper-crane.safetensors"),
                         ("a1111", "paper-crane.pt"), ("a1111-image", "paper-crane.png")):  # fmt: skip
        done = adapterhub.convert(FIXTURES / "embedding/diffusers/sd1.bin", f"{tmp_path}/{layout}/", to=layout)
        assert done.target.path == str(tmp_path / layout / name)


def test_numbered_tokens_become_the_rows_of_one_in_their_order(tmp_path):
    rows = {
        f"<x>{end}": torch.full((768,), float(number))
        for number, end in enumerate(["", *(f"_{n}" for n in range(1, 12))])
    }
    torch.save({name: rows[name] for name in sorted(rows)}, tmp_path / "x.bin")
    done = adapterhub.convert(tmp_path / "x.bin", tmp_path / "y.bin", to="diffusers")
    (found,) = stored(tmp_path / "y.bin").values()
    assert found[:, 0].tolist() == list(range(12))
    assert done.summary["join"] == 12


@pytest.mark.parametrize("names", [["<x>_1", "<x>_2"], ["<x>", "<x>_2"], ["<x>", "<x>_01"], ["<x>", "<x>_0"]])
def test_numbers_with_a_gap_are_tokens_of_their_own(names, tmp_path):
    torch.save({name: torch.zeros(768) for name in names}, tmp_path / "x.bin")
    with pytest.raises(UsageError, match="a folder of"):
        adapterhub.convert(tmp_path / "x.bin", tmp_path / "y.bin", to="diffusers")


def test_numbered_tokens_of_two_dtypes_are_not_joined(tmp_path):
    torch.save({"<x>": torch.zeros(768), "<x>_1": torch.zeros(768).half()}, tmp_path / "x.bin")
    with pytest.raises(UsageError, match="a folder of"):
        adapterhub.convert(tmp_path / "x.bin", tmp_path / "y.bin", to="diffusers")


SPLIT = [
    ("ldm/sd1-several.pt", "a1111", [{"folded boat.pt", "paper-crane.pt"}, 1]),
    ("ldm/sd1-several.pt", "a1111-image", [{"folded boat.png", "paper-crane.png"}, 1]),
    ("diffusers/sd1.ti.pt", "diffusers", [{"s1.safetensors", "s2.safetensors"}, 1]),
    ("diffusers/sd1.ti.pt", "kohya", [{"s1.safetensors", "s2.safetensors"}, 1]),
    ("raw/sdxl-snapshots.pt", "kohya", [{"sdxl-snapshots-0.safetensors", "sdxl-snapshots-1.safetensors"}, 2]),
    ("raw/sdxl-snapshots.pt", "diffusers",
     [{f"sdxl-snapshots-{n}{end}.safetensors" for n in (0, 1) for end in ("", "_2")}, 1]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "layout", "made"), SPLIT)
def test_a_file_of_several_tokens_is_split_into_a_folder_with_a_file_of_each(name, layout, made, tmp_path):
    source, (names, each) = FIXTURES / "embedding" / name, made
    done = adapterhub.convert(source, tmp_path / "out", to=layout)
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert done.exactness == "bit-exact"
    found = [tensor for path in sorted((tmp_path / "out").iterdir()) for tensor in stored(path).values()]
    assert len(found) == len(names) * each
    held = adapterhub.inspect(source, tensors=True)
    assert sorted(place for entry in done.entries for place in entry.source) == sorted(row.name for row in held.listing)


def test_split_files_keep_their_tokens_under_safe_and_distinct_names(tmp_path):
    names = ["<a/b>", "(ab)", "AB", "..", "<ü>"]
    torch.save({name: torch.full((768,), float(n)) for n, name in enumerate(names)}, tmp_path / "x.bin")
    adapterhub.convert(tmp_path / "x.bin", tmp_path / "out", to="kohya")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "AB-3.safetensors", "ab-2.safetensors", "ab.safetensors", "embedding-2.safetensors", "embedding.safetensors",
    ]  # fmt: skip
    for path in (tmp_path / "out").iterdir():
        with safe_open(path, "pt") as file:
            token = file.metadata()["adapterhub.token"]
        assert names[int(load_file(path)["emb_params"][0, 0])] == token


def test_bin_says_which_metadata_it_lost(tmp_path):
    done = adapterhub.convert(CRANE, tmp_path / "sd1.bin", to="diffusers")
    (problem,) = done.problems
    assert (problem.severity, problem.code) == ("warning", "metadata-lost")
    assert problem.where == "name, sd_checkpoint, sd_checkpoint_name, step"
    done = adapterhub.convert(FIXTURES / "embedding/diffusers/sd1.bin", tmp_path / "crane.pt", to="kohya")
    assert [problem.where for problem in done.problems] == ["adapterhub.stem, adapterhub.token"]
    assert adapterhub.convert(CRANE, tmp_path / "sd1.safetensors", to="diffusers").problems == []


BUNDLES = {
    "kohya/sd1-token.safetensors": {"emb_params": "bundle_emb.paper-crane.string_to_param.*"},
    "kohya/sd2-token.safetensors": {"emb_params": "bundle_emb.paper-crane.string_to_param.*"},
    "kohya/sdxl-token.safetensors": {key: f"bundle_emb.paper-crane.{key}" for key in ("clip_l", "clip_g")},
    "kohya/sdxl-refiner-token.safetensors": {"clip_g": "bundle_emb.paper-crane.clip_g"},
    "omi/sdxl-token.safetensors": {key: f"bundle_emb.paper-crane.{key}" for key in ("clip_l", "clip_g")},
    "kohya-diffusers-names/sdxl-token.safetensors": {key: f"bundle_emb.paper-crane.{key}" for key in ("clip_l", "clip_g")},
    "cloneofsimo/sd1-text.safetensors": {"emb_params": "<crane>"},
    "cloneofsimo/sd2-text.safetensors": {"emb_params": "<crane>"},
}  # fmt: skip


@pytest.mark.parametrize("name", BUNDLES)
def test_embeddings_are_taken_out_of_loras(name, tmp_path):
    source = FIXTURES / name
    done = adapterhub.convert(source, f"{tmp_path}/", extract_embeddings=True)
    (out,) = tmp_path.iterdir()
    assert out.name == ("crane" if "cloneofsimo" in name else "paper-crane") + ".safetensors"
    whole, found = load_file(source), load_file(out)
    assert found.keys() == BUNDLES[name].keys()
    for key, place in BUNDLES[name].items():
        assert torch.equal(found[key], torch.atleast_2d(whole[place]))
    assert sorted(place for entry in done.entries for place in entry.source) == sorted(whole)
    assert {place for entry in done.entries if entry.action != "drop" for place in entry.source} == {
        *BUNDLES[name].values()
    }
    assert (done.exactness, done.max_error) == ("bit-exact", 0.0)
    assert adapterhub.inspect(out).architecture == adapterhub.inspect(source).architecture


def test_what_was_taken_out_keeps_the_token_that_the_lora_had(tmp_path):
    source = FIXTURES / "cloneofsimo/sd1-text.safetensors"
    adapterhub.convert(source, tmp_path / "x.safetensors", extract_embeddings=True, to="diffusers")
    assert list(load_file(tmp_path / "x.safetensors")) == ["<crane>"]
    adapterhub.convert(source, tmp_path / "y.pt", extract_embeddings=True, for_tool="a1111")
    assert torch.load(tmp_path / "y.pt", weights_only=True)["name"] == "<crane>"


HEAD = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"


def bundle(path: Path, **fields: int) -> Path:
    """A LoRA with an embedding "cat" of one vector of the given width in each field."""
    tensors = {f"{HEAD}.lora_down.weight": torch.ones(2, 768), f"{HEAD}.lora_up.weight": torch.ones(320, 2),
               f"{HEAD}.alpha": torch.tensor(2.0)}  # fmt: skip
    save_file(tensors | {f"bundle_emb.cat.{field}": torch.ones(1, width) for field, width in fields.items()}, path)
    return path


def test_bundled_output_vectors_and_t5_are_taken_out_under_their_own_names(tmp_path):
    source = bundle(tmp_path / "lora.safetensors", clip_l=768, clip_l_out=768, t5=4096)
    adapterhub.convert(source, tmp_path / "cat.safetensors", extract_embeddings=True)
    assert load_file(tmp_path / "cat.safetensors").keys() == {"clip_l", "clip_l_out", "t5xxl"}


@pytest.mark.parametrize("fields", [{"clip_l": 768, "emb_params": 768}, {"t5": 4096, "t5xxl": 4096}])
def test_two_bundled_tensors_for_one_text_encoder_are_an_error(fields, tmp_path):
    source = bundle(tmp_path / "lora.safetensors", **fields)
    with pytest.raises(BrokenAdapter, match="a second tensor of vectors of 'cat'"):
        adapterhub.convert(source, tmp_path / "cat.safetensors", extract_embeddings=True)
    assert not (tmp_path / "cat.safetensors").exists()


def test_a_lora_without_embeddings_and_an_embedding_are_refused(tmp_path, cli):
    for source in (FIXTURES / "kohya/sd1-lora.safetensors", CRANE):
        done = cli("convert", source, "-o", tmp_path / "x.safetensors", "--extract-embeddings")
        assert (done.status, list(tmp_path.iterdir())) == (3, [])
    with pytest.raises(NotAnAdapter, match="no embedding travels"):
        adapterhub.convert(FIXTURES / "kohya/sd1-lora.safetensors", tmp_path / "x.safetensors", extract_embeddings=True)
