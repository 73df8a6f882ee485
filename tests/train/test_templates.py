"""What is said of pictures while a word is learned."""

from __future__ import annotations

import pytest
from PIL import Image

from adapterhub.errors import UsageError
from adapterhub.train.pictures import Picture
from adapterhub.train.templates import TEMPLATES, captions, templates

PLAIN, AROUND = "a photo of a {}", "a photo of [name], [filewords]"
SAID = {
    "a template": (None, [PLAIN], ["a photo of a <t>"]),
    "all of them": (None, [PLAIN, "[name]!"], ["a photo of a <t>", "<t>!"]),
    "those without a caption's place": (None, [PLAIN, AROUND], ["a photo of a <t>"]),
    "around the caption": ("on a mat", [PLAIN, AROUND], ["a photo of <t>, on a mat"]),
    "braces in the caption stay": ("[name]d", [AROUND], ["<t>d"]),
    "a caption with a place": ("a {} on a mat", [PLAIN], ["a <t> on a mat"]),
    "a caption that says it": ("a <t> on a mat", [AROUND], ["a <t> on a mat"]),
    "an empty caption is none": ("", [PLAIN], ["a photo of a <t>"]),
}  # fmt: skip


def picture(caption):
    return Picture("0.png", Image.new("RGB", (16, 16)), caption, (16, 16))


@pytest.mark.parametrize(("caption", "sentences", "wanted"), SAID.values(), ids=SAID)
def test_what_is_said_of_a_picture(caption, sentences, wanted):
    assert captions(picture(caption), sentences, "<t>") == wanted


@pytest.mark.parametrize(("caption", "sentences", "message"), [
    ("on a mat", [PLAIN], "0.png: its caption says neither <t> nor {}"),
    ("a <T> on a mat", [PLAIN], "says neither <t> nor {}"),
    (None, [AROUND], "0.png has no caption"),
    ("a <t> <t>_1", [PLAIN], "writes out the vectors of <t>"),
])  # fmt: skip
def test_what_would_teach_nothing_is_refused(caption, sentences, message):
    with pytest.raises(UsageError, match=message):
        captions(picture(caption), sentences, "<t>")


def test_a_file_of_templates(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("a {}\n\n  [name], [filewords]  \n")
    assert templates(str(path)) == ["a {}", "[name], [filewords]"]


@pytest.mark.parametrize(("content", "message"), [
    (b"a {}\na photo\n", "the line 'a photo' does not say the word"), (b"\n\n", "there are no lines"), (b"\xff{}", "not UTF-8"),
])  # fmt: skip
def test_a_file_of_templates_that_cannot_be_meant(tmp_path, content, message):
    path = tmp_path / "mine.txt"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        templates(str(path))


def test_a_folder_is_no_file_of_templates(tmp_path):
    with pytest.raises(UsageError, match="the templates cannot be read: Is a directory"):
        templates(str(tmp_path))


@pytest.mark.parametrize("sentences", TEMPLATES.values(), ids=TEMPLATES)
def test_our_templates_say_the_word_once(sentences):
    assert all(sentence.count("{}") == 1 for sentence in sentences)
    assert len(set(sentences)) == len(sentences)
