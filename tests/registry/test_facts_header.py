"""What the metadata of a safetensors file says, and what HTML says."""

import json
import time
import unicodedata

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapterhub.registry.facts import FIELDS, Sort, make, of_header, settled
from adapterhub.registry.facts.header import training_tags
from adapterhub.registry.facts.markup import marked, plain
from tests.registry.sidecar_files import told

SHA = "ab" * 32
COUNTS = {"10_ink": {"inkwash": 20, "1girl": 5, 'say "hi"': 2}, "5_more": {"1girl": 18, "caf\u00e9": 1}}


@pytest.mark.parametrize(("metadata", "said"), [
    ({"modelspec.title": "Ink", "modelspec.architecture": "stable-diffusion-xl-v1-base/lora", "modelspec.tags": "a, b",
      "modelspec.trigger_phrase": "ink wash", "modelspec.license": "mit", "modelspec.author": "mei",
      "modelspec.usage_hint": "soft", "modelspec.description": "<p>x</p>", "modelspec.hash_sha256": "0x" + SHA.upper()},
     {"title": "Ink", "base_model": "stable-diffusion-xl-v1-base", "tags": ("a", "b"), "words": ("ink wash",),
      "licence": "mit", "author": "mei", "notes": "soft", "description": "x", "hash.sshs_model_hash": SHA}),
    ({"ss_output_name": "ink_v2", "ss_sd_model_name": "pony.safetensors", "ss_new_sd_model_hash": "None",
      "ss_sd_model_hash": "0badf00d", "ss_base_model_version": "sdxl_base_v1-0", "ss_network_module": "networks.lora",
      "ss_steps": "2000", "ss_epoch": "10", "ss_training_comment": "None", "ss_tag_frequency": json.dumps(COUNTS),
      "sshs_model_hash": SHA},
     {"alias": "ink_v2", "trained_on": "pony.safetensors", "trained_on_hash": "0badf00d", "base_model": "sdxl_base_v1-0",
      "network_module": "networks.lora", "steps": 2000, "epochs": 10, "hash.sshs_model_hash": SHA,
      "training_tags": ("1girl", "inkwash", 'say "hi"', "café")}),
    ({"ss_base_model": '"Tongyi/Z"', "training_info": '{"step": 500, "epoch": 3}'},
     {"base_model": '"Tongyi/Z"', "steps": 500, "epochs": 3}),
    ({"lora_adapter_metadata": '{"unet.r": 4, "unet.base_model_name_or_path": "stabilityai/sdxl"}'},
     {"base_model": "stabilityai/sdxl"}),
    ({"ssmd_display_name": "Ink", "ssmd_keywords": "a, b", "ssmd_source": "https://x.invalid", "ssmd_rating": "3"},
     {"title": "Ink", "words": ("a", "b"), "source": "https://x.invalid"}),
    ({"sshs_model_hash": "0x" + SHA}, {}),
    ({"ot_branch": "master", "modelspec.hash_sha256": "0x" + SHA}, {}),
    ({"sshs_model_hash": "e3b0c44298fc" + "0" * 52, "ss_steps": "many", "ss_epoch": "1e999", "modelspec.title": "  "}, {}),
])  # fmt: skip
def test_what_a_header_says(metadata, said):
    assert told(of_header(metadata)) == said


def test_modelspec_is_believed_before_kohya():
    won = settled(of_header({"ss_base_model_version": "sd_v1", "modelspec.architecture": "flux-1-dev/lora"}))
    assert (won["base_model"].value, won["base_model"].origin) == ("flux-1-dev", "modelspec")


@pytest.mark.parametrize("text", [
    json.dumps(COUNTS), json.dumps(COUNTS)[:-12], json.dumps(json.dumps(COUNTS)), json.dumps(COUNTS, indent=2),
])  # fmt: skip
def test_training_tags_are_found_in_what_other_tools_left_of_them(text):
    assert training_tags(text)[:2] == ["1girl", "inkwash"]


def test_twenty_megabytes_of_tags_take_seconds_and_little_is_kept():
    text = '{"d": {' + ", ".join(f'"tag number {number}": {number % 7}' for number in range(900_000)) + "}}"
    assert len(text) > 20_000_000
    started = time.process_time()
    tags = told(of_header({"ss_tag_frequency": text, "k" * 4096: "v", "modelspec.description": "x" * 20_000_000}))
    assert time.process_time() - started < 10
    assert len(tags["training_tags"]) == 256
    assert len(tags["description"]) == 65_536


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.dictionaries(st.sampled_from([
    "modelspec.title", "modelspec.tags", "ss_steps", "ss_tag_frequency", "training_info", "lora_adapter_metadata",
    "modelspec.hash_sha256", "sshs_model_hash", "modelspec.description", "ss_epoch",
]), st.text(max_size=50) | st.sampled_from(["[" * 9999, '{"a":' * 9999, "9" * 5000, "NaN", "null", '{"step": [1]}', '{"step": 1e999}'])))  # fmt: skip
def test_no_header_is_too_strange(metadata):
    for fact in of_header(metadata):
        assert make(fact.field, fact.value, fact.origin) == fact


@pytest.mark.parametrize(("html", "text"), [
    ("<p>One</p><p>Two<br/>lines</p>", "One\n\nTwo\nlines"),
    ("<h2>Use</h2><ol><li>a</li><li><p>b</p></li></ol>end", "Use\n\n- a\n- b\n\nend"),
    ("<style>p{}</style><p>x</p><script>alert('<p>')</script>", "x"),
    ("<p>1 &lt; 2 &amp;&nbsp;3 &#128512;</p>", "1 < 2 & 3 😀"),
    ("<p>put <lora:ink:0.8> there</p>", "put <lora:ink:0.8> there"),
    ("put <lora:ink:0.8>\nthere", "put <lora:ink:0.8>\nthere"),
    ("<p>a</p><!-- never ended", "a"), ("<p", "<p"), ("<p><img onerror=x src=y>", ""),
    ("<p>a  \n  b</p>", "a b"), ("1 < 2", "1 < 2"),
])  # fmt: skip
def test_html_becomes_plain_text(html, text):
    assert plain(html) == text


@given(st.text())
def test_a_text_made_html_and_read_again_is_the_same(text):
    fact = make("description", text, "user")
    assert fact is None or plain(marked(fact.value)) == fact.value


@pytest.mark.parametrize("piece", ["<", "<!--", "<a ", "</", "<p>", "<![CDATA[", "&#", "&", "<a href='", "<?", "<script>",
                                   "<p/", "<li>", " \n", '<p a="'])  # fmt: skip
def test_no_html_takes_long(piece):
    started = time.process_time()
    plain("<p>" + piece * 200_000)
    assert time.process_time() - started < 5


@given(st.sampled_from(sorted(FIELDS)), st.text(st.characters(), max_size=200))
def test_a_text_is_tidied_once(field, text):
    if FIELDS[field] in (Sort.LINE, Sort.TEXT) and (fact := make(field, text, "user")):
        assert make(field, fact.value, "user") == fact
        assert not any(unicodedata.category(sign) in ("Cc", "Cs") for sign in fact.value.replace("\n", ""))
        fact.value.encode()
