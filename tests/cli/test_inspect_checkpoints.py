"""What `inspect` shows to people of a whole model."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

import adapterhub
from tests.operations.checkpoint_files import FOREIGN, averages, saved, weights

VAE = "first_stage_model."
UNET_FILE = "unet/diffusion_pytorch_model.safetensors"
LEFT = {"epoch": 3, "global_step": 470000, "pytorch-lightning_version": "1.4.2"}


def shown(text: str) -> dict[str, str]:
    """The second column by the first."""
    return dict(line.strip().split(None, 1) for line in text.splitlines())


def test_the_dtypes_of_each_component_and_the_classes_beside_them_are_shown(cli, tmp_path):
    tensors = {place: tensor.astype("f2") if place.startswith(VAE) else tensor for place, tensor in weights("sd1").items()}  # fmt: skip
    beside = {**averages(tensors), **FOREIGN}
    path = saved(tmp_path / "model.safetensors", {**tensors, **beside})
    told = shown(cli("inspect", path).out)
    assert told["unet"] == "686 tensors (F32 686)"
    assert told["vae"] == "248 tensors (F16 248)"
    ema = sum(tensor.nbytes for tensor in averages(tensors).values())
    assert told["beside"] == f"ema 688 ({ema / 1000:.3g} kB), foreign 2 (7 bytes)"


def test_what_trainers_leave_in_a_ckpt_is_shown(cli, tmp_path):
    state = {name: torch.from_numpy(np.array(tensor)) for name, tensor in weights("sd1").items()}
    beside = {**LEFT, "db_global_step": 7, "callbacks": {"best": None}, "lr_schedulers": [{"last_epoch": 3}]}
    torch.save({"state_dict": state, **beside}, tmp_path / "wrapped.ckpt")
    torch.save({**state, **LEFT}, tmp_path / "flat.ckpt")
    told = {name: text for name, text in beside.items() if name in LEFT or name == "db_global_step"}
    assert adapterhub.inspect(tmp_path / "wrapped.ckpt").metadata == {name: str(value) for name, value in told.items()}
    assert adapterhub.inspect(tmp_path / "flat.ckpt").metadata == {name: str(value) for name, value in LEFT.items()}
    line = "epoch 3, global_step 470000, db_global_step 7, pytorch-lightning_version 1.4.2"
    assert shown(cli("inspect", tmp_path / "wrapped.ckpt").out)["trained"] == line


def test_every_weight_file_of_a_folder_has_its_digests(cli, tmp_path):
    source = saved(tmp_path / "model.safetensors", weights("sd1"))
    adapterhub.convert(source, tmp_path / "folder", to="diffusers")
    found = adapterhub.inspect(tmp_path / "folder", hash=True)
    wanted = {str(path.relative_to(tmp_path / "folder")): hashlib.sha256(path.read_bytes()).hexdigest()
              for path in (tmp_path / "folder").rglob("*.safetensors")}  # fmt: skip
    assert {name: hashes.sha256 for name, hashes in found.file_hashes.items()} == wanted
    assert (found.hashes, found.fingerprint) == (None, adapterhub.inspect(source, hash=True).fingerprint)
    assert all(hashes.sshs_model_hash and hashes.crc32 for hashes in found.file_hashes.values())
    assert f"sha256 {UNET_FILE}" in (text := cli("inspect", "--hash", tmp_path / "folder").out)
    assert all(digest in text for digest in wanted.values())
