"""A folder from a stranger: what it names stays inside it, what lies in it is never run, and it comes to an end."""

import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from adapterhub import files
from adapterhub.errors import MalformedFile, UsageError

ENDINGS = pytest.mark.parametrize("ending", [".safetensors", ".bin"])


def save(path: Path, **tensors: Any) -> Path:
    """The tensors in a file of the kind that the name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith(".safetensors"):
        save_file(tensors, path)
    else:
        torch.save(tensors, path)
    return path


def write(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def shards(folder: Path, ending: str, weight_map: dict[str, str] | None = None, **metadata: object) -> Path:
    """Two shards, with the tensors a and c, and b, of four bytes each; gives their index."""
    first, second = (f"model-0000{number}-of-00002{ending}" for number in (1, 2))
    save(folder / first, a=torch.zeros(1), c=torch.ones(1))
    save(folder / second, b=torch.zeros(1))
    told = {"a": first, "b": second, "c": first, **(weight_map or {})}
    return write(folder / f"model{ending}.index.json", {"metadata": metadata, "weight_map": told})


def refusal(path: Path) -> str:
    """The rule by which `path` is refused; nothing stays open."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(MalformedFile) as caught:
        files.read(path)
    assert caught.value.exit_status == 3
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    return caught.value.rule


OUTSIDE = ["../x", "x/../../x", "..\\x", "/etc/passwd", "\\\\host\\x", "C:x", "D:\\x", "~/x", "x\0", "", ".."]


@ENDINGS
@pytest.mark.parametrize("name", OUTSIDE)
def test_an_index_that_names_a_place_outside_is_refused(tmp_path: Path, ending: str, name: str) -> None:
    save(tmp_path / f"x{ending}", b=torch.zeros(1))
    index = shards(tmp_path / "in", ending, {"b": name + ending if name.endswith("x") else name})
    assert refusal(index) == refusal(tmp_path / "in") == "name-outside"


@ENDINGS
@pytest.mark.parametrize("name", OUTSIDE)
def test_a_pipeline_that_names_a_place_outside_is_refused(tmp_path: Path, ending: str, name: str) -> None:
    save(tmp_path / f"unet/diffusion_pytorch_model{ending}", x=torch.zeros(1))
    write(tmp_path / "model_index.json", {name: ["diffusers", "UNet2DConditionModel"]})
    assert refusal(tmp_path) == "name-outside"


@pytest.mark.parametrize("index", [[], "unet", None, 3])
def test_a_pipeline_that_is_no_object_is_refused(tmp_path: Path, index: object) -> None:
    save(tmp_path / "unet/diffusion_pytorch_model.bin", x=torch.zeros(1))
    write(tmp_path / "model_index.json", index)
    assert refusal(tmp_path) == "not-a-pipeline"


@ENDINGS
def test_shards_that_do_not_fit_their_index_are_refused(tmp_path: Path, ending: str) -> None:
    first, second, third = (f"model-0000{number}-of-00002{ending}" for number in (1, 2, 3))
    assert refusal(shards(tmp_path / "0", ending, {"b": third})) == "missing-shard"
    assert refusal(shards(tmp_path / "1", ending, {"d": first})) == "tensor-missing"
    assert refusal(shards(tmp_path / "2", ending, {"a": second})) == "tensor-not-in-index"
    index = shards(tmp_path / "3", ending)
    save(tmp_path / "3" / first, a=torch.zeros(1), c=torch.ones(1), d=torch.ones(1))
    assert refusal(index) == "tensor-not-in-index"
    index = shards(tmp_path / "4", ending)
    save(tmp_path / "4" / second, a=torch.zeros(1), b=torch.zeros(1))
    assert refusal(index) == "tensor-in-two-shards"
    for number, lie in enumerate((11, 13, 0, -12, "12", 1 << 70, [12])):
        assert refusal(shards(tmp_path / f"lie{number}", ending, total_size=lie)) == "total-size"
    with files.read(shards(tmp_path / "true", ending, total_size=12)) as package:
        assert sorted(package.only.tensors) == ["a", "b", "c"]


@ENDINGS
def test_one_shard_under_two_names_is_refused(tmp_path: Path, ending: str) -> None:
    index = shards(tmp_path, ending)
    again = tmp_path / f"model-00002-of-00002{ending}"
    again.unlink()
    again.symlink_to(f"model-00001-of-00002{ending}")
    assert refusal(index) == "tensor-in-two-shards"


LINKS = {
    "weights": ("learned_embeds.bin", ["learned_embeds.bin"]),
    "weights of PEFT": ("adapter_model.bin", ["adapter_model.bin", "adapter_config.json"]),
    "text": ("token_identifier.txt", ["learned_embeds.bin", "token_identifier.txt"]),
    "document": ("special_params.json", ["embeddings.pti", "special_params.json"]),
    "a lone file": ("x.pt", ["x.pt"]),
    "component": ("unet", ["model_index.json", "unet/diffusion_pytorch_model.bin"]),
    "weights of a component": (
        "unet/diffusion_pytorch_model.bin", ["model_index.json", "unet/diffusion_pytorch_model.bin"],
    ),
    "a component of PEFT": ("unet", ["unet/adapter_model.bin", "unet/adapter_config.json"]),
}  # fmt: skip


@pytest.mark.parametrize("what", LINKS)
def test_a_link_that_leaves_the_folder_is_refused(tmp_path: Path, what: str) -> None:
    link, laid = LINKS[what]
    for name in laid:
        path = tmp_path / "in" / name
        if name.endswith(".json"):
            write(path, {"unet": ["diffusers", "UNet2DConditionModel"]})
        elif name.endswith(".txt"):
            write(path, "text")
        else:
            save(path, x=torch.zeros(1))
    (tmp_path / "in" / link).rename(tmp_path / "outside")
    (tmp_path / "in" / link).symlink_to(tmp_path / "outside")
    assert refusal(tmp_path / "in") == "link-outside"


@ENDINGS
def test_a_shard_that_is_a_link_out_of_the_folder_is_refused(tmp_path: Path, ending: str) -> None:
    index = shards(tmp_path / "in", ending)
    (tmp_path / "in" / f"model-00002-of-00002{ending}").rename(tmp_path / "outside")
    (tmp_path / "in" / f"model-00002-of-00002{ending}").symlink_to(tmp_path / "outside")
    assert refusal(index) == refusal(tmp_path / "in") == "link-outside"


def test_links_that_run_in_circles_end(tmp_path: Path) -> None:
    write(tmp_path / "model_index.json", {"unet": ["diffusers", "UNet2DConditionModel"]})
    (tmp_path / "unet").symlink_to(".")
    assert refusal(tmp_path) == "missing-file"
    (tmp_path / "model_index.json").unlink()
    (tmp_path / "x.bin").symlink_to("y.bin")
    (tmp_path / "y.bin").symlink_to("x.bin")
    with pytest.raises(UsageError, match="holds no adapter"):
        files.read(tmp_path)
    save(tmp_path / "z.bin", x=torch.zeros(1))
    with files.read(tmp_path) as package:
        assert [(p.code, p.where) for p in package.problems] == [("skipped", "x.bin"), ("skipped", "y.bin")]


@ENDINGS
def test_a_shard_that_is_a_link_in_circles_is_refused(tmp_path: Path, ending: str) -> None:
    index = shards(tmp_path, ending)
    (tmp_path / f"model-00002-of-00002{ending}").unlink()
    (tmp_path / f"model-00002-of-00002{ending}").symlink_to(f"model-00002-of-00002{ending}")
    assert refusal(index) == "link-loop"


@ENDINGS
def test_fifos_sockets_and_devices_are_skipped_with_a_warning(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / f"learned_embeds{ending}", x=torch.zeros(1))
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    os.mkfifo("token_identifier.txt")
    os.mkfifo(f"learned_embeds_2{ending}")
    Path(f"pytorch_lora_weights{ending}").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("adapter_config.json")
        with files.read(tmp_path) as package:
            assert list(package.files) == [f"learned_embeds{ending}"]
            assert dict(package.documents) == {}
            assert [(p.code, p.where) for p in package.problems] == [
                ("skipped", "adapter_config.json"), ("skipped", f"learned_embeds_2{ending}"),
                ("skipped", f"pytorch_lora_weights{ending}"), ("skipped", "token_identifier.txt"),
            ]  # fmt: skip


@ENDINGS
def test_a_shard_that_is_a_fifo_is_refused_and_never_opened(tmp_path: Path, ending: str) -> None:
    index = shards(tmp_path, ending)
    (tmp_path / f"model-00002-of-00002{ending}").unlink()
    os.mkfifo(tmp_path / f"model-00002-of-00002{ending}")
    assert refusal(index) == "not-a-regular-file"


@ENDINGS
@pytest.mark.parametrize("field", ["auto_map", "custom_pipeline"])
def test_code_that_a_folder_brings_is_reported_and_never_imported(tmp_path: Path, ending: str, field: str) -> None:
    marker = tmp_path / "marker"
    for name in ("evil_pipeline.py", "pipeline.py", "unet/evil_pipeline.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"open({str(marker)!r}, 'w')")
    save(tmp_path / f"unet/diffusion_pytorch_model{ending}", x=torch.zeros(1))
    asks = {field: {"AutoModel": "evil_pipeline.Model"}}
    write(tmp_path / "model_index.json", {"unet": ["evil_pipeline", "Model"], **asks})
    write(tmp_path / "unet/config.json", asks)
    with files.read(tmp_path) as package:
        assert [(p.severity, p.code, p.where) for p in package.problems] == [
            ("warning", "custom-code", "model_index.json"), ("warning", "custom-code", "unet/config.json"),
        ]  # fmt: skip
    assert not marker.exists()
    assert "evil_pipeline" not in sys.modules


class Payload:
    """What makes a folder, if it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


EVIL = [
    "pytorch_lora_weights.bin", "adapter_model.bin", "unet/adapter_model.bin", "learned_embeds.bin", "x.pt", "x.ckpt",
    "unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.fp16.bin", "model-00002-of-00002.bin",
    "pytorch_lora_weights.safetensors", "embeddings.pti", "learned_embeds_2.bin",
]  # fmt: skip


@pytest.mark.parametrize("name", EVIL)
@pytest.mark.parametrize("old", [False, True], ids=["zip", "legacy"])
def test_a_pickle_that_means_harm_is_refused_wherever_it_lies_in_a_folder(tmp_path: Path, name: str, old: bool) -> None:
    folder, marker = tmp_path / "in", tmp_path / "marker"
    path = folder / name
    if name.startswith("model-"):
        shards(folder, ".bin")
    elif name.endswith("adapter_model.bin"):
        write(path.parent / "adapter_config.json", {})
    elif name.startswith("unet/"):
        write(folder / "model_index.json", {"unet": ["diffusers", "UNet2DConditionModel"]})
    elif name == "learned_embeds_2.bin":
        save(folder / "learned_embeds.bin", x=torch.zeros(1))
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"x": torch.zeros(2), "y": Payload(marker)}, path, _use_new_zipfile_serialization=not old)
    assert refusal(folder) == ("pickle" if name.endswith(".safetensors") else "pickle-global")
    assert not marker.exists()
    with path.open("rb") as stream:
        torch.load(stream, weights_only=False)
    assert marker.exists()  # the payload would have worked


@pytest.mark.parametrize("old", [False, True], ids=["zip", "legacy"])
def test_an_index_of_safetensors_never_leads_to_a_pickle(tmp_path: Path, old: bool) -> None:
    first, second = (f"model-0000{number}-of-00002.bin" for number in (1, 2))
    shards(tmp_path, ".bin")
    told = {"weight_map": {"a": first, "b": second, "c": first}}
    torch.save({"b": torch.zeros(1)}, tmp_path / second, _use_new_zipfile_serialization=not old)
    with files.read(write(tmp_path / "model.bin.index.json", told)):
        pass
    for name in ("model.safetensors.index.json", "model.safetensors.index.fp16.json", "model.json", "x.bin.json"):
        assert refusal(write(tmp_path / name, told)) == "pickle"


@pytest.mark.parametrize("old", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    ("link", "real"), [("learned_embeds.safetensors", "blob"), ("learned_embeds.bin", "blobs/y.SafeTensors")]
)
def test_what_is_called_safetensors_on_either_end_of_a_link_is_no_pickle(
    tmp_path: Path, old: bool, link: str, real: str
) -> None:
    (tmp_path / "blobs").mkdir()
    torch.save({"x": torch.zeros(1)}, tmp_path / real, _use_new_zipfile_serialization=not old)
    (tmp_path / link).symlink_to(real)
    assert refusal(tmp_path) == "pickle"


PICTURES = {"png": b"\x89PNG\r\n\x1a\n" + bytes(64), "webp": b"RIFF\x10\0\0\0WEBPVP8 " + bytes(64)}


@pytest.mark.parametrize("kind", PICTURES)
def test_a_picture_is_neither_safetensors_nor_a_shard(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(PICTURES[kind])
    assert refusal(path) == refusal(tmp_path) == kind
    index = shards(tmp_path / "shards", ".bin")
    (tmp_path / "shards/model-00002-of-00002.bin").write_bytes(PICTURES[kind])
    assert refusal(index) == kind
