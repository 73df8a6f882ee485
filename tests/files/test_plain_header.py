"""Headers as safetensors spells them are taken apart by one pattern: with the same result as the strict reader's."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapterhub.errors import MalformedFile
from adapterhub.files.limits import LIMITS, Limits
from adapterhub.files.plain_header import plain
from adapterhub.files.safetensors import parse_header
from adapterhub.tensors import DTYPE_BITS

ONE = {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]}


def spelled(document: object) -> str:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False)


def outcome(text: str, size: int, limits: Limits = LIMITS):
    try:
        return parse_header(text.encode("utf-8", "surrogatepass"), size, "here", limits)
    except MalformedFile as refusal:
        return refusal.rule


def strictly(text: str, size: int, limits: Limits = LIMITS):
    """What the strict reader makes of `text`: a space after the brace is nothing that safetensors writes."""
    assert plain(text[:1] + " " + text[1:], limits) is None
    return outcome(text[:1] + " " + text[1:], size, limits)


@st.composite
def headers(draw) -> tuple[str, int]:
    """A header, plain or nearly so, and the bytes of its data."""
    document: dict[str, object] = {}
    if draw(st.booleans()):
        document["__metadata__"] = draw(
            st.none() | st.dictionaries(st.text(max_size=4), st.text(max_size=9), max_size=3)
        )
    names = draw(st.lists(st.text('ab.\\"[{}]é\x01\x7f', max_size=4) | st.just("__metadata__"), max_size=5))
    end = 0
    for name in names:
        dtype = draw(st.sampled_from([*DTYPE_BITS, "F17"]))
        shape = draw(st.lists(st.integers(0, 4), max_size=3))
        bits = DTYPE_BITS.get(dtype, 8)
        for extent in shape:
            bits *= extent
        begin, end = end, end + bits // 8
        document[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    items = draw(st.permutations(list(document.items()))) if draw(st.booleans()) else document.items()
    text = spelled(dict(items)) + draw(st.sampled_from(["", " ", "\n"]))
    if draw(st.booleans()):  # something is cut out, doubled or put in
        at = draw(st.integers(1, len(text)))
        put = draw(st.sampled_from(["", *'0,:"{}[] -', "\\", '"a":', text[1:at], "null", "-0"]))
        text = text[:at] + put + text[at + draw(st.integers(0, 2)) :]
    return text, end


@settings(max_examples=1500, deadline=None)
@given(headers())
def test_a_header_means_the_same_however_it_is_read(header):
    assert outcome(*header) == strictly(*header)


@pytest.mark.parametrize("before", ["{", '{"__metadata__":{},', '{"__metadata__":{"a":"[{\\"\\u00e9"},'])
def test_what_safetensors_writes_is_read_plainly(before):
    text = before + spelled({"a": ONE, "b": {**ONE, "data_offsets": [12, 24]}})[1:] + "   "
    found = plain(text, LIMITS)
    assert found is not None
    assert list(zip(*found.tensors.columns, strict=True)) == [(0, 12, "a", "F16", (2, 3)), (12, 24, "b", "F16", (2, 3))]
    assert outcome(text, 24) == strictly(text, 24)


@pytest.mark.parametrize(
    "text",
    [
        spelled({"a": ONE, "__metadata__": {}}),
        spelled({"a[0]": ONE}),
        spelled({'a"': ONE}),
        spelled({"": ONE}),
        spelled({"a": {**ONE, "dtype": "F17"}}),
        spelled({"a": {**ONE, "data_offsets": [0, 14]}}),
        spelled({"a": {**ONE, "shape": [0], "data_offsets": [0, 0]}}),
        spelled({"a": {**ONE, "shape": [1] * 17, "data_offsets": [0, 2]}}),
        spelled({"a": {**ONE, "extra": 1}}),
        spelled({"__metadata__": ONE}),
        spelled({"a": ONE}).replace("[0,", "[00,"),
        spelled({"a": ONE}).replace("[2,", "[02,"),
        spelled({"a": ONE}).replace("[2,", "[,2,"),
        spelled({"a": ONE})[:-1] + ",}",
        spelled({"a": ONE}) + "}",
        json.dumps({"a": ONE}),
        "{}",
    ],
)
def test_what_is_spelled_otherwise_is_left_to_the_strict_reader(text):
    assert plain(text, LIMITS) is None
    assert outcome(text, 12) == strictly(text, 12)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ('{,"a":' + spelled(ONE) + "}", "header-not-json"),
        ('{"__metadata__":{"x":"y","a":' + spelled(ONE) + "}", "header-not-json"),
        ('{"a":' + spelled(ONE) + ',"a":' + spelled(ONE) + "}", "duplicate-name"),
        ('{"__metadata__":{},"__metadata__":{},"a":' + spelled(ONE) + "}", "duplicate-name"),
        ('{"__metadata__":{},"a":' + json.dumps(ONE) + ',"a":' + spelled(ONE) + "}", "duplicate-name"),
        ('{"__metadata__":{"x":"\\ud800"},"a":' + spelled(ONE) + "}", "lone-surrogate"),
        ('{"__metadata__":{"x":' + spelled({"a": ONE}) + "}}", "metadata"),
    ],
)
def test_what_is_wrong_beside_plain_tensors_is_refused_by_its_rule(text, rule):
    assert outcome(text, 12) == rule == strictly(text, 12)


def test_more_tensors_than_are_allowed_are_not_taken_apart_at_all():
    text = spelled({name: {**ONE, "data_offsets": [12 * at, 12 * at + 12]} for at, name in enumerate("abc")})
    assert plain(text, Limits(tensors=2)) is None
    assert outcome(text, 36, Limits(tensors=2)) == "too-many-tensors"
    assert plain(text, Limits(tensors=3)) is not None


@pytest.mark.parametrize(
    "part",
    ['"a":{"dtype":"', '"a":{"dtype":"F16","shape":[', '"a":{"dtype":"F16","shape":[1],"data_offsets":[0,1', '"', "1,"],
)
def test_a_text_that_begins_an_entry_again_and_again_takes_no_longer_than_its_length(part):
    text = "{" + part * (3_000_000 // len(part)) + "}}"
    started = time.process_time()
    assert outcome(text, 2) in ("header-not-json", "header-values")
    assert time.process_time() - started < 5
