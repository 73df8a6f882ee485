"""Which weights of a component are read where there are several: those that diffusers and transformers read."""

import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers
from safetensors.torch import save_file

from adapterhub import files
from tests.consumers.test_pipeline_documents import offline

__all__ = ["offline"]

VAE, TEXT = "vae/diffusion_pytorch_model", "text_encoder/model"
CHOICES = {
    "whole and shards": ("", ("", "shards"), {VAE: "shards", TEXT: ""}),
    "whole and shards of a variant": ("fp16", ("fp16", "fp16 shards", ""), {VAE: "fp16 shards", TEXT: "fp16"}),
    "shards and a pickle": ("", ("shards", "pickle"), {VAE: "shards", TEXT: "shards"}),
    "another name": ("", ("", "model"), {VAE: ""}),
}
"""The variant that is asked for, the weights that lie there, and which of these are read."""


def live(stem: str) -> Any:
    if stem == VAE:
        return diffusers.AutoencoderKL(block_out_channels=[4], norm_num_groups=2, layers_per_block=1)
    return transformers.CLIPTextModel(
        transformers.CLIPTextConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=9)
    )


def lay(folder: Path, stem: str, model: Any, what: str, number: int) -> None:
    """Puts weights that are all `number` beside others."""
    variant = ".fp16" if what.startswith("fp16") else ""
    tensors = {name: torch.full_like(tensor, number) for name, tensor in model.state_dict().items()}
    if what.endswith("shards"):
        shard = f"{stem}{variant}-00001-of-00001.safetensors"
        save_file(tensors, folder / shard, {"format": "pt"})
        told = {"metadata": {}, "weight_map": dict.fromkeys(tensors, Path(shard).name)}
        (folder / f"{stem}.safetensors.index{variant}.json").write_text(json.dumps(told))
        (folder / f"{stem}{variant}.safetensors.index.json").write_text(json.dumps(told))
    elif what == "pickle":
        torch.save(tensors, folder / f"{stem.replace('/model', '/pytorch_model')}.bin")
    else:
        name = "model" if what == "model" else Path(stem).name
        save_file(tensors, folder / Path(stem).parent / f"{name}{variant}.safetensors", {"format": "pt"})


@pytest.mark.parametrize("what", CHOICES)
def test_of_several_weights_those_are_read_that_the_libraries_read(what: str, tmp_path: Path) -> None:
    variant, there, taken = CHOICES[what]
    (tmp_path / "model_index.json").write_text(json.dumps({"vae": ["diffusers", "AutoencoderKL"]}))
    for stem in taken:
        model = live(stem)
        model.save_pretrained(tmp_path / Path(stem).parent)
        next((tmp_path / Path(stem).parent).glob("*.safetensors")).unlink()
        for number, one in enumerate(there, 1):
            lay(tmp_path, stem, model, one, number)
    with files.read(tmp_path, variant=variant or None) as package:
        for stem, one in taken.items():
            folder, number = str(Path(stem).parent), there.index(one) + 1
            again = type(live(stem)).from_pretrained(tmp_path / folder, variant=variant or None)
            assert float(next(again.parameters()).detach().flatten()[0]) == number
            (file,) = (file for name, file in package.files.items() if name.startswith(folder))
            found = next(tensor for tensor in file.tensors.values() if tensor.dtype == "F32")
            assert torch.frombuffer(bytearray(found.read()), dtype=torch.float32)[0] == number
