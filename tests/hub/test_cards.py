"""Cards: whatever a file says of itself stays text, and what a person wrote stays."""

import json
import re
from html.parser import HTMLParser

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from adapterhub.adapter import Kind
from adapterhub.documents import Inspection, Token
from adapterhub.documents.publication import Fidelity
from adapterhub.errors import RefusedInput, UsageError
from adapterhub.hub import card, card_body, card_fields, front_matter
from adapterhub.hub.card_facts import Options, gathered, is_hub_id
from adapterhub.hub.markdown import SHOWN, code, escaped

HEADINGS = ["fox", "What it is", "Trigger words", "Files", "Use it", "Training", "Fidelity", "Lineage", "Licence"]
FIELDS = {
    "license",
    "base_model",
    "base_model_relation",
    "library_name",
    "pipeline_tag",
    "tags",
    "instance_prompt",
    "widget",
}
FIELDS_OF_FILES = (
    "modelspec.description",
    "modelspec.author",
    "ss_training_comment",
    "ss_optimizer",
    "ss_seed",
    "ss_sd_model_name",
)
NASTY = st.sampled_from([
    "# heading", "\n# heading", "\n\n===\n", "\n---\nlicense: mit\n---\n", "[a](https://x.example)", "![a](x.png)", "<script>alert(1)</script>",
    "<img src=x onerror=y>", "`", "```", "\n```\n# out\n", "<!-- adapterhub:end -->", "\n<!-- adapterhub:end -->\n", "&lt;b&gt;", "\\", "\\`",
    "https://x.example", "www.x.example", "<https://x.example>", "- item", "| a | b |", "\u2028# x", "\x85# x", "\r# x", "\x00", "\u202e",
    "[x]: https://x.example", "$x$", "~~~", "    code", "{repo}", "{base}", "'''", '"""', "*/", "key: value", "&a [*a]", "!!python/object:os.system",
])  # fmt: skip
TEXT = st.lists(NASTY | st.text(max_size=6), min_size=1, max_size=6).map("".join)


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found, self.comments = [], []

    def handle_starttag(self, tag, attributes):
        self.found.append(tag)

    def handle_comment(self, data):
        self.comments.append(data)


def inspection(**changes):
    told = {"path": "x", "size": 1, "kind": Kind.LORA, "container": "safetensors", "tensors": 1, "parameters": 1, "architecture": "sd1",
            "layout": "kohya", "algorithms": {"lora": 1}, "ranks": {"4": 1}, "dtypes": {"F16": 1}}  # fmt: skip
    return Inspection(**told | changes)


def made(text, there=None, kind=Kind.LORA):
    recipe = {"command": "merge", "version": "1", "inputs": [{"name": text, "sha256": text}]}
    metadata = dict.fromkeys(FIELDS_OF_FILES, text) | {
        "modelspec.trigger_phrase": text,
        "adapterhub.recipe": json.dumps(recipe),
    }
    found = inspection(
        kind=kind, variant=text, tokens=[Token(token=text, vectors=1, widths={})] if kind is Kind.EMBEDDING else []
    )
    proof = [Fidelity(layout="diffusers", exactness="bit-exact", max_error=0.0, modules=1)]
    options = Options(base_model="alice/base", license="mit")
    facts = gathered("alice/fox", found, metadata, ["a.safetensors"], proof, options, [("image_0.png", text)])
    part = card.Part(card_fields.fields(facts), card_fields.settled(facts), card_body.body(facts))
    return card.written(part, there)


def structure(text):
    """Headings, links and pictures, tags of HTML, and what stands in fences."""
    _, body = front_matter.divided(text)
    every = [
        one
        for token in MarkdownIt("commonmark").enable("table").parse(body)
        for one in (token, *(token.children or ()))
    ]
    kinds = [token.type for token in every]
    headings = [every[i + 1].content for i, kind in enumerate(kinds) if kind == "heading_open"]
    html = Tags()
    html.feed("".join(token.content for token in every if token.type in ("html_block", "html_inline")))
    fences = [token.content for token in every if token.type == "fence"]
    odd = {"link_open", "image", "table_open", "hr", "code_block", "blockquote_open"} & {*kinds}
    return headings, odd, html.found, html.comments, fences


@settings(max_examples=150, deadline=None)
@given(text=TEXT, kind=st.sampled_from([Kind.LORA, Kind.EMBEDDING, Kind.CHECKPOINT]))
def test_no_text_of_a_file_adds_a_heading_a_link_a_picture_a_tag_or_a_field(text, kind):
    try:
        done = made(text, kind=kind)
    except RefusedInput:  # it reads like a token or a path
        return
    headings, odd, tags, comments, fences = structure(done)
    assert [heading for heading in headings if heading not in HEADINGS] == []
    assert len(set(headings)) == len(headings)
    assert (odd, tags, len(comments), len(fences)) == (set(), ["gallery"], 2, 1)
    compile(fences[0], "snippet", "exec")
    head, body = front_matter.divided(done)
    assert front_matter.parsed(head).keys() <= FIELDS
    assert [line for line in body.splitlines() if line.startswith("<!--")] == [card.BEGIN, card.END]


@settings(max_examples=60, deadline=None)
@given(first=TEXT, second=TEXT, mine=st.text("ab \n*#", max_size=20))
def test_a_second_card_takes_the_place_of_the_first_and_of_nothing_else(first, second, mine):
    try:
        once = made(first, there=f"---\nthumbnail: x.png\n---\nabove\n{mine}")
        twice = made(second, there=f"{once}\nbelow\n{mine}")
        assert made(second, there=twice) == twice
    except RefusedInput:
        return
    _, body = front_matter.divided(twice)
    assert body.startswith(f"above\n{mine}".rstrip())
    assert body.endswith(f"{card.END}\n\nbelow\n{mine}")
    assert (body.count(card.BEGIN), front_matter.parsed(front_matter.divided(twice)[0])["thumbnail"]) == (1, "x.png")


@given(text=st.text())
def test_a_code_span_reads_as_the_text_on_one_line(text):
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    shown = line if len(line) <= SHOWN else f"{line[: SHOWN - 1].rstrip()}…"
    rendered = code(text)
    tokens = MarkdownIt("commonmark").parseInline(rendered)[0].children or []
    assert [token.content for token in tokens] == ([shown] if shown else [])


@given(text=st.text("<>&@[]()!*_`#~|\\:/.-+=ab1 \n"))
def test_prose_reads_as_the_text_on_one_line(text):
    tokens = MarkdownIt("commonmark").parse(escaped(text))
    inline = [child for token in tokens for child in token.children or ()]
    assert {token.type for token in inline} <= {"text", "text_special"}
    assert "".join(token.content for token in inline) == " ".join(text.split())


@pytest.mark.parametrize(("text", "is_one"), [
    ("runwayml/stable-diffusion-v1-5", True), ("a/b", True), ("models/sd15", False), ("./a", False), ("/a/b", False), ("a/b/c", False),
    ("a/b.safetensors", False), ("C:\\a", False), ("~/a", False), ("sd15", False), ("a b/c", False), ("", False), ("../a", False),
])  # fmt: skip
def test_an_id_is_told_from_a_path(text, is_one):
    assert is_hub_id(text) is is_one


@pytest.mark.parametrize(
    ("there", "ours", "settled", "expected"),
    [("", {"license": "mit"}, (), "license: mit\n"), ("license: cc0-1.0\n", {"license": "mit"}, (), "license: cc0-1.0\n"),
     ("license: cc0-1.0\nx: 1 # y\n", {"license": "mit"}, ("license",), "license: mit\nx: 1 # y\n"),
     ("# mine\ntags: [a]\nx:\n  - y: 1\n", {"tags": ["a", "b"]}, (), "# mine\ntags:\n- a\n- b\nx:\n  - y: 1\n"),
     ("'a: b': 1\n", {"license": "mit"}, (), "'a: b': 1\nlicense: mit\n"), ("x: 1", {"y": "2"}, (), "x: 1\ny: '2'\n")],
)  # fmt: skip
def test_fields_that_are_there_keep_their_lines(there, ours, settled, expected):
    assert front_matter.merged(there, ours, settled) == expected


@pytest.mark.parametrize("text", ["a: [", "- a", "a: &x [1]\nb: *x", "1: a", "a: " + "[" * 5000, "x" * 70_000])
def test_front_matter_that_is_none_is_refused(text):
    with pytest.raises(UsageError):
        front_matter.parsed(text)


def test_yaml_keeps_what_other_scripts_write():
    assert yaml.safe_load(front_matter.dumped({"instance_prompt": "狐 🦊: '#\""})) == {"instance_prompt": "狐 🦊: '#\""}


def test_a_prompt_in_a_snippet_is_a_literal():
    shown = re.findall(r"pipeline\((.*)\)\.images", made('a "fox"\'s {repo}\\', kind=Kind.EMBEDDING))
    assert [eval(text) for text in shown] == ['a "fox"\'s {repo}\\']
