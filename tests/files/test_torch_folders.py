"""Folders whose weights are files of torch are found by the same names as those of safetensors, which win over them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import save_file

from adapterhub import files
from adapterhub.errors import MalformedFile, UsageError
from adapterhub.files.directories import survey

SAFETENSORS = (".safetensors", ".pti")
TORCH = (".bin", ".pt", ".ckpt")


def tensor(name: str) -> str:
    return name.replace("/", ":")


def lay(folder: Path, *names: str) -> Path:
    """Puts files there: weights with one tensor named after their file, documents with their name inside."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(SAFETENSORS):
            save_file({tensor(name): torch.zeros(1)}, path)
        elif name.endswith(TORCH):
            torch.save({tensor(name): torch.zeros(1)}, path)
        elif name.endswith("model_index.json"):
            path.write_text(json.dumps({"unet": ["diffusers", "UNet2DConditionModel"]}))
        elif name.endswith(".json"):
            path.write_text(json.dumps({"name": name}))
        else:
            path.write_bytes(name.encode())
    return folder


UNET, CLIP, VAE = "unet/diffusion_pytorch_model", "text_encoder/pytorch_model", "vae/diffusion_pytorch_model"
LORA, LORA_BIN = "pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin"
PEFT = ("adapter_config.json", "adapter_model.bin")
TRAINING = ("optimizer.bin", "optimizer_1.bin", "scheduler.bin", "scaler.pt", "sampler.bin", "training_args.bin")
FOUND: dict[str, tuple[tuple[str, ...], str, list[str], list[str]]] = {
    "diffusers LoRA": ((LORA_BIN, "README.md"), "directory", [LORA_BIN], []),
    "diffusers LoRA twice": ((LORA_BIN, LORA), "directory", [LORA], []),
    "PEFT": (PEFT, "directory", [PEFT[1]], [PEFT[0]]),
    "PEFT twice": ((*PEFT, "adapter_model.safetensors"), "directory", ["adapter_model.safetensors"], [PEFT[0]]),
    "PEFT, a folder a component": (
        (*(f"unet/{name}" for name in PEFT), "text_encoder/adapter_config.json", "text_encoder/adapter_model.safetensors"),
        "directory", ["text_encoder/adapter_model.safetensors", "unet/adapter_model.bin"],
        ["text_encoder/adapter_config.json", "unet/adapter_config.json"],
    ),
    "checkpoint": (
        ("model_index.json", f"{UNET}.bin", f"{CLIP}.bin", f"{VAE}.bin", "safety_checker/pytorch_model.bin"),
        "directory", [f"{CLIP}.bin", f"{UNET}.bin", f"{VAE}.bin"], ["model_index.json"],
    ),
    "checkpoint in both": (
        ("model_index.json", f"{UNET}.bin", f"{UNET}.safetensors", f"{CLIP}.bin", "text_encoder/model.safetensors"),
        "directory", ["text_encoder/model.safetensors", f"{UNET}.safetensors"], ["model_index.json"],
    ),
    "checkpoint with variants": (
        ("model_index.json", f"{UNET}.bin", f"{UNET}.fp16.bin", f"{UNET}.non_ema.bin"), "directory", [f"{UNET}.bin"],
        ["model_index.json"],
    ),
    "checkpoint whose safetensors is a variant": (
        ("model_index.json", f"{UNET}.bin", f"{UNET}.fp16.safetensors"), "directory", [f"{UNET}.bin"],
        ["model_index.json"],
    ),
    "checkpoint with one variant only": (
        ("model_index.json", f"{UNET}.fp16.bin"), "directory", [f"{UNET}.fp16.bin"], ["model_index.json"],
    ),
    "checkpoint with one variant in both": (
        ("model_index.json", f"{UNET}.fp16.bin", f"{UNET}.fp16.safetensors"), "directory",
        [f"{UNET}.fp16.safetensors"], ["model_index.json"],
    ),
    "embedding": (("learned_embeds.safetensors", "x.png"), "directory", ["learned_embeds.safetensors"], []),
    "embedding of the sd-concepts-library": (
        ("learned_embeds.bin", "token_identifier.txt", "type_of_concept.txt", "concept_images/0.jpeg", "README.md"),
        "directory", ["learned_embeds.bin"], ["token_identifier.txt", "type_of_concept.txt"],
    ),
    "embedding on the way": (
        ("learned_embeds.safetensors", "learned_embeds-steps-500.safetensors", "learned_embeds-steps-500.bin"),
        "directory", ["learned_embeds.safetensors"], [],
    ),
    "embedding of SDXL": (
        ("learned_embeds.safetensors", "learned_embeds_2.safetensors"), "directory",
        ["learned_embeds.safetensors", "learned_embeds_2.safetensors"], [],
    ),
    "embedding of SDXL in files of torch": (
        ("learned_embeds.bin", "learned_embeds_2.bin"), "directory", ["learned_embeds.bin", "learned_embeds_2.bin"], [],
    ),
    "embedding in a pipeline": (
        ("learned_embeds.safetensors", "model_index.json", f"{UNET}.safetensors"), "directory",
        ["learned_embeds.safetensors"], ["model_index.json"],
    ),
    "embedding of cog-sdxl": (
        ("embeddings.pti", "special_params.json"), "safetensors", ["embeddings.pti"], ["special_params.json"],
    ),
    "a single .pt": (("x.pt", "x.png", "notes.txt"), "torch-zip", ["x.pt"], []),
    "a single .bin": (("x.bin", "config.json"), "torch-zip", ["x.bin"], ["config.json"]),
    "a single .ckpt": (("x.ckpt", ".y.ckpt"), "torch-zip", ["x.ckpt"], []),
    "a single .safetensors among others": (("x.safetensors", "y.pt", "z.bin"), "safetensors", ["x.safetensors"], []),
    "a model in training": (("pytorch_model.bin", *TRAINING), "torch-zip", ["pytorch_model.bin"], []),
}  # fmt: skip


@pytest.mark.parametrize("what", FOUND)
def test_the_files_of_a_folder_are_found(tmp_path: Path, what: str) -> None:
    laid, container, weights, documents = FOUND[what]
    with files.read(lay(tmp_path, *laid)) as package:
        assert (package.container, package.path) == (container, tmp_path)
        assert sorted(package.files) == weights
        assert sorted(package.documents) == documents
        assert package.problems == ()
        for name, file in package.files.items():
            assert list(file.tensors) == [tensor(name)]
            assert file.container == ("safetensors" if name.endswith(SAFETENSORS) else "torch-zip")


def test_a_lone_picture_is_the_last_that_is_looked_for(tmp_path: Path) -> None:
    for name in ("x.webp", "x.pt", "x.safetensors"):
        assert survey(files.Folder(lay(tmp_path, name)), files.LIMITS)[0].weights == [name]


def test_a_lone_picture_is_read(tmp_path: Path, real_files: Path) -> None:
    name = "Ljzd-PRO__stable-diffusion-embeddings-of-gasai-yuno__gasai_yuno-1000.png"
    shutil.copy(real_files / name, tmp_path)
    for path in (tmp_path, tmp_path / name):
        with files.read(path) as package:
            assert (package.container, package.only.container) == ("png", "png")
            assert {key: found.shape for key, found in package.only.tensors.items()} == {"string_to_param.*": (8, 768)}


UNCLEAR = {
    "several files": (("a.pt", "b.bin"), "several models: 'a.pt', 'b.bin'"),
    "several pictures": (("a.png", "b.webp"), "several models: 'a.png', 'b.webp'"),
    "several variants": (("model_index.json", f"{UNET}.fp16.bin", f"{UNET}.non_ema.bin"), "several models: 'diffusion"),
    "a LoRA beside its embeddings": (
        ("embeddings.pti", "lora.safetensors"),
        "models: 'embeddings.pti', 'lora.safetens",
    ),
    "nothing but training": (TRAINING, "holds no adapter and no model"),
}


@pytest.mark.parametrize("what", UNCLEAR)
def test_a_folder_of_which_it_cannot_be_told_is_a_question(tmp_path: Path, what: str) -> None:
    laid, message = UNCLEAR[what]
    with pytest.raises(UsageError, match=message):
        files.read(lay(tmp_path, *laid))


def test_texts_come_as_they_are_and_the_documents_of_cog_as_json(tmp_path: Path) -> None:
    lay(tmp_path, "learned_embeds.bin")
    (tmp_path / "token_identifier.txt").write_bytes("<né>\r\n<two>\r\n".encode())
    (tmp_path / "type_of_concept.txt").write_bytes(b"")
    (tmp_path / "special_params.json").write_text('{"TOK": "<s0><s1>"}')
    with files.read(tmp_path) as package:
        assert package.documents == {
            "token_identifier.txt": "<né>\r\n<two>\r\n", "type_of_concept.txt": "",
            "special_params.json": {"TOK": "<s0><s1>"},
        }  # fmt: skip


@pytest.mark.parametrize(
    ("content", "rule"), [(b"\xff\xfe<\0", "text-not-utf8"), (b"x" * 101, "text-too-large")], ids=["UTF-16", "long"]
)
def test_a_text_that_is_too_long_or_not_utf8_is_refused(tmp_path: Path, content: bytes, rule: str) -> None:
    lay(tmp_path, "learned_embeds.bin")
    (tmp_path / "token_identifier.txt").write_bytes(content)
    with pytest.raises(MalformedFile) as caught:
        files.read(tmp_path, limits=files.Limits(document=100))
    assert (caught.value.rule, caught.value.path) == (rule, tmp_path / "token_identifier.txt")


STATE = {
    "a": torch.arange(100.0), "b": torch.arange(60), "c": torch.ones(3, dtype=torch.float16), "d": torch.zeros(40, 2),
}  # fmt: skip


def shard(folder: Path, state: dict[str, Any], stem: str = "pytorch_model") -> Path:
    """The state in shards and their index, written by huggingface_hub; gives the index."""
    folder.mkdir(parents=True, exist_ok=True)
    save_torch_state_dict(
        state, folder, safe_serialization=False, max_shard_size=500, filename_pattern=stem + "{suffix}.bin"
    )
    return folder / f"{stem}.bin.index.json"


def stored(value: torch.Tensor) -> bytes:
    return value.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("stem", ["pytorch_model", "diffusion_pytorch_model"])
@pytest.mark.parametrize("whole", [False, True])
def test_shards_of_torch_are_one_file(tmp_path: Path, stem: str, whole: bool) -> None:
    index = shard(tmp_path, STATE, stem)
    with files.read(tmp_path if whole else index) as package:
        assert (package.container, list(package.files)) == ("safetensors-sharded", [f"{stem}.bin"])
        assert package.only.container == "torch-zip"
        assert {name: found.read() for name, found in package.only.tensors.items()} == {
            name: stored(value) for name, value in STATE.items()
        }
        assert package.paths == {f"{stem}-0000{n}-of-00003.bin": tmp_path / f"{stem}-0000{n}-of-00003.bin" for n in (1, 2, 3)}  # fmt: skip
        assert package.size == sum(path.stat().st_size for path in package.paths.values())
        assert package.problems == ()


def test_shards_of_torch_in_a_component_are_found_and_lose_against_safetensors(tmp_path: Path) -> None:
    lay(tmp_path, "model_index.json")
    shard(tmp_path / "unet", STATE, "diffusion_pytorch_model")
    with files.read(tmp_path) as package:
        assert list(package.files) == [f"{UNET}.bin"]
        assert list(package.paths) == [f"{UNET}-0000{n}-of-00003.bin" for n in (1, 2, 3)]
    with files.read(lay(tmp_path, f"{UNET}.safetensors")) as package:
        assert list(package.files) == [f"{UNET}.safetensors"]


def test_a_total_counts_tensors_that_share_a_storage_once_or_each(tmp_path: Path) -> None:
    base = torch.arange(100.0)
    index = shard(tmp_path, {"a": base, "tied": base.view(10, 10), "b": torch.arange(60), "part": torch.ones(3)[:2]})
    told = json.loads(index.read_text())
    assert told["metadata"]["total_size"] == 400 + 480 + 12
    with files.read(index) as package:
        assert package.only.tensors["tied"].read() == stored(base)
    told["metadata"]["total_size"] = 400 + 400 + 480 + 8
    index.write_text(json.dumps(told))
    with files.read(index):
        pass
    for lie in (891, 893, 1287, 1289):
        told["metadata"]["total_size"] = lie
        index.write_text(json.dumps(told))
        with pytest.raises(MalformedFile) as caught:
            files.read(index)
        assert caught.value.rule == "total-size"


def test_a_safetensors_file_may_be_a_shard_among_those_of_torch(tmp_path: Path) -> None:
    index = shard(tmp_path, STATE)
    told = json.loads(index.read_text())
    name = told["weight_map"]["b"].replace(".bin", ".safetensors")
    (tmp_path / told["weight_map"]["b"]).unlink()
    save_file({key: STATE[key] for key, where in told["weight_map"].items() if where == told["weight_map"]["b"]}, tmp_path / name)  # fmt: skip
    told["weight_map"] = {k: name if v == told["weight_map"]["b"] else v for k, v in told["weight_map"].items()}
    index.write_text(json.dumps(told))
    with files.read(index) as package:
        assert package.only.tensors["b"].read() == stored(STATE["b"])


def test_a_torch_file_is_read_through_the_links_of_the_hubs_cache(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b" / "snapshots" / "abc"
    lay(snapshot, LORA_BIN)
    blobs.mkdir()
    (snapshot / LORA_BIN).rename(blobs / "1")
    (snapshot / LORA_BIN).symlink_to("../../blobs/1")
    with files.read(snapshot) as package:
        assert list(package.only.tensors) == [LORA_BIN]
