"""The cache of the Hugging Face Hub, whose paths tell where a file is from."""

import pytest

from adapterhub.registry.places import Trouble
from tests.registry.trees import found, link, plant, troubles

SHA256 = "0123456789abcdef" * 4


def cache(root):
    repository = root / "hub/models--alice--style"
    plant(repository, f"blobs/{SHA256}", f"blobs/{'a' * 40}", "refs/main", ".no_exist/r1/x.safetensors")
    link(repository / "snapshots/r1/lora.safetensors", f"../../blobs/{SHA256}")
    link(repository / "snapshots/r1/small.bin", f"../../blobs/{'a' * 40}")
    link(repository / "snapshots/r2/sub/lora.safetensors", f"../../../blobs/{SHA256}")
    return root


@pytest.mark.parametrize("given", ["", "hub", "hub/models--alice--style", "hub/models--alice--style/snapshots"])
def test_a_snapshot_tells_where_it_is_from(tmp_path, given):
    cache(tmp_path)
    told = {"repository": "alice/style", "revision": "r1"}
    assert [(thing.path.name, thing.application, thing.told) for thing in found(tmp_path / given)] == [
        ("lora.safetensors", "huggingface", told | {"sha256": SHA256}),
        ("small.bin", "huggingface", told),
        ("lora.safetensors", "huggingface", told | {"revision": "r2", "sha256": SHA256}),
    ]


def test_a_file_that_is_given_tells_it_too(tmp_path):
    [thing] = found(cache(tmp_path) / "hub/models--alice--style/snapshots/r1/lora.safetensors")
    assert thing.told == {"repository": "alice/style", "revision": "r1", "sha256": SHA256}


def test_a_link_elsewhere_claims_nothing(tmp_path):
    plant(tmp_path, f"store/{SHA256}")
    link(tmp_path / "a.pt", f"store/{SHA256}")
    assert [thing.told for thing in found(tmp_path)] == [{}]


def test_a_pipeline_of_links_is_one_thing(tmp_path):
    repository = plant(tmp_path / "models--sd--tiny", "blobs/1", "blobs/2")
    link(repository / "snapshots/r/model_index.json", "../../blobs/1")
    link(repository / "snapshots/r/unet/diffusion_pytorch_model.safetensors", "../../../blobs/2")
    [thing] = found(tmp_path)
    assert (thing.path, thing.told["repository"]) == (repository / "snapshots/r", "sd/tiny")
    assert len(thing.files) == 2


def test_a_link_to_nothing_is_told(tmp_path):
    path = link(tmp_path / "models--a--b/snapshots/r/a.safetensors", "../../blobs/gone")
    assert troubles(tmp_path) == [Trouble(path, "a link to nothing")]
