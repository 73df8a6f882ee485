"""What is an embedding, told by content; what looks like one and is none; and what claims one place twice."""

from __future__ import annotations

import json
import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save_file

import adapterhub
import adapterhub.layouts as layouts
from adapterhub.adapter import Kind
from adapterhub.errors import BrokenAdapter, LossyConversion, MalformedFile

FIXTURES = Path(__file__).parents[2] / "fixtures"
MANIFEST = json.loads((FIXTURES / "embedding/manifest.json").read_text("utf-8"))
FILES = [name for name in MANIFEST if (FIXTURES / name).is_file()]
SAID = ("kind", "layout", "architecture", "container", "metadata")
SUFFIXES = {
    "safetensors": (".sft", ".bin", ".pt", ".png", ""), "torch-zip": (".bin", ".pt", ".ckpt", ".png", ""),
    "torch-legacy": (".bin", ".pt", ".ckpt", ""), "png": (".webp", ".pt", ".bin", ""),
}  # fmt: skip


def said(found):
    return {
        **{field: getattr(found, field) for field in SAID},
        "tokens": [token.model_dump() for token in found.tokens],
        "problems": [problem.code for problem in found.problems],
    }


def expected(name):
    return {field: value for field, value in MANIFEST[name].items() if field != "sha256"}


@pytest.mark.parametrize("name", MANIFEST)
def test_inspect_says_what_the_script_knows(name):
    found = adapterhub.inspect(FIXTURES / name)
    assert said(found) == expected(name)
    assert found.vectors == sum(token["vectors"] for token in MANIFEST[name]["tokens"])


@pytest.mark.parametrize("name", FILES)
def test_content_tells_what_it_is_whatever_it_is_called(name, tmp_path):
    for suffix in SUFFIXES[MANIFEST[name]["container"]]:
        path = tmp_path / f"{Path(name).stem}{suffix}"
        shutil.copy(FIXTURES / name, path)
        assert said(adapterhub.inspect(path)) == expected(name), suffix


def test_a_picture_with_nothing_but_the_text_is_an_embedding_too(tmp_path):
    name = "embedding/a1111-image/sd1.png"
    chunk = PngInfo()
    with Image.open(FIXTURES / name) as image:
        chunk.add_text("sd-ti-embedding", image.text["sd-ti-embedding"])
    Image.new("RGB", (8, 8), "orange").save(tmp_path / "text.png", pnginfo=chunk)
    assert said(adapterhub.inspect(tmp_path / "text.png")) == expected(name)


def test_a_lossless_webp_holds_the_strips(tmp_path):
    name = "embedding/a1111-image/sd1-strips.png"
    with Image.open(FIXTURES / name) as image:
        image.save(tmp_path / "sd1-strips.webp", lossless=True)
    told = {**expected(name), "container": "webp"}
    assert said(adapterhub.inspect(tmp_path / "sd1-strips.webp")) == told


def test_every_layout_and_every_known_model_has_a_golden_file():
    found = {(row["layout"], row["architecture"]) for row in MANIFEST.values()}
    assert {layout for layout, _ in found} == {layout.name for layout in layouts.every(Kind.EMBEDDING)}
    known = ("sd1", "sd2", "sdxl", "sdxl-refiner")
    assert {("kohya", architecture) for architecture in known} <= found
    assert {("diffusers", architecture) for architecture in known[:3]} <= found
    assert {("a1111", architecture) for architecture in known[:2]} <= found


def zeros(**shapes):
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


WIDTHS = {
    "SD 1.x": ("sd1", "<x>", {"<x>": (1, 768)}, ["text_encoder"]),
    "SD 2.x": ("sd2", "<x>", {"<x>": (1024,)}, ["text_encoder"]),
    "SDXL refiner": ("sdxl-refiner", "file", {"clip_g": (3, 1280)}, ["text_encoder_2"]),
    "SDXL": ("sdxl", "file", {"clip_g": (3, 1280), "clip_l": (3, 768)}, ["text_encoder", "text_encoder_2"]),
    "SD 3": (None, "file", {"clip_g": (1, 1280), "clip_l": (1, 768), "t5xxl": (1, 4096)},
             ["text_encoder", "text_encoder_2", "text_encoder_3"]),
    "ComfyUI's other encoders": (None, "file", {"llama": (1, 4096), "clip_l": (1, 768)}, ["llama", "text_encoder"]),
    "AuraFlow": (None, "file", {"pile_t5xl": (2, 2048)}, ["pile_t5xl"]),
    "Lumina 2": (None, "file", {"gemma2_2b": (2, 2304)}, ["gemma2_2b"]),
}  # fmt: skip


@pytest.mark.parametrize(("architecture", "token", "shapes", "components"), WIDTHS.values(), ids=WIDTHS)
def test_keys_and_widths_tell_the_token_and_the_model(architecture, token, shapes, components, tmp_path):
    save_file(zeros(**shapes), tmp_path / "file.safetensors")
    found = adapterhub.inspect(tmp_path / "file.safetensors")
    assert (found.kind, found.architecture) == ("embedding", architecture)
    assert [(told.token, sorted(told.widths)) for told in found.tokens] == [(token, sorted(components))]


def test_1280_in_the_dictionary_of_the_papers_trainer_is_berts_and_not_the_refiners(tmp_path):
    """Rombach's text-to-image model of 1.4 billion parameters, the paper's own; SDXL came after both programs."""
    torch.save({"string_to_token": {"*": 265}, "string_to_param": {"*": torch.zeros(1, 1280)}}, tmp_path / "cat.pt")
    found = adapterhub.inspect(tmp_path / "cat.pt")
    assert (found.layout, found.architecture, found.tokens[0].widths) == ("ldm", None, {"bert": 1280})
    for layout in ("kohya", "a1111"):
        done = adapterhub.convert(tmp_path / "cat.pt", tmp_path / layout / "cat.pt", to=layout)
        assert done.exactness == "bit-exact"
        assert adapterhub.inspect(tmp_path / layout / "cat.pt").tokens == found.tokens
    with pytest.raises(LossyConversion, match="no place for vectors of bert"):
        adapterhub.convert(tmp_path / "cat.pt", tmp_path / "cat.bin", to="diffusers")


def test_a_concept_of_the_library_is_read_with_its_token_and_not_with_the_files_name(tmp_path):
    shutil.copytree(FIXTURES / "embedding/diffusers/sd1-concept", tmp_path / "crane")
    assert [token.token for token in adapterhub.inspect(tmp_path / "crane").tokens] == ["<paper-crane>"]


def test_custom_diffusions_file_of_one_word_is_diffusers_dictionary(tmp_path):
    torch.save({"<new1>": torch.zeros(768)}, tmp_path / "<new1>.bin")
    found = adapterhub.inspect(tmp_path / "<new1>.bin")
    assert (found.kind, found.layout, found.tokens[0].token) == ("embedding", "diffusers", "<new1>")


PLACEHOLDERS = {
    "a small model's": ({"<x>": (1, 48)}, ["<x>"]),
    "several of one width": ({"<x>": (48,), "<y-z>_1": (2, 48)}, ["<x>", "<y-z>_1"]),
    "a special token of CLIP": ({"<|endoftext|>": (1, 48)}, None),
    "no brackets": ({"x": (1, 48)}, None),
    "one without": ({"<x>": (1, 48), "y": (1, 48)}, None),
    "a space inside": ({"<x y>": (1, 48)}, None),
}  # fmt: skip


@pytest.mark.parametrize(("shapes", "tokens"), PLACEHOLDERS.values(), ids=PLACEHOLDERS)
def test_vectors_of_a_width_that_no_encoder_has_are_told_by_the_placeholders(shapes, tokens, tmp_path):
    save_file(zeros(**shapes), tmp_path / "file.safetensors")
    found = adapterhub.inspect(tmp_path / "file.safetensors")
    assert ([told.token for told in found.tokens] or None) == tokens
    assert found.kind == ("embedding" if tokens else "unknown")


def test_both_encoders_of_a_small_model_are_told_by_their_files(tmp_path):
    for ending, width in (("", 8), ("_2", 16)):
        save_file({"<x>": torch.zeros(2, width)}, tmp_path / f"learned_embeds{ending}.safetensors")
    assert adapterhub.inspect(tmp_path).tokens[0].widths == {"text_encoder": 8, "text_encoder_2": 16}


HEAD = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
NO_EMBEDDINGS = {
    "a LoRA of two pairs": ("lora", {
        f"{HEAD}.lora_down.weight": (4, 768), f"{HEAD}.lora_up.weight": (320, 4),
        f"{HEAD.replace('to_k', 'to_v')}.lora_down.weight": (4, 768), f"{HEAD.replace('to_k', 'to_v')}.lora_up.weight": (320, 4),
    }),
    "half a pair as wide as a token": ("unknown", {"x.lora_down.weight": (4, 768)}),
    "A1111's VAE-approx": ("unknown", {"conv1.weight": (8, 4, 7, 7), "conv1.bias": (8,), "conv2.bias": (768,)}),
    "a norm of CLIP": ("unknown", {"weight": (768,), "bias": (768,)}),
    "a norm in a model": ("unknown", {"final.norm.weight": (768,), "final.norm.bias": (768,)}),
    "eleven tensors of other widths": ("unknown", {f"t{number}": (1, 700 + number) for number in range(11)}),
    "one width of several unknown": ("unknown", {"<x>": (1, 768), "<y>": (1, 769)}),
    "two numbers": ("unknown", {"a": (2,)}),
    "three axes": ("unknown", {"<x>": (1, 1, 768)}),
    "a number": ("unknown", {"<x>": ()}),
    "a whole vocabulary by token": ("unknown", {f"<{number}>": (768,) for number in range(65)}),
    "15 blocks of XTI": ("unknown", {f"OUT{number:02}": (1, 768) for number in range(3, 12)}),
    "clip_l of three axes": ("unknown", {"clip_l": (1, 1, 768)}),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "shapes"), NO_EMBEDDINGS.values(), ids=NO_EMBEDDINGS)
@pytest.mark.parametrize("container", ["safetensors", "torch"])
def test_what_looks_like_an_embedding_is_none(kind, shapes, container, tmp_path):
    path = tmp_path / f"x.{container}"
    (save_file if container == "safetensors" else torch.save)(zeros(**shapes), path)
    assert adapterhub.inspect(path).kind == kind


PICKLED = {
    "A1111's side file": {"hash": "0b6a", "optimizer_state_dict": {"state": {0: {"exp_avg": torch.zeros(1, 768)}}}},
    "a dictionary that holds more than vectors": {"<x>": torch.zeros(768), "epoch": 3},
    "a lightning file that was emptied": {},
    "string_to_param of nothing": {"string_to_token": {}, "string_to_param": {}},
    "string_to_param of numbers": {"string_to_token": {"*": 265}, "string_to_param": {"*": 3}},
    "string_to_param of a matrix of three axes": {"string_to_param": {"*": torch.zeros(1, 1, 768)}},
    "a list of other dictionaries": [{"emb": torch.zeros(768)}, {"other": torch.zeros(768)}],
    "a tuple": (torch.zeros(768),),
}


@pytest.mark.parametrize("tree", PICKLED.values(), ids=PICKLED)
def test_a_pickle_of_something_else_is_no_embedding(tree, tmp_path):
    torch.save(tree, tmp_path / "x.pt")
    assert adapterhub.inspect(tmp_path / "x.pt").kind == "unknown"


def test_an_empty_file_and_numpys_objects_are_refused(tmp_path):
    (tmp_path / "empty.pt").write_bytes(b"")
    out = BytesIO()
    np.save(out, np.array({"<x>": np.zeros(768)}, dtype=object), allow_pickle=True)
    (tmp_path / "learned_embeds.npy").write_bytes(out.getvalue())
    for name in ("empty.pt", "learned_embeds.npy"):
        with pytest.raises(MalformedFile):
            adapterhub.inspect(tmp_path / name)


def test_an_aesthetic_embedding_cannot_be_told_from_a_bare_vector(tmp_path):
    torch.save(torch.zeros(768), tmp_path / "laion_7plus.pt")
    found = adapterhub.inspect(tmp_path / "laion_7plus.pt")
    assert (found.kind, found.layout, found.tokens[0].token) == ("embedding", "raw", "laion_7plus")


TWICE = {
    "clip_l, emb_params": {"clip_l": (1, 768), "emb_params": (1, 768)},
    "t5, t5xxl": {"t5": (1, 4096), "t5xxl": (1, 4096)},
    "clip_h, clip_l": {"clip_h": (1, 1024), "clip_l": (1, 768)},
    "emb_params, emp_params": {"emb_params": (1, 768), "emp_params": (1, 768)},
    "clip_g_out, emp_params_out": {"clip_g_out": (1, 1280), "emp_params_out": (1, 1280)},
}


@pytest.mark.parametrize(("names", "shapes"), TWICE.items(), ids=TWICE)
def test_two_tensors_for_one_text_encoder_are_an_error_that_names_both(names, shapes, tmp_path):
    path = tmp_path / "x.safetensors"
    save_file(zeros(**shapes), path)
    found = adapterhub.inspect(path)
    assert (found.kind, found.layout) == ("embedding", "kohya")
    assert [(problem.severity, problem.where) for problem in found.problems] == [("error", names)]
    assert not adapterhub.validate(path).valid
    with pytest.raises(BrokenAdapter) as caught:
        adapterhub.convert(path, tmp_path / "y.safetensors", to="kohya", allow_loss=True)
    assert caught.value.places == tuple(names.split(", "))
    assert not (tmp_path / "y.safetensors").exists()


def test_both_files_of_sdxl_with_vectors_of_one_width_are_an_error(tmp_path):
    for name in ("learned_embeds", "learned_embeds_2"):
        save_file(zeros(**{"<x>": (1, 768)}), tmp_path / f"{name}.safetensors")
    (problem,) = adapterhub.inspect(tmp_path).problems
    assert (problem.severity, problem.where) == (
        "error", "learned_embeds.safetensors:<x>, learned_embeds_2.safetensors:<x>",
    )  # fmt: skip


def test_a_tensor_beside_the_vectors_is_listed_and_never_left_out_in_silence(tmp_path):
    tree = {"string_to_token": {"*": torch.tensor(265)}, "string_to_param": {"*": torch.zeros(1, 768)}, "step": 1}
    torch.save({**tree, "name": "x", "bonus": torch.zeros(4)}, tmp_path / "x.pt")
    (problem,) = adapterhub.inspect(tmp_path / "x.pt").problems
    assert (problem.severity, problem.code, problem.where) == ("error", "unknown-key", "bonus")
    with pytest.raises(LossyConversion, match="bonus"):
        adapterhub.convert(tmp_path / "x.pt", tmp_path / "y.pt", to="a1111")
    done = adapterhub.convert(tmp_path / "x.pt", tmp_path / "y.pt", to="a1111", allow_loss=True)
    assert {tuple(entry.source): entry.action for entry in done.entries} == {
        ("string_to_param.*",): "copy", ("string_to_token.*",): "metadata", ("bonus",): "drop",
    }  # fmt: skip
    assert done.exactness == "partial"


def test_the_16_blocks_of_xti_are_refused_by_name_for_every_target(tmp_path, cli):
    source = FIXTURES / "embedding/xti/sd1.safetensors"
    for layout in (layout for layout in layouts.every(Kind.EMBEDDING) if layout.writes):
        target = tmp_path / f"x{next(iter(layout.containers))}"
        done = cli("convert", source, "-o", target, "--to", layout.name)
        assert (done.status, "XTI" in done.err) == (4, True)
        done = cli("convert", source, "-o", target, "--to", layout.name, "--allow-loss")
        assert (done.status, "nothing of" in done.err) == (4, True)
    assert list(tmp_path.iterdir()) == []


def test_onetrainers_output_vectors_are_kept_by_kohya_and_listed_where_they_have_no_place(tmp_path):
    source = FIXTURES / "embedding/kohya/sdxl-out.safetensors"
    done = adapterhub.convert(source, tmp_path / "x.safetensors", to="kohya")
    assert (done.exactness, done.summary["copy"]) == ("bit-exact", 4)
    with pytest.raises(LossyConversion, match="kohya keeps OneTrainer's output vectors") as caught:
        adapterhub.convert(source, f"{tmp_path}/out/", to="diffusers")
    assert sorted(place for place, _ in caught.value.losses) == [
        "text_encoder.sdxl-out.output_vectors", "text_encoder_2.sdxl-out.output_vectors",
    ]  # fmt: skip
    done = adapterhub.convert(source, f"{tmp_path}/out/", to="diffusers", allow_loss=True)
    dropped = sorted(place for entry in done.entries if entry.action == "drop" for place in entry.source)
    assert (done.exactness, dropped) == ("partial", ["clip_g_out", "clip_l_out"])
