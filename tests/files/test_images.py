"""Embeddings in pictures: A1111's text chunk and strips, against an encoder and a decoder written from its description."""

import base64
import json
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from adapterhub import files
from adapterhub.files import Problem
from adapterhub.files.images import strips
from adapterhub.files.images.writing import render
from adapterhub.tensors import from_bytes, values
from tests.files.pictures import (
    COVER,
    EXPECTED,
    FACTS,
    document,
    embedding,
    floats,
    framed_by_hand,
    keys_by_hand,
    saved,
    strips_by_hand,
    text,
    with_chunk,
)

CONTAINER = pytest.mark.parametrize("container", ["png", "webp"])
REAL = "Ljzd-PRO__stable-diffusion-embeddings-of-gasai-yuno__gasai_yuno-1000"


def read(path: Path) -> tuple[dict[str, Any], list[Any], tuple[Problem, ...]]:
    """The fields, the values of the one tensor, and what is odd."""
    with files.read(path) as package:
        assert list(package.only.tensors) == ["string_to_param.*"]
        assert package.only.tree["string_to_token"] == {"*": 265}
        fields = {name: package.only.tree[name] for name in FACTS}
        return fields, values(package.only.tensors["string_to_param.*"]).tolist(), package.problems


def test_the_key_stream_is_that_of_the_generator() -> None:
    stream = strips.key_stream()
    first = [next(stream) for _ in range(100)]
    assert first[:10] == [253, 242, 127, 44, 157, 27, 239, 133, 38, 79]
    assert first == keys_by_hand(100)
    assert sum(next(stream) for _ in range(100_000)) == 12731374


@pytest.mark.parametrize(
    ("size", "height", "width"),
    [(1536, 512, 2), (1535, 512, 2), (1024, 512, 2), (1023, 512, 1), (1, 64, 1), (192, 64, 2), (62000, 512, 41)],
)
def test_a_strip_is_always_filled_up_by_at_least_one_row_twice(size: int, height: int, width: int) -> None:
    assert strips.strip_width(size, height) == width


@pytest.mark.parametrize("cyclic", [True, False], ids=["repeated", "zeros"])
@pytest.mark.parametrize("upper", [0x00, 0x10, 0xF0])
@pytest.mark.parametrize("kind", ["png", "webp"])
def test_strips_that_were_made_by_hand_are_read(tmp_path: Path, cyclic: bool, upper: int, kind: str) -> None:
    image = framed_by_hand(document(EXPECTED), COVER, cyclic, upper)
    path = saved(image, tmp_path / f"x.{kind}", **({"lossless": True} if kind == "webp" else {}))
    assert read(path) == (FACTS, EXPECTED, ())


def test_a_black_frame_around_the_strips_is_cut_off(tmp_path: Path) -> None:
    image = framed_by_hand(document(EXPECTED), COVER)
    boxed = Image.new("RGB", (image.width + 9, image.height + 7))
    boxed.paste(image, (5, 3))
    assert read(saved(boxed, tmp_path / "x.png")) == (FACTS, EXPECTED, ())


@pytest.mark.parametrize("cover", [Image.new("RGB", (80, 64)), Image.new("RGB", (80, 64), (255, 255, 255))])
def test_a_cover_of_one_colour_hides_nothing(tmp_path: Path, cover: Image.Image) -> None:
    saved(cover, tmp_path / "cover.png")
    (tmp_path / "x.webp").write_bytes(render(embedding(floats()), tmp_path / "cover.png", "webp"))
    assert read(tmp_path / "x.webp") == (FACTS, EXPECTED, ())


SPECIAL = [0.0, -0.0, 1e-45, -3.4028235e38, float("inf"), float("-inf"), float("nan"), 0.1]
DTYPES = {
    "F32": np.array([SPECIAL], "<f4").tobytes(),
    "F16": np.array([[0.0, -0.0, 6e-8, -65504, float("inf"), float("-inf"), float("nan"), 0.1]], "<f2").tobytes(),
    "BF16": np.array([SPECIAL], "<f4").view("<u2")[:, 1::2].tobytes(),
    "F64": np.array([[*SPECIAL[:-1], 1e300]], "<f8").tobytes(),
}


@CONTAINER
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_we_write_holds_the_values_bit_for_bit(tmp_path: Path, container: str, dtype: str) -> None:
    tensor = from_bytes(dtype, (1, 8), DTYPES[dtype])
    saved(COVER, tmp_path / "cover.png")
    path = tmp_path / f"x.{container}"
    path.write_bytes(render(embedding(tensor), tmp_path / "cover.png", container))
    wide = "F64" if dtype == "F64" else "F32"
    expected = values(tensor).astype("<f8" if wide == "F64" else "<f4").tobytes()
    with files.read(path) as package:
        found = package.only.tensors["string_to_param.*"]
        assert (found.dtype, found.shape, found.read()) == (wide, (1, 8), expected)
        assert package.problems == ()
        assert package.container == package.only.container == container
    with Image.open(path) as image:
        assert (image.mode, image.height) == ("RGB", 64)
        by_hand = [strips_by_hand(image.convert("RGB"))]
        if container == "png":
            by_hand.append(base64.b64decode(image.text["sd-ti-embedding"], validate=True))
    for content in by_hand:
        tree = json.loads(content)
        rows = tree["string_to_param"]["*"].pop("TORCHTENSOR")
        assert tree == {"string_to_token": {"*": 265}, "string_to_param": {"*": {}}, **FACTS}
        assert np.array(rows, "<f8").astype("<f8" if wide == "F64" else "<f4").tobytes() == expected


def test_the_payload_is_written_as_pythons_json_writes_it(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(render(embedding(floats()), None, "png"))
    with Image.open(tmp_path / "x.png") as image:
        written = base64.b64decode(image.text["sd-ti-embedding"]).decode()
        assert strips_by_hand(image).decode() == written
    assert written == document(EXPECTED)


CODED = base64.b64encode(document(EXPECTED).encode())
KEYWORD = b"sd-ti-embedding\0"
TEXTS = {
    "tEXt": (b"tEXt", KEYWORD + CODED),
    "zTXt": (b"zTXt", KEYWORD + b"\0" + zlib.compress(CODED)),
    "iTXt": (b"iTXt", KEYWORD + b"\0\0en\0x\0" + CODED),
    "iTXt, deflated": (b"iTXt", KEYWORD + b"\1\0\0\0" + zlib.compress(CODED)),
}


@pytest.mark.parametrize("what", TEXTS)
def test_every_kind_of_text_chunk_is_read(tmp_path: Path, what: str) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(with_chunk(*TEXTS[what]))
    with Image.open(path) as image:
        assert image.text["sd-ti-embedding"] == CODED.decode()
    assert read(path) == (FACTS, EXPECTED, ())


DIFFERENT = {
    "a name": (document(EXPECTED, name="other"), "name"),
    "a number of another type": (document(EXPECTED, step=7.0), "step"),
    "a field more": (document(EXPECTED, note=1), "note"),
    "one value": (document([EXPECTED[0], [*EXPECTED[1][:3], 5.25]]), "string_to_param.*[1]"),
    "all vectors": (document([[0.0] * 4] * 2), "string_to_param.*[0]', 'string_to_param.*[1]"),
    "a vector less": (document(EXPECTED[:1]), "string_to_param.*"),
    "no embedding": ("[]", "the embedding is a list, where an object is expected"),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_strips_that_contradict_the_text_chunk_are_an_error_and_the_text_chunk_counts(
    tmp_path: Path, what: str
) -> None:
    other, place = DIFFERENT[what]
    path = saved(framed_by_hand(other, COVER), tmp_path / "x.png", pnginfo=text(document(EXPECTED)))
    fields, rows, (problem,) = read(path)
    assert (fields, rows) == (FACTS, EXPECTED)
    assert (problem.severity, problem.code, problem.where) == ("error", "contradiction", "side strips")
    assert place in problem.message


def test_json_that_is_written_otherwise_but_says_the_same_is_no_contradiction(tmp_path: Path) -> None:
    other = json.dumps(json.loads(document(EXPECTED)), indent=1, sort_keys=True)
    path = saved(framed_by_hand(other, COVER), tmp_path / "x.png", pnginfo=text(document(EXPECTED)))
    assert read(path) == (FACTS, EXPECTED, ())


def test_what_is_no_number_in_both_is_no_contradiction(tmp_path: Path) -> None:
    content, other = (json.dumps(json.loads(document([[float("nan"), 1.0]])), indent=indent) for indent in (None, 1))
    with files.read(saved(framed_by_hand(other, COVER), tmp_path / "x.png", pnginfo=text(content))) as package:
        assert package.problems == ()


def test_strips_that_are_damaged_are_named_beside_a_sound_text_chunk(tmp_path: Path) -> None:
    image = framed_by_hand(document(np.linspace(0, 1, 768, dtype="<f4").tolist()), COVER)
    half = image.resize((image.width // 2, image.height // 2))
    fields, rows, (problem,) = read(saved(half, tmp_path / "x.png", pnginfo=text(document(EXPECTED))))
    assert (fields, rows, problem.severity, problem.code) == (FACTS, EXPECTED, "warning", "strips-damaged")


def test_a_large_picture_is_read_by_its_text_chunk_alone(tmp_path: Path) -> None:
    path = saved(Image.new("1", (4000, 4000)), tmp_path / "x.png", pnginfo=text(document(EXPECTED)))
    fields, rows, (problem,) = read(path)
    assert (fields, rows, problem.severity, problem.code) == (FACTS, EXPECTED, "warning", "strips-not-read")


LOOSE = {
    "no tensor at all": ({"a": 1}, {}),
    "lists": ({"a": [{"TORCHTENSOR": [1.5]}]}, {"a.0": ("F32", (1,))}),
    "a number": ({"a": {"TORCHTENSOR": 3}}, {"a": ("F32", ())}),
    "integers": ({"a": {"TORCHTENSOR": [[1, 2], [3, 4]]}}, {"a": ("F32", (2, 2))}),
    "an integer that no float32 has": ({"a": {"TORCHTENSOR": [2**24 + 1]}}, {"a": ("F64", (1,))}),
    "one number that no float32 has": ({"a": {"TORCHTENSOR": [[0.5], [0.1]]}}, {"a": ("F64", (2, 1))}),
    "nothing in it": ({"a": {"TORCHTENSOR": []}}, {"a": ("F32", (0,))}),
    "rows of nothing": ({"a": {"TORCHTENSOR": [[], []]}}, {"a": ("F32", (2, 0))}),
}


@pytest.mark.parametrize("what", LOOSE)
def test_tensors_are_as_narrow_as_their_numbers_allow(tmp_path: Path, what: str) -> None:
    tree, expected = LOOSE[what]
    path = saved(COVER, tmp_path / "x.png", pnginfo=text(json.dumps(tree)))
    with files.read(path) as package:
        assert {name: (t.dtype, t.shape) for name, t in package.only.tensors.items()} == expected
        assert all(len(tensor.read()) == tensor.nbytes for tensor in package.only.tensors.values())


# The real one.


@pytest.fixture
def real(real_files: Path) -> tuple[bytes, bytes]:
    """A picture that A1111 wrote, and the bytes of the tensor in the `.pt` beside it."""
    with files.read(real_files / f"{REAL}.pt") as package:
        return (real_files / f"{REAL}.png").read_bytes(), package.only.tensors["string_to_param.*"].read()


@pytest.mark.parametrize("kept", ["both", "text chunk", "strips", "strips in WebP"])
def test_a_real_picture_holds_the_tensor_of_its_twin(tmp_path: Path, real: tuple[bytes, bytes], kept: str) -> None:
    content, expected = real
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with Image.open(path) as image:
        image.load()
        if kept == "text chunk":
            info = PngInfo()
            info.add_text("sd-ti-embedding", image.text["sd-ti-embedding"])
            image.crop((100, 0, 200, 100)).save(path, pnginfo=info)
        elif kept == "strips":
            Image.frombytes("RGB", image.size, image.tobytes()).save(path)
        elif kept == "strips in WebP":
            image.save(path, "WEBP", lossless=True, method=0)
    with files.read(path) as package:
        found = package.only.tensors["string_to_param.*"]
        assert (found.dtype, found.shape, found.read()) == ("F32", (8, 768), expected)
        assert package.problems == ()
        assert {name: package.only.tree[name] for name in FACTS} == {
            "name": "gasai yuno", "step": 1000, "sd_checkpoint": None, "sd_checkpoint_name": None,
        }  # fmt: skip


def test_a_picture_is_read_without_numpy(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(render(embedding(floats()), None, "png"))
    program = "import sys; from pathlib import Path; from adapterhub import files; files.read(Path(sys.argv[1])); print('PIL' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True)
    assert done.stdout.split() == ["True", "False"], done.stderr
