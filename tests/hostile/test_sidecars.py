"""Side-cars that were made to hurt: nothing raises, hangs or is followed, and what can be read is read."""

import json
import os
import socket
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapterhub.errors import AdapterhubError
from adapterhub.registry.facts import FAMILIES, export, make, read
from tests.registry.sidecar_files import A1111, WRITTEN, model, put

SUFFIXES = [family.suffix for family in FAMILIES.values()]
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
KNOWN = sorted(
    {step for family in FAMILIES.values() for row in family.rows for place in row.places for step in place if step}
)


def link_to_itself(path):
    path.symlink_to(path.name)


def open_socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


NO_FILES = {"a pipe": os.mkfifo, "a folder": os.mkdir, "a link to itself": link_to_itself, "a socket": open_socket,
            "a link to a device": lambda path: path.symlink_to("/dev/zero"),
            "a link to nothing": lambda path: path.symlink_to("nowhere")}  # fmt: skip


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".txt", ".preview.png"])
@pytest.mark.parametrize("what", NO_FILES)
def test_what_is_no_file_is_told_and_not_opened(tmp_path, what, suffix):
    path = model(tmp_path)
    NO_FILES[what](tmp_path / f"ink{suffix}")
    found = read(path)
    assert (found.facts, found.preview, found.files) == ((), None, ())
    assert [problem.where for problem in found.problems] == [f"ink{suffix}"]
    for family in FAMILIES.values():
        if family.suffix == suffix:
            with pytest.raises(AdapterhubError):
                export(path, [], family.name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_side_car_that_may_not_be_read_is_told(tmp_path):
    path = model(tmp_path)
    put(path, ".json", A1111).chmod(0)
    assert [problem.code for problem in read(path).problems] == ["sidecar-unreadable"]


def test_a_folder_that_is_gone_is_told(tmp_path):
    assert [problem.code for problem in read(tmp_path / "none" / "ink.safetensors").problems] == ["sidecar-unreadable"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(("content", "code"), [
    (b"", "sidecar-json"), (b"\0" * 100, "sidecar-json"), (b"\xff\xfe{\0}\0", "sidecar-json"),
    (b"[" * 400_000, "sidecar-json"), (b'{"a":' * 400_000, "sidecar-json"), (b'{"a":1,"a":2}', "sidecar-json"),
    (b'{"id":' + b"9" * 100_000 + b"}", "sidecar-json"), (b'{"id":NaN}', "sidecar-json"), (b'{"id":1e999}', "sidecar-json"),
    (b'{"name":"\\ud800"}', "sidecar-json"), (b"[" + b"0," * 600_000 + b"0]", "sidecar-values"),
    (b'"' + b"x" * 16_000_001 + b'"', "sidecar-too-large"),
])  # fmt: skip
def test_json_that_is_none_or_too_much_is_told_by_name(tmp_path, suffix, content, code):
    path = model(tmp_path)
    beside = put(path, suffix, content)
    found = read(path)
    assert found.facts == ()
    assert [(problem.code, problem.where) for problem in found.problems] == [(code, beside.name)]
    assert found.problems[0].message.isprintable()
    assert len(found.problems[0].message) < 500
    for family in FAMILIES.values():
        if family.suffix == suffix:
            with pytest.raises(AdapterhubError):
                export(path, [], family.name)
    assert beside.read_bytes() == content


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(document=st.dictionaries(st.sampled_from(KNOWN), ANYTHING, max_size=8))
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_any_types_anywhere_are_read_and_written_around(tmp_path, suffix, document):
    path = model(tmp_path)
    put(path, suffix, document)
    for fact in read(path).facts:
        assert make(fact.field, fact.value, fact.origin) == fact
    for family in FAMILIES.values():
        if family.suffix == suffix:
            try:
                export(path, [make("words", ["new"], "user"), make("strength", 1, "user")], family.name)
            except AdapterhubError:
                continue
            after = json.loads((tmp_path / f"ink{suffix}").read_text("utf-8"))
            assert document.keys() <= after.keys()


@pytest.mark.parametrize("family", WRITTEN)
def test_control_characters_and_a_flood_of_text_leave_short_clean_facts(tmp_path, family):
    path = model(tmp_path)
    suffix, document = WRITTEN[family]
    flood = "\x1b]0;x\x07\0\x9b31m\u2028" + "<p>" * 100_000 + "(,|" * 100_000 + "word, " * 100_000
    put(path, suffix, {name: flood if isinstance(value, str) else [flood] * 5 if isinstance(value, list) else value
                       for name, value in document.items()})  # fmt: skip
    started = time.process_time()
    found = read(path)
    assert time.process_time() - started < 20
    for fact in found.facts:
        texts = fact.value if isinstance(fact.value, tuple) else [str(fact.value)]
        assert sum(map(len, texts)) <= 256_000
        assert not any(sign in text for text in texts for sign in "\x1b\0\x07\x9b\u2028")


def test_a_name_that_is_no_unicode_is_read_and_not_written_into_json(tmp_path):
    path = model(tmp_path, os.fsdecode(b"\xffink.safetensors"))
    put(path, ".json", A1111)
    assert len(read(path).facts) == 6
    with pytest.raises(AdapterhubError):
        export(path, [], "lora-manager")
    assert {entry.name for entry in tmp_path.iterdir()} == {path.name, path.stem + ".json"}
