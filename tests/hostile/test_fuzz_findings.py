"""What the fuzzers of tests/fuzz found: input that led to something else than a refusal by a rule."""

import json
from pathlib import Path

import pytest

from adapterhub import files
from adapterhub.errors import MalformedFile
from tests.fuzz.folders import FIRST, SECOND, peft, pipeline, shards

HALF = "\ud800"
"""Half of a surrogate pair, as JSON can spell it: no file has such a name, and no text can be printed with it."""
FINDINGS = {
    "a shard with half a character": (shards, {"weight_map": {"a": HALF, "b": SECOND, "c": FIRST}}, "json"),
    "a tensor with half a character": (shards, {"weight_map": {HALF: FIRST}}, "json"),
    "a shard whose name is too long for any file": (shards, {"weight_map": {"a": "x" * 300}}, "missing-shard"),
    "a component with half a character": (pipeline, {"unet": ["x", "y"], HALF: ["x", "y"]}, "json"),
    "a component whose name is too long for any file": (pipeline, {"x" * 300: ["x", "y"]}, None),
    "a field with half a character": (peft, {"r": 4, "target_modules": [HALF]}, "json"),
}


@pytest.mark.parametrize("what", FINDINGS)
def test_a_document_that_a_fuzzer_found_is_refused_by_a_rule_or_read(tmp_path: Path, what: str) -> None:
    lay, value, rule = FINDINGS[what]
    path, document = lay(tmp_path)
    document.write_text(json.dumps(value))
    if rule is None:
        files.read(path).close()
        return
    with pytest.raises(MalformedFile) as caught:
        files.read(path)
    assert caught.value.rule == rule


@pytest.mark.parametrize("text", [r'{"r": "\ud83d\ude00"}', r'{"r": "\\ud800"}', '{"r": "\U0001f600"}'])
def test_whole_characters_are_read_however_json_spells_them(tmp_path: Path, text: str) -> None:
    path, document = peft(tmp_path)
    document.write_text(text)
    with files.read(path) as package:
        assert package.documents == {document.name: json.loads(text)}
