"""Names from the network never become a path outside of the folder that was meant."""

import os
import random
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapterhub.errors import RefusedInput
from adapterhub.hub.names import LONGEST, inside, safe_name

HOSTILE = ["..", "../x", "a/../../x", "/etc/passwd", "\\\\host\\share", "C:\\x", "c:x", "con", "NUL.safetensors", "aux.txt", "x.", "x ", " x", "~/x",
           "~root", "a//b", "", ".", "a/./b", "x\0y", "x\ny", "x\x1b[0m", "a\\..\\b", "x:stream", "x\u202egnp", "/", "//", "a/", "lpt1", "COM¹.bin",
           "a/" * 40 + "x", "x" * 256, "?", "*", "|", "<", '"', "\ud800"]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_plain_name_is_refused(name, tmp_path):
    with pytest.raises(RefusedInput):
        inside(tmp_path, name)


@pytest.mark.parametrize("name", HOSTILE)
def test_what_a_server_calls_its_file_becomes_one_plain_name(name, tmp_path):
    assert inside(tmp_path, safe_name(name)).parent == tmp_path


@pytest.mark.parametrize(
    "name", ["pytorch_lora_weights.safetensors", "unet/model.fp16.safetensors", "日本語.pt", "a b-c_(1).bin", ".hidden"]
)
def test_ordinary_names_stay_as_they_are(name, tmp_path):
    assert inside(tmp_path, name) == tmp_path / name


def test_ten_thousand_random_names_never_become_a_path_outside(tmp_path):
    dice = random.Random(7)
    pieces = [
        "..",
        ".",
        "/",
        "\\",
        "~",
        "C:",
        "\0",
        "\n",
        " ",
        "a",
        "é",
        "con",
        "nul",
        "%2e%2e",
        "%2f",
        "\u202e",
        ":",
        "\ud800",
        "x.safetensors",
        "//",
    ]
    root = tmp_path.resolve()
    for _ in range(10_000):
        name = "".join(dice.choices(pieces, k=dice.randrange(9)))
        found = [tmp_path / safe_name(name)]
        with suppress(RefusedInput):
            found.append(inside(tmp_path, name))
        for path in found:
            reached = Path(os.path.normpath(path))
            assert reached != root
            assert reached.is_relative_to(root)
            assert "\0" not in str(path)
            assert path.name.isprintable()


@given(st.text())
def test_any_text_becomes_a_name_that_is_accepted_and_short(text):
    name = safe_name(text)
    assert len(name.encode()) <= LONGEST
    assert safe_name(name) == name or "%" in name
    assert inside(Path("/tmp"), name) == Path("/tmp") / name


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "unet").symlink_to(tmp_path)
    with pytest.raises(RefusedInput, match="link"):
        inside(folder, "unet/x.safetensors")
