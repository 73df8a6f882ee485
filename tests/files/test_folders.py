"""Which files of a folder are read is told from their names, and said where it cannot be told."""

import json
import os
from pathlib import Path

import pytest

from adapterhub import files
from adapterhub.errors import MachineFailure, MalformedFile, UsageError
from adapterhub.files import ASIDE_FILE, File, Package
from adapterhub.tensors import from_bytes


def tensor(name: str) -> str:
    return name.replace("/", ":")


def lay(folder: Path, *names: str) -> Path:
    """Puts files there: weights with one tensor named after their file, documents with their name inside."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".safetensors"):
            files.write(Package.new({"x": File({tensor(name): from_bytes("U8", (1,), b"x")})}), path)
        elif name.endswith("index.json") and "safetensors" in name:
            shard = name.replace(".safetensors.index.json", "-00001-of-00001.safetensors")
            lay(folder, shard)
            path.write_text(json.dumps({"weight_map": {tensor(shard): Path(shard).name}}))
        elif name.endswith("model_index.json"):
            path.write_text(json.dumps({"unet": ["diffusers", "UNet2DConditionModel"], "safety_checker": [None, None]}))
        else:
            path.write_text(json.dumps({"name": name}))
    return folder


UNET, CLIP, VAE = "unet/diffusion_pytorch_model", "text_encoder/model", "vae/diffusion_pytorch_model"
PEFT = ("adapter_config.json", "adapter_model.safetensors")
FOUND = {
    "diffusers LoRA": (
        ("pytorch_lora_weights.safetensors",), "directory", ["pytorch_lora_weights.safetensors"], [],
    ),
    "diffusers LoRA beside other weights": (
        ("pytorch_lora_weights.safetensors", "other.safetensors", "checkpoint-500/x.safetensors"), "directory",
        ["pytorch_lora_weights.safetensors"], [],
    ),
    "PEFT": (PEFT, "directory", ["adapter_model.safetensors"], ["adapter_config.json"]),
    "PEFT, a folder a component": (
        tuple(f"{part}/{name}" for part in ("unet", "text_encoder", "text_encoder_2") for name in PEFT), "directory",
        ["text_encoder/adapter_model.safetensors", "text_encoder_2/adapter_model.safetensors",
         "unet/adapter_model.safetensors"],
        ["text_encoder/adapter_config.json", "text_encoder_2/adapter_config.json", "unet/adapter_config.json"],
    ),
    "a single file": (("x.safetensors", "x.json", "x.png"), "safetensors", ["x.safetensors"], []),
    "one component": (
        ("config.json", "diffusion_pytorch_model.safetensors"), "safetensors", ["diffusion_pytorch_model.safetensors"],
        ["config.json"],
    ),
    "checkpoint": (
        ("model_index.json", f"{UNET}.safetensors", "unet/config.json", f"{CLIP}.safetensors", f"{VAE}.safetensors",
         "scheduler/scheduler_config.json", "tokenizer/vocab.json", "safety_checker/model.safetensors"), "directory",
        [f"{CLIP}.safetensors", f"{UNET}.safetensors", f"{VAE}.safetensors"],
        ["model_index.json", "scheduler/scheduler_config.json", "unet/config.json"],
    ),
    "checkpoint with variants": (
        ("model_index.json", f"{UNET}.safetensors", f"{UNET}.fp16.safetensors", f"{UNET}.non_ema.safetensors"),
        "directory", [f"{UNET}.safetensors"], ["model_index.json"],
    ),
    "checkpoint with one variant only": (
        ("model_index.json", f"{UNET}.fp16.safetensors"), "directory", [f"{UNET}.fp16.safetensors"], ["model_index.json"],
    ),
    "checkpoint with shards": (
        ("model_index.json", f"{UNET}.safetensors.index.json", f"{UNET}.fp16.safetensors"), "directory",
        [f"{UNET}.safetensors"], ["model_index.json"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", FOUND)
def test_the_files_of_a_folder_are_found(tmp_path: Path, what: str) -> None:
    laid, container, weights, documents = FOUND[what]
    with files.read(lay(tmp_path, *laid)) as package:
        assert (package.container, package.path) == (container, tmp_path)
        assert sorted(package.files) == weights
        assert sorted(package.documents) == documents
        assert package.problems == ()
        for name, document in package.documents.items():
            assert document == json.loads((tmp_path / name).read_text())


def test_each_file_of_a_folder_has_its_path_and_its_tensors(tmp_path: Path) -> None:
    laid, _, weights, _ = FOUND["PEFT, a folder a component"]
    with files.read(lay(tmp_path, *laid)) as package:
        assert package.paths == {name: (tmp_path / name).resolve() for name in weights}
        assert {name: list(file.tensors) for name, file in package.files.items()} == {
            name: [tensor(name)] for name in weights
        }


def test_shards_in_a_component_have_their_own_paths(tmp_path: Path) -> None:
    with files.read(lay(tmp_path, "model_index.json", f"{UNET}.safetensors.index.json")) as package:
        assert list(package.files) == [f"{UNET}.safetensors"]
        assert list(package.paths) == [f"{UNET}-00001-of-00001.safetensors"]


UNCLEAR = {
    "several files": (("a.safetensors", "b.safetensors"), "several models: 'a.safetensors', 'b.safetensors'"),
    "several variants": (
        ("model_index.json", f"{UNET}.fp16.safetensors", f"{UNET}.bf16.safetensors"), "several models: 'diffusion",
    ),
    "nothing": ((), "found: nothing"),
    "other things": (("notes.json", "weights.npy"), "found: 'notes.json', 'weights.npy'"),
    "a pipeline without its index": (
        (f"{UNET}.safetensors", f"{CLIP}.safetensors", ASIDE_FILE),
        f"(?s)Expected .*, model_index.json or .*; found: '{ASIDE_FILE}', 'text_encoder/', 'unet/'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", UNCLEAR)
def test_a_folder_of_which_it_cannot_be_told_is_a_question(tmp_path: Path, what: str) -> None:
    laid, message = UNCLEAR[what]
    with pytest.raises(UsageError, match=message):
        files.read(lay(tmp_path, *laid))


MISSING = {
    "no configuration beside it": (("adapter_model.safetensors",), "adapter_config.json is missing"),
    "no configuration": (("unet/adapter_model.safetensors",), "unet/adapter_config.json is missing"),
    "no configuration of one of two": (
        ("unet/adapter_model.safetensors", *(f"text_encoder/{name}" for name in PEFT)), "unet/adapter_config.json",
    ),
    "no weights": (("unet/adapter_config.json", "unet/adapter_model.npy"), r"(?s)unet/adapter_model.safetensors.*\.npy"),
    "no unet": (("model_index.json", f"{VAE}.safetensors"), r"unet/\*.safetensors is missing"),
    "unet in another container": (("model_index.json", f"{UNET}.msgpack"), r"(?s)unet/\*.safetensors is missing.*\.msgpack"),
}  # fmt: skip


@pytest.mark.parametrize("what", MISSING)
def test_a_folder_that_lacks_a_part_is_refused(tmp_path: Path, what: str) -> None:
    laid, message = MISSING[what]
    with pytest.raises(MalformedFile, match=message) as caught:
        files.read(lay(tmp_path, *laid))
    assert caught.value.rule == "missing-file"


def test_what_is_neither_file_nor_folder_is_skipped_with_a_warning_and_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").symlink_to("b.safetensors")
    (tmp_path / "c.safetensors").symlink_to("/dev/zero")
    with files.read(lay(tmp_path, "x.safetensors")) as package:
        assert [(problem.code, problem.where) for problem in package.problems] == [
            ("skipped", "a.safetensors"), ("skipped", "b.safetensors"), ("skipped", "c.safetensors"),
        ]  # fmt: skip


@pytest.mark.skipif(os.geteuid() == 0, reason="root may enter every folder")
def test_a_folder_that_may_be_listed_and_not_entered_lacks_nothing(tmp_path: Path) -> None:
    lay(tmp_path, "model_index.json", f"{UNET}.safetensors")
    (tmp_path / "unet").chmod(0o444)
    try:
        with pytest.raises(MachineFailure, match="unet: Permission denied"):
            files.read(tmp_path)
    finally:
        (tmp_path / "unet").chmod(0o755)


@pytest.mark.parametrize("name", ["../x", "/etc", "C:x", "a/../../x"])
def test_a_pipeline_that_names_a_place_outside_is_refused(tmp_path: Path, name: str) -> None:
    lay(tmp_path, f"{UNET}.safetensors")
    (tmp_path / "model_index.json").write_text(json.dumps({name: ["diffusers", "UNet2DConditionModel"]}))
    with pytest.raises(MalformedFile) as caught:
        files.read(tmp_path)
    assert caught.value.rule == "name-outside"


@pytest.mark.parametrize("name", ["unet", "unet/diffusion_pytorch_model.safetensors", "unet/config.json"])
def test_a_link_that_leaves_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    lay(tmp_path, "in/model_index.json", f"in/{UNET}.safetensors", "in/unet/config.json")
    (tmp_path / "in" / name).rename(tmp_path / "outside")
    (tmp_path / "in" / name).symlink_to(tmp_path / "outside")
    with pytest.raises(MalformedFile) as caught:
        files.read(tmp_path / "in")
    assert caught.value.rule == "link-outside"


def test_a_folder_given_through_a_link_is_read(tmp_path: Path) -> None:
    lay(tmp_path, "in/pytorch_lora_weights.safetensors")
    (tmp_path / "link").symlink_to("in")
    with files.read(tmp_path / "link") as package:
        assert list(package.files) == ["pytorch_lora_weights.safetensors"]


def test_code_that_a_folder_wants_to_have_run_is_reported(tmp_path: Path) -> None:
    lay(tmp_path, *PEFT)
    (tmp_path / "adapter_config.json").write_text('{"auto_map": {"AutoModel": "evil.Model"}}')
    with files.read(tmp_path) as package:
        assert [(problem.code, problem.where) for problem in package.problems] == [
            ("custom-code", "adapter_config.json")
        ]


@pytest.mark.parametrize("content", ['{"r": 1, "r": 2}', '{"r": NaN}', "{", "\ufeff{}"])
def test_a_configuration_that_is_no_strict_json_is_refused(tmp_path: Path, content: str) -> None:
    lay(tmp_path, *PEFT)
    (tmp_path / "adapter_config.json").write_text(content)
    with pytest.raises(MalformedFile) as caught:
        files.read(tmp_path)
    assert caught.value.rule == "json"


def test_warnings_of_several_files_say_which_file_they_are_about(tmp_path: Path) -> None:
    lay(tmp_path, *FOUND["PEFT, a folder a component"][0])
    with files.read(tmp_path) as package:
        assert {problem.where for problem in package.problems} == set()
    (tmp_path / "unet/adapter_model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    text = b'{"__metadata__":null}'
    (tmp_path / "unet/adapter_model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    with files.read(tmp_path) as package:
        assert [problem.where for problem in package.problems] == ["unet/adapter_model.safetensors: __metadata__"]


def test_a_malformed_file_among_several_leaves_no_descriptor_open(tmp_path: Path) -> None:
    lay(tmp_path, *FOUND["PEFT, a folder a component"][0])
    os.truncate(tmp_path / "unet/adapter_model.safetensors", 9)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(MalformedFile):
        files.read(tmp_path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
