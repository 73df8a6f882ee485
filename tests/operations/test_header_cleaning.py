"""cleaned: what tells about a machine or a person goes, and everything else stays byte for byte."""

import json
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from adapterhub.operations.header.cleaning import cleaned
from adapterhub.operations.header.private import PATTERNS, REMOVED, by_name, pieces

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl"
HF, OPENAI, GITHUB, AWS = "hf_" + "aB3" * 11, "sk-" + "aB3" * 8, "ghp_" + "aB3" * 12, "AKIA" + "IOSFODNN7EXAMPLE"
SHORTENED = {
    "/home/joe/models/sd15.safetensors": "sd15.safetensors",
    "/Users/joe/my models/my base.safetensors": "my base.safetensors",
    r"C:\Users\joe\Documents\sd15.safetensors": "sd15.safetensors",
    "D:/lora/train/10_fox": "10_fox",
    r"\\nas\share\models\sd15.safetensors": "sd15.safetensors",
    "file:///home/joe/sd15.safetensors": "sd15.safetensors",
    "~/models/sd15.safetensors": "sd15.safetensors",
    "~joe/models/sd15.safetensors": "sd15.safetensors",
    "/nfs7/a.safetensors, /nfs7/b.safetensors": "a.safetensors, b.safetensors",
    "on /mnt/disk/base.ckpt, at rank 4": "on base.ckpt, at rank 4",
    "--base=/workspace/kohya/base.ckpt": "--base=base.ckpt",
    f"token {HF}!": f"token {REMOVED}!",
    f"token_{HF} my-{OPENAI}": f"token_{REMOVED} my-{REMOVED}",
    f"{OPENAI} {GITHUB} {AWS} {JWT}": " ".join([REMOVED] * 4),
    "ask joe.doe+lora@example.co.uk": f"ask {REMOVED}",
    "https://joe:pw@intern.example.com/x.ckpt and more": f"{REMOVED} and more",
    "https://civitai.com/api/download/models/1?token=abc": f"https://civitai.com/api/download/models/1?token={REMOVED}",
    json.dumps({"dir": "/home/joe/train/10_fox", "n": 3}): '{"dir": "10_fox", "n": 3}',
    '{"dir":"C:\\\\Users\\\\joe\\\\x\\\\10_fox" , "n":3}': '{"dir":"10_fox" , "n":3}',
    json.dumps({"wandb_api_key": "0123", "run": {"session_id": "77"}}):
        json.dumps({"wandb_api_key": REMOVED, "run": {"session_id": REMOVED}}),
    json.dumps({"inner": json.dumps({"path": "/home/joe/a"})}): json.dumps({"inner": json.dumps({"path": "a"})}),
    json.dumps({"/data/x/10_fox": 1, "/data/y/10_fox": 2}): json.dumps({"10_fox": 1, "10_fox (2)": 2}),
    json.dumps({"base_model_name_or_path": "/root/.cache/sd15", "r": 4}, indent=2):
        json.dumps({"base_model_name_or_path": "sd15", "r": 4}, indent=2),
}  # fmt: skip
GONE = ["/home/joe", "/Users/joe/", r"C:\Users\joe", "joe@example.com", HF, "https://u:p@host/x"]
KEPT = [
    "stable-diffusion-v1/lora", "https://github.com/Stability-AI/generative-models", "12/05/2024 and/or 1/2",
    "(fox:1.2), a/b, </p> :/ D: /imagine", json.dumps({"10_fox": {"1girl, @_@": 3}}), "runwayml/stable-diffusion-v1-5",
    "data:image/jpeg;base64,/9j/4AAQ/home/joe/x", json.dumps(["/9j/4AAQSkZJRgABAQ" + "AQ/AB" * 30]), "None", "", "{not json",
    "task-" + "a" * 40, r"prompt \(brackets\)", "2024-01-31T12:00:00", "0x" + "ab" * 32, "https://huggingface.co/a/b?x=1",
]  # fmt: skip


@pytest.mark.parametrize(("text", "clean"), SHORTENED.items())
def test_a_path_becomes_its_last_name_and_a_secret_goes(text, clean):
    assert cleaned({"note": text})[0] == {"note": clean}


@pytest.mark.parametrize("text", GONE)
def test_a_field_of_nothing_else_goes_whole(text):
    found, (finding,) = cleaned({"note": text, "ss_epoch": "1"})
    assert found == {"ss_epoch": "1"}
    assert (finding.field, finding.removed, finding.now) == ("note", True, None)


@pytest.mark.parametrize("text", KEPT)
def test_what_only_looks_like_it_stays_as_it_is(text):
    assert cleaned({"note": text}) == ({"note": text}, [])


def test_fields_that_are_private_by_name_go():
    fields = {"ss_session_id": "1", "wandb_api_key": "x", "ss_max_token_length": "225", "modelspec.author": "joe"}
    found, findings = cleaned(fields)
    assert list(found) == ["ss_max_token_length", "modelspec.author"]
    assert [(one.field, one.what) for one in findings] == [("ss_session_id", "machine"), ("wandb_api_key", "secret")]


def test_nothing_that_was_removed_is_repeated_in_the_findings():
    fields = {"a": f"x {HF}", "b": "/home/joe/m.ckpt", "/home/joe/c": "1", "d": json.dumps({"k": "joe@example.com"})}
    told = " ".join(one.model_dump_json() for one in cleaned(fields)[1])
    assert not any(secret in told for secret in (HF, "joe"))


PRIVATE = st.sampled_from([*SHORTENED, *GONE, "/srv/a/b", r"E:\x\y", "\\\\h\\s\\t", "x@y.zz", "://a@b", "~/x/y"])
NOISE = st.text(alphabet="ab/\\:.~@ \"'{}[],;\n-_=?&#é", max_size=12)
TEXTS = st.lists(PRIVATE | NOISE, max_size=5).map("".join)
VALUES = TEXTS | st.recursive(TEXTS | st.integers(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
    TEXTS, inner, max_size=3), max_leaves=6).map(json.dumps)  # fmt: skip


def strings(value):
    """Every string in JSON that may be nested in strings."""
    if isinstance(value, str):
        try:
            inner = json.loads(value) if value.lstrip()[:1] in ("{", "[", '"') else None
        except ValueError:
            inner = None
        yield from [value] if inner is None else strings(inner)
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from plain_parts(name)
            yield from () if by_name(name) else strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)


def plain_parts(text):
    return [part for part, is_picture in pieces(text) if not is_picture]


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(st.text(max_size=8) | TEXTS, VALUES, max_size=4))
@example({"": '/home/joe/models/sd15.safetensors/{"wandb_api_key": "0123", "run": {"session_id": "77"}}'})
def test_nothing_that_a_pattern_finds_is_left_and_cleaning_again_changes_nothing(metadata):
    found, _ = cleaned(metadata)
    assert cleaned(found) == (found, [])
    assert {name: text for name, text in metadata.items() if not cleaned({name: text})[1]}.items() <= found.items()
    for text in (part for value in found.values() for one in strings(value) for part in plain_parts(one)):
        assert not [
            one[0] for pattern in PATTERNS for one in pattern.pattern.finditer(text) if pattern.kept(one) != one[0]
        ]


@pytest.mark.parametrize("text", ["/", "/a", "a@", "~/", "\\\\a\\", "C:\\a ", "://a", "eyJ", '"', "{[", "file:/ ",
                                  " /home/a a/", "data:a;base64,", "-----BEGIN PRIVATE KEY-----", "?token=", "a.b@c."])  # fmt: skip
def test_no_text_takes_more_than_a_time_in_proportion_to_its_length(text):
    started = time.perf_counter()
    cleaned({"x": text * (400_000 // len(text)), "y": json.dumps([text * (200_000 // len(text))])})
    assert time.perf_counter() - started < 8
