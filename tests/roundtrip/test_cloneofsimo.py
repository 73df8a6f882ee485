"""cloneofsimo's ordinals: our traversal against one that is spelled out here, and against a file that its trainer wrote."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import adapterhub
import adapterhub.architectures as architectures
from adapterhub.adapter import Key, Role
from adapterhub.errors import RefusedInput
from adapterhub.layouts.lora.cloneofsimo import LAYOUT

REAL = "cloneofsimo__lora__analog_svd_rank4.safetensors"

# formats/lora.md §1.9: blocks with their number of attentions; feed-forward between the attentions, as diffusers 0.11 had it.
BLOCKS = [("down_blocks.0", 2), ("down_blocks.1", 2), ("down_blocks.2", 2),
          ("up_blocks.1", 3), ("up_blocks.2", 3), ("up_blocks.3", 3), ("mid_block", 1)]  # fmt: skip
LEAVES = ["attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "ff.net.0.proj",
          "attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0"]  # fmt: skip
UNET = [
    f"{block}.attentions.{number}.transformer_blocks.0.{leaf}"
    for block, count in BLOCKS
    for number in range(count)
    for leaf in LEAVES
]


def text(layers: int) -> list[str]:
    return [
        f"text_model.encoder.layers.{layer}.self_attn.{leaf}"
        for layer in range(layers)
        for leaf in ("k_proj", "v_proj", "q_proj", "out_proj")
    ]


NUMBERED = {
    ("sd1", "unet"): UNET,
    ("sd2", "unet"): UNET,
    ("sd1", "text_encoder"): text(12),
    ("sd2", "text_encoder"): text(23),
}


@pytest.mark.parametrize(("architecture", "component"), NUMBERED)
def test_modules_are_numbered_in_cloneofsimos_order(architecture, component):
    modules = NUMBERED[architecture, component]
    assert len(modules) == {"unet": 144, "text_encoder": 4 * (12 if architecture == "sd1" else 23)}[component]
    for number, module in enumerate(modules):
        assert LAYOUT.place(Key(component, module, Role.UP), architecture) == f"{component}:{number}:up"
        assert LAYOUT.place(Key(component, module, Role.DOWN), architecture) == f"{component}:{number}:down"
    every = architectures.get(architecture).weights[component]
    assert sum(1 for module in every if LAYOUT.place(Key(component, module, Role.UP), architecture)) == len(modules)


def numbered(architecture: str, leaves: list[str] = LEAVES) -> dict[str, np.ndarray]:
    """A whole file of rank 1, its blocks' leaves in the order of `leaves`."""
    weights = architectures.get(architecture).weights
    order = [module.replace(LEAVES[number % 9], leaves[number % 9]) for number, module in enumerate(UNET)]
    tensors = {}
    for component, modules in (("unet", order), ("text_encoder", NUMBERED[architecture, "text_encoder"])):
        for number, module in enumerate(modules):
            rows, columns = weights[component][module][:2]
            tensors[f"{component}:{number}:up"] = np.full((rows, 1), number / 256, np.float16)
            tensors[f"{component}:{number}:down"] = np.full((1, columns), 1.0, np.float16)
    return tensors


@pytest.mark.parametrize("architecture", ["sd1", "sd2"])
def test_a_whole_file_comes_back_from_kohya_the_same(architecture, tmp_path):
    source, kohya, again = (tmp_path / f"{name}.safetensors" for name in ("source", "kohya", "again"))
    tensors = numbered(architecture)
    save_file(tensors, source)
    adapterhub.convert(source, kohya, to="kohya")
    adapterhub.convert(kohya, again, to="cloneofsimo")
    found = load_file(again)
    assert found.keys() == tensors.keys()
    assert all(np.array_equal(found[name], tensors[name]) for name in tensors)


def test_the_ranks_and_classes_are_told_again(tmp_path):
    source, kohya, again = (tmp_path / f"{name}.safetensors" for name in ("source", "kohya", "again"))
    save_file(
        numbered("sd1"), source, metadata={"unet": '["CrossAttention"]', "unet:0:rank": "1", "unet:143:rank": "9"}
    )
    adapterhub.convert(source, kohya, to="kohya")
    assert not [name for name in header(kohya)["__metadata__"] if name.startswith("unet")]
    adapterhub.convert(kohya, again, to="cloneofsimo")
    told = header(again)["__metadata__"]
    assert {name for name in told if name.endswith(":rank")} == {f"{component}:{number}:rank" for component, count in
            (("unet", 144), ("text_encoder", 48)) for number in range(count)}  # fmt: skip
    assert told["unet:143:rank"] == "1"
    assert "Attention" in json.loads(told["unet"])
    assert json.loads(told["text_encoder"]) == ["CLIPAttention"]


def header(path: Path) -> dict[str, dict]:
    data = path.read_bytes()
    return json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])


def test_a_file_of_a_later_diffusers_is_told_by_its_shapes(tmp_path):
    later = [*LEAVES[:4], *LEAVES[5:], "ff.net.0.proj"]
    source, kohya = tmp_path / "source.safetensors", tmp_path / "kohya.safetensors"
    tensors = numbered("sd1", later)
    save_file(tensors, source)
    assert adapterhub.inspect(source).problems == []
    adapterhub.convert(source, kohya, to="kohya")
    found = load_file(kohya)
    for number, leaf in enumerate(later):
        name = f"lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_{leaf.replace('.', '_')}"
        assert np.array_equal(found[f"{name}.lora_up.weight"], tensors[f"unet:{number}:up"])


def test_a_file_that_lacks_a_module_is_refused_and_nothing_is_written(tmp_path):
    source, kohya, again = (tmp_path / f"{name}.safetensors" for name in ("source", "kohya", "again"))
    save_file({name: tensor for name, tensor in numbered("sd1").items() if not name.startswith("unet:7:")}, source)
    adapterhub.convert(source, kohya, to="kohya")
    with pytest.raises(RefusedInput, match=r"numbers all 144 modules of the unet, and 1 are not .*attn2\.to_v"):
        adapterhub.convert(kohya, again, to="cloneofsimo")
    assert not again.exists()


def test_the_shapes_of_a_real_file_are_those_of_the_modules(real_files):
    weights = architectures.get("sd1").weights
    tensors = load_file(real_files / REAL)
    assert len(tensors) == 2 * (144 + 48)
    for component in ("unet", "text_encoder"):
        for number, module in enumerate(NUMBERED["sd1", component]):
            rows, columns = weights[component][module][:2]
            assert tensors[f"{component}:{number}:up"].shape == (rows, 4)
            assert tensors[f"{component}:{number}:down"].shape == (4, columns)


def test_a_real_file_comes_back_from_kohya_the_same(real_files, tmp_path):
    kohya, again = tmp_path / "kohya.safetensors", tmp_path / "again.safetensors"
    done = adapterhub.convert(real_files / REAL, kohya, to="kohya")
    assert (done.exactness, done.max_error, done.modules) == ("bit-exact", 0.0, 192)
    adapterhub.convert(kohya, again, to="cloneofsimo")
    source, found = load_file(real_files / REAL), load_file(again)
    assert found.keys() == source.keys()
    assert all(found[name].tobytes() == source[name].tobytes() for name in source)
    ranks = {name: text for name, text in header(real_files / REAL)["__metadata__"].items() if name.endswith(":rank")}
    assert ranks.items() <= header(again)["__metadata__"].items()
