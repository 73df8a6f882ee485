"""Pipelines, folders in repositories, and shards: remote they are what they are here, and a pull takes all of them or nothing."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save

import adapterhub
from adapterhub.errors import AdapterhubError, MalformedFile, NeedsDownload, NotFound, UsageError
from adapterhub.files import Address
from adapterhub.hub import contents
from adapterhub.hub.addresses import InRepository
from adapterhub.hub.contents import RemoteFolder
from adapterhub.hub.repository import repository
from tests.hub.pulling.reading_hub import COMMIT
from tests.hub.sources import FIXTURES, INDEX, PEFT, content_of, in_shards, sharded
from tests.operations.checkpoint_files import saved, weights

FOX = "alice/fox"


@pytest.fixture(scope="module", params=["sd1", "sdxl"])
def pipeline(request, tmp_path_factory):
    """A pipeline with the names and not the widths of this architecture."""
    folder = tmp_path_factory.mktemp(request.param)
    source = saved(folder / "model.safetensors", weights(request.param))
    adapterhub.convert(source, folder / "out", to="diffusers", digests=False)
    return request.param, folder / "out"


def asked(hub):
    """How many requests, and the files that they were for; tensors are never asked for."""
    assert all("Range" in headers or "range" in headers for path, headers in hub.seen if "/resolve/" in path)
    return len(hub.seen)


def same(there, here):
    return there.model_copy(update={"path": here.path}) == here


REQUESTS = {"sd1": 9, "sdxl": 11}


def test_a_pipeline_is_what_it_is_here_from_a_dozen_requests(hub, pipeline):
    name, folder = pipeline
    hub.repos[FOX] = content_of(folder)
    here, there = adapterhub.inspect(folder), adapterhub.inspect(f"hf://{FOX}")
    assert (there.kind, there.architecture, there.path) == ("checkpoint", name, f"hf://{FOX}")
    assert same(there, here)
    assert asked(hub) == REQUESTS[name]
    found = adapterhub.validate(f"hf://{FOX}")
    assert found.valid
    assert found.problems[-1].code == "values-not-read"
    assert adapterhub.validate(folder).problems == found.problems[:-1]


def test_a_folder_of_a_pipeline_is_what_it_is_here(hub, pipeline):
    _, folder = pipeline
    hub.repos[FOX] = content_of(folder)
    for part in ("unet", "text_encoder", "vae"):
        there = adapterhub.inspect(f"hf://{FOX}/{part}")
        assert (there.path, same(there, adapterhub.inspect(folder / part))) == (f"hf://{FOX}/{part}", True)
    with pytest.raises(NotFound, match="une"):
        adapterhub.inspect(f"hf://{FOX}/une")


@pytest.mark.parametrize("name", ["", INDEX])
def test_shards_are_what_they_are_here(hub, tmp_path, name):
    folder = sharded(tmp_path / "shards")
    hub.repos[FOX] = content_of(folder)
    here, there = adapterhub.inspect(folder / name), adapterhub.inspect(f"hf://{FOX}/{name}".rstrip("/"))
    assert (there.container, there.kind) == ("safetensors-sharded", "lora")
    assert same(there, here)
    assert asked(hub) == 4


def test_shards_below_the_top_are_what_they_are_here(hub, tmp_path):
    hub.repos[FOX] = content_of(sharded(tmp_path / "shards"), "deep/er/")
    here = adapterhub.inspect(tmp_path / "shards")
    for place in ("deep/er", f"deep/er/{INDEX}"):
        assert same(adapterhub.inspect(f"hf://{FOX}/{place}"), here)


BAD = {
    "a shard that is missing": ("model-00003-of-00002.safetensors", "missing-shard"),
    "a path up": ("../x.safetensors", "name-outside"),
    "an absolute path": ("/etc/passwd", "name-outside"),
    "a path up with backslashes": ("..\\x.safetensors", "name-outside"),
    "a drive": ("C:x.safetensors", "name-outside"),
    "a number": (7, "not-an-index"),
}


@pytest.mark.parametrize("what", BAD)
def test_an_index_that_lies_is_refused_as_here_and_nothing_is_pulled(hub, tmp_path, what):
    shard, rule = BAD[what]
    folder = sharded(tmp_path / "shards")
    told = json.loads((folder / INDEX).read_text())
    told["weight_map"][next(iter(told["weight_map"]))] = shard
    (folder / INDEX).write_text(json.dumps(told))
    hub.repos[FOX] = content_of(folder) | {"x.safetensors": b"x"}
    for act in (
        lambda: adapterhub.inspect(folder / INDEX),
        lambda: adapterhub.inspect(f"hf://{FOX}/{INDEX}"),
        lambda: adapterhub.pull(FOX, tmp_path / "out", file=INDEX),
    ):
        with pytest.raises(MalformedFile) as caught:
            act()
        assert caught.value.rule == rule
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "cache").exists()


def test_an_index_of_thousands_of_shards_is_refused_before_any_is_asked_for(hub, tmp_path):
    names = [f"model-{number:05}-of-03000.safetensors" for number in range(3000)]
    told = json.dumps({"weight_map": {name: name for name in names}}).encode()
    hub.repos[FOX] = {INDEX: told} | dict.fromkeys(names, b"x")
    (tmp_path / INDEX).write_bytes(told)
    for place in (tmp_path / INDEX, f"hf://{FOX}", f"hf://{FOX}/{INDEX}"):
        with pytest.raises(MalformedFile) as caught:
            adapterhub.inspect(place)
        assert caught.value.rule == "too-many-shards"
    assert asked(hub) == 4


def test_there_is_an_end_to_what_all_files_together_take(hub, monkeypatch):
    monkeypatch.setattr(contents, "REQUESTS", 10)
    names = [f"model-{number:05}-of-00020.safetensors" for number in range(20)]
    index = {"weight_map": {name: name for name in names}}
    hub.repos[FOX] = {INDEX: json.dumps(index).encode()} | {name: save({name: np.zeros(1)}) for name in names}
    with pytest.raises(NeedsDownload):
        adapterhub.inspect(f"hf://{FOX}")
    assert asked(hub) == 11


def test_a_pipeline_that_lacks_a_part_is_refused_as_here(hub, pipeline, tmp_path):
    _, folder = pipeline
    there = content_of(folder)
    del there["vae/diffusion_pytorch_model.safetensors"]
    hub.repos[FOX] = there
    for act in (lambda: adapterhub.inspect(f"hf://{FOX}"), lambda: adapterhub.pull(FOX, tmp_path / "out")):
        with pytest.raises(MalformedFile, match="vae") as caught:
            act()
        assert caught.value.rule == "missing-file"
    assert not (tmp_path / "out").exists()


def test_a_pipeline_is_pulled_whole_and_is_the_same(hub, pipeline, tmp_path):
    _, folder = pipeline
    there = content_of(folder)
    unet = there["unet/diffusion_pytorch_model.safetensors"]
    hub.repos[FOX] = there | {
        "unet/diffusion_pytorch_model.fp16.safetensors": unet, "unet/diffusion_pytorch_model.bin": b"x", "README.md": b"# Fox",
        "v1-5-pruned.safetensors": unet, "safety_checker/config.json": b"{}", "safety_checker/model.safetensors": unet,
        "safety_checker/pytorch_model.bin": b"x", ".cache/x.json": b"{}",
    }  # fmt: skip
    done = adapterhub.pull(FOX, tmp_path / "out")
    assert (done.inspection.kind, done.unread) == ("checkpoint", None)
    pulled = content_of(tmp_path / "out")
    assert pulled == there | {"safety_checker/config.json": b"{}", "safety_checker/model.safetensors": unet}
    assert same(adapterhub.inspect(tmp_path / "out"), done.inspection)


def test_a_part_in_shards_comes_with_all_of_them(hub, pipeline, tmp_path):
    _, folder = pipeline
    there = content_of(folder)
    unet = load_file(folder / "unet/diffusion_pytorch_model.safetensors")
    del there["unet/diffusion_pytorch_model.safetensors"]
    hub.repos[FOX] = there | {f"unet/{name}": data for name, data in in_shards(unet, "diffusion_pytorch_model").items()}
    done = adapterhub.pull(FOX, tmp_path / "out")
    assert content_of(tmp_path / "out") == hub.repos[FOX]
    assert done.inspection.tensors == adapterhub.inspect(folder).tensors


@pytest.mark.parametrize("chosen", [None, INDEX])
def test_the_index_brings_its_shards(hub, tmp_path, chosen):
    folder = sharded(tmp_path / "shards")
    hub.repos[FOX] = content_of(folder) | {"README.md": b"# Fox"}
    done = adapterhub.pull(FOX, tmp_path / "out", file=chosen)
    assert [row.name for row in done.files][-1] == INDEX
    assert content_of(tmp_path / "out") == content_of(folder)
    with pytest.raises(UsageError, match="SHA-256"):
        adapterhub.pull(FOX, tmp_path / "again", sha256="0" * 64)


def test_a_folder_is_pulled_under_its_name(hub, pipeline, tmp_path):
    _, folder = pipeline
    hub.repos[FOX] = content_of(folder)
    adapterhub.pull(f"hf://{FOX}/unet", tmp_path / "out")
    assert set(content_of(tmp_path / "out")) == {"unet/config.json", "unet/diffusion_pytorch_model.safetensors"}


def test_a_folder_of_peft_for_each_component_is_pulled_and_read(hub, tmp_path):
    hub.repos[FOX] = content_of(PEFT)
    assert same(adapterhub.inspect(f"hf://{FOX}"), adapterhub.inspect(PEFT))
    adapterhub.pull(FOX, tmp_path / "out")
    assert content_of(tmp_path / "out") == content_of(PEFT)


def test_a_shard_that_goes_before_it_is_downloaded_leaves_nothing(hub, tmp_path):
    folder = sharded(tmp_path / "shards")
    hub.repos[FOX] = content_of(folder)
    last = sorted(hub.repos[FOX])[1]

    def gone(told):
        hub.answers[f"/{FOX}/resolve/{COMMIT}/{last}"] = (404, {"X-Error-Code": "EntryNotFound"}, b"")

    with pytest.raises(AdapterhubError):
        adapterhub.pull(FOX, tmp_path / "out", announce=gone)
    assert not (tmp_path / "out").exists()


def test_a_repository_of_many_folders_and_deep_names_is_listed_at_once(hub, pipeline):
    _, folder = pipeline
    many = {f"{number}/x.txt": b"" for number in range(19_000)} | {
        "/".join(["deep"] * 5000): b"",
        "a//b": b"",
        "/c": b"",
    }
    hub.repos[FOX] = content_of(folder) | many
    assert same(adapterhub.inspect(f"hf://{FOX}"), adapterhub.inspect(folder))
    assert len(RemoteFolder(Address("hf://a/b"), repository(InRepository(FOX))).folders) > 19_000


def test_pictures_of_a_card_are_no_adapters_unless_they_are_named(hub, tmp_path):
    picture = FIXTURES / "embedding/a1111-image/sd1.png"
    hub.repos[FOX] = {"image_0.png": picture.read_bytes(), "x/image_0.PNG": b""}
    with pytest.raises(UsageError, match="holds no adapter"):
        adapterhub.inspect(f"hf://{FOX}")
    assert adapterhub.inspect(f"hf://{FOX}/image_0.png").kind == "embedding"
