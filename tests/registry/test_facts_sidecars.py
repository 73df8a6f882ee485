"""What side-cars say, and which of the files beside a model are its side-cars."""

import codecs

import pytest

from adapterhub.registry.facts import Listing, read, settled
from tests.registry.sidecar_files import A1111, CIVITAI, LORA_MANAGER, SHA, STABILITY_MATRIX, WRITTEN, model, put, told

SAID = {
    "a1111": {
        "description": "Soft ink.", "base_model": "SDXL", "words": ("inkwash", "(soft light, haze:1.2)"), "strength": 0.7,
        "negative_text": "photo", "notes": "Try 0.5 too.",
    },
    "civitai": {
        "title": "Ink Wash", "description": "Ink & water\n\n- one\n- two", "version_name": "v2",
        "version_description": "Second try", "words": ("inkwash",), "tags": ("style", "ink"), "base_model": "Pony",
        "author": "mei", "nsfw": False, "civitai_model": 100, "civitai_version": 200, "civitai_type": "LORA",
        "hash.sha256": SHA, "hash.autov2": "ab" * 5, "hash.crc32": "0123abcd",
    },
    "lora-manager": {
        "title": "Ink Wash", "description": "Ink", "version_name": "v2", "version_description": "Second try",
        "words": ("inkwash",), "notes": "mine", "tags": ("Style", "water"), "base_model": "Pony", "strength": 0.6,
        "author": "mei", "nsfw": False, "civitai_model": 100, "civitai_version": 200, "civitai_type": "LORA",
        "hash.sha256": SHA,
    },
    "stability-matrix": {
        "title": "My ink", "description": "Ink", "version_name": "v2", "words": ("inkwash",), "tags": ("style",),
        "base_model": "Pony", "author": "mei", "nsfw": False, "civitai_model": 100, "civitai_version": 200,
        "civitai_type": "LORA", "hash.sha256": SHA,
    },
}  # fmt: skip


@pytest.mark.parametrize("family", SAID)
def test_a_family_s_side_car_says_exactly_this(tmp_path, family):
    path = model(tmp_path)
    suffix, document = WRITTEN[family]
    beside = put(path, suffix, document)
    found = read(path)
    assert told(found.facts) == SAID[family]
    assert {fact.origin for fact in found.facts} == {family}
    assert [(file.path, file.family, file.size, file.mtime_ns) for file in found.files] == [
        (beside, family, beside.stat().st_size, beside.stat().st_mtime_ns)
    ]
    assert found.problems == ()


def test_all_families_are_read_at_once(tmp_path):
    path = model(tmp_path)
    for suffix, document in WRITTEN.values():
        put(path, suffix, document)
    put(path, ".txt", "From a text.")
    won = settled(read(path).facts)
    assert {field: (won[field].value, won[field].origin) for field in ("title", "description", "base_model", "notes")} == {
        "title": ("Ink Wash", "lora-manager"), "description": ("Soft ink.", "a1111"),
        "base_model": ("Pony", "lora-manager"), "notes": ("Try 0.5 too.", "a1111"),
    }  # fmt: skip


@pytest.mark.parametrize("document", [
    {"output_name": "ink", "train_batch_size": 2, "learning_rate": 1e-4},
    {"description": "a model card", "license": "mit", "datasets": []},
    {"_class_name": "UNet2DConditionModel"}, [], '"text"', 5, None,
])  # fmt: skip
def test_a_json_of_another_tool_is_not_mistaken_for_a1111_s(tmp_path, document):
    path = model(tmp_path)
    put(path, ".json", document)
    found = read(path)
    assert found.facts == ()
    assert [problem.code for problem in found.problems] == ["sidecar-unknown"]


@pytest.mark.parametrize("document", [{}, {"description": "d", "notes": "n"}, {"description": "d", "vae": "x.vae.pt"}])
def test_what_a1111_writes_for_other_kinds_than_loras_is_read(tmp_path, document):
    path = model(tmp_path)
    put(path, ".json", document)
    found = read(path)
    assert told(found.facts) == {name: document[name] for name in ("description", "notes") if name in document}
    assert found.problems == ()


def test_sd_next_s_json_is_a_model_of_civitai_whose_version_is_found_by_its_file(tmp_path):
    path = model(tmp_path)
    old = CIVITAI | {"id": 199, "name": "v1", "trainedWords": ["old"], "files": [{"name": "old.safetensors"}]}
    put(path, ".json", {**CIVITAI["model"], "id": 100, "creator": {"username": "mei"}, "modelVersions": [old, CIVITAI]})
    found = read(path)
    assert told(found.facts) == SAID["civitai"]
    assert {fact.origin for fact in found.facts} == {"civitai"}


def test_of_a_model_whose_version_cannot_be_told_only_what_is_true_of_all_is_kept(tmp_path):
    path = model(tmp_path, "renamed.safetensors")
    put(path, ".json", {**CIVITAI["model"], "id": 100, "modelVersions": [CIVITAI, CIVITAI | {"id": 1}]})
    assert told(read(path).facts).keys() == {"title", "description", "tags", "nsfw", "civitai_model", "civitai_type"}


def test_an_empty_info_says_that_civitai_does_not_know_the_file(tmp_path):
    path = model(tmp_path)
    put(path, ".civitai.info", {})
    assert (read(path).facts, read(path).problems) == ((), ())


@pytest.mark.parametrize(("name", "beside", "family"), [
    ("Ink.safetensors", "ink.JSON", "a1111"), ("ink.safetensors", "INK.Metadata.Json", "lora-manager"),
    ("ink.v1.safetensors", "ink.v1.json", "a1111"),
])  # fmt: skip
def test_the_case_of_a_name_does_not_matter(tmp_path, name, beside, family):
    path = model(tmp_path, name)
    put(path, ".json", WRITTEN[family][1]).rename(tmp_path / beside)
    assert [file.path.name for file in read(path).files] == [beside]


def test_a_side_car_belongs_to_the_model_that_is_called_exactly_so(tmp_path):
    upper, lower = model(tmp_path, "Ink.safetensors"), model(tmp_path)
    put(lower, ".json", A1111)
    assert read(upper).files == ()
    assert [file.path.name for file in read(lower).files] == ["ink.json"]


def test_the_best_preview_is_found_and_never_the_file_itself(tmp_path):
    picture = model(tmp_path, "ink.png")
    assert read(picture).preview is None
    path = model(tmp_path)
    assert read(path).preview == picture
    for name in ("ink.preview.mp4", "ink.preview.webp", "ink.preview.JPG"):
        (tmp_path / name).write_bytes(b"x")
        assert read(path).preview == tmp_path / name
    assert [file.family for file in read(path).files] == ["preview"]


def test_a_folder_is_listed_once_for_all_of_its_files(tmp_path, monkeypatch):
    paths = [model(tmp_path, f"{number}.safetensors") for number in range(20)]
    put(paths[3], ".json", A1111)
    listing = Listing(tmp_path)
    monkeypatch.setattr("pathlib.Path.iterdir", None)
    assert [len(read(path, listing).files) for path in paths] == [0] * 3 + [1] + [0] * 16


@pytest.mark.parametrize("encoded", [
    b"Tusche", codecs.BOM_UTF8 + b"Tusche", b"Tusche\r\n\r\n", b"<p>Tusche</p>", b"\x1b[Tusche\x00".replace(b"[", b""),
])  # fmt: skip
def test_a_text_beside_the_file_is_its_description(tmp_path, encoded):
    path = model(tmp_path)
    put(path, ".description.txt", encoded)
    assert told(read(path).facts) == {"description": "Tusche"}
    put(path, ".txt", "The first of the two.")
    assert told(read(path).facts) == {"description": "The first of the two."}


def test_a_byte_order_mark_before_json_does_no_harm(tmp_path):
    path = model(tmp_path)
    put(path, ".cm-info.json", codecs.BOM_UTF8 + b'{"ModelName": "Ink"}')
    assert told(read(path).facts) == {"title": "Ink"}


@pytest.mark.parametrize(("suffix", "document", "field"), [
    (".json", A1111 | {"preferred weight": "much"}, "strength"),
    (".json", A1111 | {"preferred weight": True}, "strength"),
    (".json", A1111 | {"preferred weight": 1e300}, "strength"),
    (".json", A1111 | {"notes": ["n"]}, "notes"),
    (".civitai.info", CIVITAI | {"trainedWords": [1]}, "words"),
    (".civitai.info", CIVITAI | {"id": -1}, "civitai_version"),
    (".metadata.json", LORA_MANAGER | {"tags": {"a": 1}}, "tags"),
    (".metadata.json", LORA_MANAGER | {"sha256": "abc"}, "hash.sha256"),
    (".cm-info.json", STABILITY_MATRIX | {"Nsfw": "yes"}, "nsfw"),
    (".cm-info.json", STABILITY_MATRIX | {"ModelId": 2**40}, "civitai_model"),
])  # fmt: skip
def test_a_value_of_another_type_is_a_problem_and_the_rest_is_read(tmp_path, suffix, document, field):
    path = model(tmp_path)
    beside = put(path, suffix, document)
    found = read(path)
    assert [(problem.code, problem.where) for problem in found.problems] == [("sidecar-type", beside.name)]
    assert found.problems[0].message.startswith(field + " should be ")
    assert field not in told(found.facts)
    assert len(found.facts) > 4


def test_what_writers_put_where_they_know_nothing_says_nothing(tmp_path):
    path = model(tmp_path)
    put(path, ".json", {"description": "", "sd version": "Unknown", "activation text": " , ", "preferred weight": 0})
    put(path, ".metadata.json", {"model_name": "ink", "file_name": "ink", "base_model": "Unknown", "autov3": "",
                                 "sha256": "", "usage_tips": "{", "civitai": None})  # fmt: skip
    assert read(path).facts == ()
