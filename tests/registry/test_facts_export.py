"""Facts written into the side-cars of other tools: what their readers accept, and nothing lost of what was there."""

import json

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapterhub.errors import OutputExists, RefusedInput, UnknownName, UsageError
from adapterhub.files import sha256
from adapterhub.registry.facts import FAMILIES, FIELDS, Fact, Sort, export, make, read
from tests.registry.sidecar_files import LORA_MANAGER, WRITTEN, facts, model, put, told

TEXT, WHOLE = {"type": "string"}, {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1}
TEXTS, MAYBE = {"type": "array", "items": TEXT}, {"type": ["integer", "null"]}


def fields(required, **properties):
    return {"type": "object", "required": required.split(), "properties": properties}


# What the owners' readers need so as not to fail, said again in our words.
READERS = {
    # put_values_into_components makes a float of the weight; ui_extra_networks_lora joins the texts to a prompt.
    "a1111": fields("description notes", **{
        "sd version": {"enum": ["SD1", "SD2", "SD3", "SDXL", "Flux", "Unknown"]}, "preferred weight": {"type": "number"},
        "activation text": TEXT, "negative text": TEXT, "description": TEXT, "notes": TEXT,
    }),
    "civitai": fields("files model", id=WHOLE, modelId=WHOLE, name=TEXT, baseModel=TEXT, trainedWords=TEXTS, files={
        "type": "array", "items": fields("hashes", hashes={"type": "object", "additionalProperties": TEXT})},
        images={"type": "array"}, model=fields("name", name=TEXT, nsfw={"type": "boolean"}, tags=TEXTS)),
    "lora-manager": fields(
        "file_name model_name file_path size modified sha256 base_model preview_url",
        file_name=TEXT, model_name=TEXT, file_path={"type": "string", "pattern": "^/[^\\\\]*$"}, preview_url=TEXT,
        size={"type": "integer", "minimum": 0}, modified={"type": "number"}, base_model=TEXT, notes=TEXT, tags=TEXTS,
        sha256={"type": "string", "pattern": "^[a-f0-9]{64}$"}, modelDescription=TEXT, usage_tips=TEXT,
        autov3={"type": ["string", "null"], "pattern": "^[a-f0-9]{12}$"}, from_civitai={"type": "boolean"},
        civitai=fields("", id=WHOLE, modelId=WHOLE, name=TEXT, description=TEXT, trainedWords=TEXTS,
                       model=fields("", name=TEXT, description=TEXT, tags=TEXTS), creator={"type": "object"})),
    # System.Text.Json fails on any other type; Source is a number, for its enumeration has no converter.
    "stability-matrix": fields(
        "ModelName ModelDescription Tags ModelType VersionName ImportedAt Hashes",
        ModelId={**MAYBE, "maximum": 2**31 - 1}, VersionId={**MAYBE, "maximum": 2**31 - 1}, ModelName=TEXT, Tags=TEXTS,
        ModelDescription=TEXT, Nsfw={"type": "boolean"}, ModelType=TEXT, VersionName=TEXT, TrainedWords=TEXTS,
        ImportedAt={"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d"}, Source={"enum": [0, 1, 2]},
        Hashes={"type": "object", "additionalProperties": {"type": ["string", "null"]}}),
}  # fmt: skip

LETTERS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
VALUES = {
    Sort.LINE: LETTERS, Sort.TEXT: LETTERS, Sort.LIST: st.lists(LETTERS, max_size=4),
    Sort.NUMBER: st.floats(0.01, 2), Sort.COUNT: st.integers(1, 2**31 - 1), Sort.FLAG: st.booleans(),
    Sort.HASH: st.text("0123456789abcdef", min_size=64, max_size=64),
}  # fmt: skip
MANY = st.fixed_dictionaries({}, optional={field: VALUES[sort] for field, sort in FIELDS.items()}).map(
    lambda values: [fact for field, value in values.items() if (fact := make(field, value, "user"))]
)


def in_a1111_s_words(fact: Fact) -> bool:
    """What survives A1111's spelling: words without commas, texts that are not taken for HTML, its own base models."""
    if fact.field == "words":
        return not any(sign in word for word in fact.value for sign in ",|()")
    return fact.field != "base_model" and not (isinstance(fact.value, str) and "<" in fact.value)


@pytest.mark.parametrize("family", FAMILIES)
@given(said=MANY)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_exported_is_read_again_and_a_second_export_changes_nothing(tmp_path, family, said):
    path = model(tmp_path)
    done = export(path, said, family)
    try:
        jsonschema.validate(json.loads(done.path.read_text("utf-8")), READERS[family])
        found = told(read(path).facts)
        left_out = dict(done.left_out)
        for fact in said:
            if fact.field in left_out or fact.field.startswith("hash.") or (fact.field, fact.value) == ("title", "ink"):
                continue
            if family != "a1111" or in_a1111_s_words(fact):
                assert found[fact.field] == fact.value
        again = export(path, said, family)
        assert (again.written, again.changes, again.created) == (False, (), False)
    finally:
        done.path.unlink()


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_side_car_says_exported_into_itself_changes_no_byte(tmp_path, family):
    path = model(tmp_path)
    beside = put(path, *WRITTEN[family])
    before = beside.stat()
    assert not export(path, read(path).facts, family).written
    assert beside.stat() == before


@pytest.mark.parametrize("family", FAMILIES)
def test_all_that_is_not_exported_stays_in_its_order(tmp_path, family):
    path = model(tmp_path)
    suffix, document = WRITTEN[family]
    document = {"first": 1.0, **document, "extensions": {"deep": [None, True, "ß"]}}
    beside = put(path, suffix, document)
    beside.chmod(0o640)
    done = export(path, facts(words=["new word"]), family)
    after = json.loads(beside.read_text("utf-8"))
    assert list(after) == list(document)
    assert after["first"] == 1.0
    assert [(change.field, change.after) for change in done.changes] == [("words", ("new word",))]
    assert {name for name in document if document[name] != after[name]} == {
        {"a1111": "activation text", "civitai": "trainedWords", "lora-manager": "civitai",
         "stability-matrix": "TrainedWords"}[family]
    }  # fmt: skip
    assert beside.stat().st_mode & 0o777 == 0o640
    assert {*tmp_path.iterdir()} == {path, beside}


def test_usage_tips_stay_a_text_and_keep_what_else_they_tell(tmp_path):
    path = model(tmp_path)
    beside = put(path, ".metadata.json", LORA_MANAGER)
    export(path, facts(strength=0.9), "lora-manager")
    assert json.loads(json.loads(beside.read_text())["usage_tips"]) == {"strength": 0.9, "clip_skip": 2}


@pytest.mark.parametrize(("document", "values", "why"), [
    (LORA_MANAGER | {"usage_tips": "{"}, {"strength": 1.5}, "its usage_tips are broken"),
    (LORA_MANAGER | {"civitai": "gone"}, {"words": ["a"]}, "'civitai' holds something else"),
])  # fmt: skip
def test_what_would_destroy_something_is_left_out(tmp_path, document, values, why):
    path = model(tmp_path)
    beside = put(path, ".metadata.json", document)
    done = export(path, facts(**values), "lora-manager")
    assert done.left_out == ((next(iter(values)), why),)
    assert json.loads(beside.read_text()) == document


def test_a_new_side_car_of_lora_manager_has_the_hash_of_the_file_and_no_claim(tmp_path):
    path = model(tmp_path)
    done = export(path, facts(**{"hash.sha256": "0" * 64}), "lora-manager")
    assert json.loads(done.path.read_text())["sha256"] == sha256(path)


@pytest.mark.parametrize(("base", "word"), [
    ("SD 1.5", "SD1"), ("Pony", "SDXL"), ("Flux.1 D", "Flux"), ("stable-diffusion-v2-768-v", "SD2"),
    ("SD 3.5 Large", "SD3"), ("Qwen", "Unknown"), ("Pony V7", "Unknown"), ("Flux.2 D", "Unknown"),
])  # fmt: skip
def test_a_base_model_is_told_to_a1111_in_its_words(tmp_path, base, word):
    done = export(model(tmp_path), facts(base_model=base), "a1111")
    assert json.loads(done.path.read_text())["sd version"] == word
    assert bool(done.left_out) is (word == "Unknown")


def test_prompts_as_words_are_parted_as_civitai_helper_does(tmp_path):
    done = export(model(tmp_path), facts(words=["a girl, ink", "a boy, ink"]), "a1111")
    assert json.loads(done.path.read_text())["activation text"] == "a girl, ink || a boy, ink"


@pytest.mark.parametrize("content", ["{", '{"a": 1, "a": 2}', "[]", '{"output_name": "x"}', "\ud800".encode("utf-8", "surrogatepass")])  # fmt: skip
@pytest.mark.parametrize("family", FAMILIES)
def test_a_side_car_that_is_malformed_or_another_tool_s_is_refused_and_kept(tmp_path, family, content):
    path = model(tmp_path)
    beside = put(path, WRITTEN[family][0], content)
    before = beside.read_bytes()
    with pytest.raises(RefusedInput):
        export(path, facts(notes="n"), family)
    assert beside.read_bytes() == before


def test_a_link_is_not_written_through(tmp_path):
    path = model(tmp_path)
    (tmp_path / "ink.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="is a link"):
        export(path, facts(notes="n"), "a1111")
    assert not (tmp_path / "elsewhere").exists()


def test_a_dry_run_tells_the_same_and_writes_nothing(tmp_path):
    path = model(tmp_path)
    dry = export(path, facts(notes="n"), "a1111", dry_run=True)
    assert [*tmp_path.iterdir()] == [path]
    done = export(path, facts(notes="n"), "a1111")
    assert (dry.changes, dry.path, dry.created, dry.written) == (done.changes, done.path, True, False)
    assert done.written


def test_a_preview_is_copied_beside_and_told_where_the_family_tells_it(tmp_path):
    path, picture = model(tmp_path), tmp_path / "shot.PNG"
    picture.write_bytes(b"\x89PNG")
    done = export(path, [], "lora-manager", preview=picture)
    assert done.preview == tmp_path / "ink.preview.png"
    assert done.preview.read_bytes() == b"\x89PNG"
    assert json.loads(done.path.read_text())["preview_url"] == str(done.preview)
    assert not export(path, [], "lora-manager", preview=picture).written
    picture.write_bytes(b"another")
    with pytest.raises(OutputExists):
        export(path, [], "lora-manager", preview=picture)


def test_a_family_or_a_file_that_is_not_there_is_a_usage_error(tmp_path):
    with pytest.raises(UnknownName):
        export(model(tmp_path), [], "text")
    with pytest.raises(UsageError):
        export(tmp_path / "none.safetensors", [], "a1111")
