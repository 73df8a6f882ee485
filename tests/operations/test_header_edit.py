"""metadata: fields change, in place or not, and the data behind them never does."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import adapterhub
from adapterhub import files
from adapterhub.errors import MalformedFile, NotAnAdapter, NotFound, RefusedInput, UsageError
from adapterhub.operations.recipe import FIELD as RECIPE

TENSORS = {
    "b": np.arange(300_001, dtype="u1"),
    "a": np.linspace(0, 1, 40_000, dtype="f4"),
    "empty": np.zeros((0, 3), "f2"),
}
TENSORS["large"] = np.arange(700_000, dtype="f4")


@pytest.fixture
def tight(tmp_path: Path) -> Path:
    """A file as safetensors writes it, with hardly any padding."""
    path = tmp_path / "x.safetensors"
    save_file(TENSORS, path, metadata={"ss_epoch": "1", "unknown field": "kept – ü\n", "sshs_legacy_hash": "0" * 8})
    return path


@pytest.fixture
def roomy(tight: Path) -> Path:
    """One with room in its header."""
    assert adapterhub.metadata(tight, set={"first": "edit"}).written == "rewritten"
    return tight


def fields(path: Path) -> dict[str, str]:
    """As safetensors itself reads them."""
    with safe_open(path, "np") as opened:
        return opened.metadata()


def data(path: Path) -> bytes:
    content = path.read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :]


def same_tensors(path: Path) -> bool:
    return all(np.array_equal(tensor, TENSORS[name]) for name, tensor in load_file(path).items())


def test_without_an_edit_the_fields_are_told_and_nothing_is_written(tight):
    before = tight.stat()
    found = adapterhub.metadata(tight)
    assert found.fields == fields(tight)
    assert (found.written, found.before, found.changes, found.size) == (None, None, [], before.st_size)
    assert 8 + found.header + len(data(tight)) == before.st_size
    assert tight.stat() == before


def test_what_fits_is_written_over_the_old_header_and_the_data_is_where_it_was(roomy):
    before, digest, inode = roomy.read_bytes(), files.data_sha256(roomy), roomy.stat().st_ino
    found = adapterhub.metadata(roomy, set={"modelspec.title": "Füchse"}, unset=["first"])
    after = roomy.read_bytes()
    assert found.written == "in-place"
    assert roomy.stat().st_ino == inode
    assert (len(after), after[:8], data(roomy)) == (len(before), before[:8], before[len(before) - len(data(roomy)) :])
    assert files.data_sha256(roomy) == digest
    assert fields(roomy) == {
        "ss_epoch": "1",
        "unknown field": "kept – ü\n",
        "sshs_legacy_hash": "0" * 8,
        "modelspec.title": "Füchse",
    }
    assert same_tensors(roomy)
    assert [(one.field, one.action, one.reason) for one in found.changes] == [
        ("first", "unset", "asked"), ("modelspec.title", "set", "asked")]  # fmt: skip
    assert [one.name for one in roomy.parent.iterdir()] == [roomy.name]


def test_what_does_not_fit_is_written_to_a_new_file_with_room_and_the_same_data(tight):
    tight.chmod(0o640)
    digest, inode, before = files.data_sha256(tight), tight.stat().st_ino, data(tight)
    found = adapterhub.metadata(tight, set={"long": "x" * 5000})
    assert found.written == "rewritten"
    assert found.spare >= 1024
    assert (files.data_sha256(tight), data(tight), tight.stat().st_mode & 0o777) == (digest, before, 0o640)
    assert tight.stat().st_ino != inode
    assert same_tensors(tight)
    assert [one.name for one in tight.parent.iterdir()] == [tight.name]


def test_an_edit_that_changes_nothing_writes_nothing(roomy):
    before = roomy.stat()
    assert adapterhub.metadata(roomy, set={"first": "edit"}, clean_private=True).written is None
    assert roomy.stat() == before


def test_a_dry_run_foretells_and_writes_nothing(roomy):
    before = roomy.read_bytes()
    told = adapterhub.metadata(roomy, set={"k": "v" * 3000}, dry_run=True)
    assert roomy.read_bytes() == before
    done = adapterhub.metadata(roomy, set={"k": "v" * 3000})
    assert (told.written, told.size, told.header, told.spare, told.fields) == (
        done.written, done.size, done.header, done.spare, done.fields)  # fmt: skip


def test_entries_of_tensors_stay_as_they_are_even_where_safetensors_does_not_know_a_field(tmp_path):
    head = b'{"t":{"dtype":"U8","shape":[4],"data_offsets":[0,4],"note":"mine"},"__metadata__":{"a":"1"}}' + b" " * 200
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(head).to_bytes(8, "little") + head + b"data")
    adapterhub.metadata(path, set={"b": "2"})
    raw = path.read_bytes()
    assert json.loads(raw[8 : 8 + len(head)])["t"] == {
        "dtype": "U8",
        "shape": [4],
        "data_offsets": [0, 4],
        "note": "mine",
    }
    assert raw.endswith(b"data")


def test_kohyas_older_hash_goes_where_the_fields_that_it_covers_change(roomy):
    assert "sshs_legacy_hash" in adapterhub.metadata(roomy, set={"note": "x"}).fields
    found = adapterhub.metadata(roomy, set={"ss_epoch": "2"})
    assert ("sshs_legacy_hash", "untrue") in [(one.field, one.reason) for one in found.changes]
    assert "sshs_legacy_hash" not in fields(roomy)


@pytest.mark.parametrize("options", [
    {"set": {"sshs_model_hash": "0"}}, {"set": {"modelspec.hash_sha256": "0x"}}, {"set": {RECIPE: "{}"}}, {"set": {"": "x"}},
    {"unset": ["not there"]}, {"set": {"ss_epoch": "2"}, "unset": ["ss_epoch"]}, {"set": {"k": "\udce9"}},
    {"set": {"k": Path("no such file")}}, {"set": {"k": "x" * 16_000_001}}, {"thumbnail": "no such picture"},
])  # fmt: skip
def test_what_cannot_be_done_is_refused_and_nothing_is_written(tight, options):
    before = tight.read_bytes()
    with pytest.raises(UsageError):
        adapterhub.metadata(tight, **options)
    assert tight.read_bytes() == before
    assert [one.name for one in tight.parent.iterdir()] == [tight.name]


def test_a_recipe_stays_when_the_rest_is_cleaned(style, tmp_path):
    made = tmp_path / "made.safetensors"
    adapterhub.convert(style, made, to="diffusers")
    recipe = fields(made)[RECIPE]
    adapterhub.metadata(made, set={"note": "/home/joe/x"})
    assert adapterhub.metadata(made, clean_private=True).fields["note"] == "x"
    assert fields(made)[RECIPE] == recipe


@pytest.mark.parametrize("name", ["embedding/a1111", "embedding/a1111-image"])
def test_other_containers_are_refused_with_the_way_out(name, request):
    path = next(path for path in (request.config.rootpath / "fixtures" / name).iterdir() if path.is_file())
    with pytest.raises(NotAnAdapter, match="adapterhub convert"):
        adapterhub.metadata(path)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(MalformedFile, match="a folder, and a file is wanted\nGive a file that lies in it"):
        adapterhub.metadata(tmp_path, set={"a": "b"})


def test_a_link_is_followed_and_stays_a_link(tight, tmp_path):
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "l.safetensors"
    link.symlink_to(tight)
    for _ in range(2):  # written anew, then in place
        adapterhub.metadata(link, set={"time": str(time.time_ns())})
        assert link.is_symlink()
        assert fields(link) == fields(tight)


def test_other_hard_links_show_an_edit_in_place_and_keep_what_was_where_it_is_written_anew(roomy, tmp_path):
    other = tmp_path / "other.safetensors"
    other.hardlink_to(roomy)
    found = adapterhub.metadata(roomy, set={"a": "1"})
    assert fields(other)["a"] == "1"
    assert [one.code for one in found.problems] == ["hard-links"]
    adapterhub.metadata(roomy, set={"a": "2" * 5000})
    assert (fields(other)["a"], fields(roomy)["a"][:1]) == ("1", "2")


@pytest.mark.parametrize("linked", [True, False])
def test_a_file_of_a_hugging_face_cache_is_refused(tight, tmp_path, linked):
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0" / "x.safetensors"
    blob = tmp_path / "models--a--b" / "blobs" / "0123" if linked else snapshot
    for path in (snapshot, blob):
        path.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(tight.read_bytes())
    if linked:
        snapshot.symlink_to(blob)
    with pytest.raises(RefusedInput, match="cache"):
        adapterhub.metadata(snapshot, set={"a": "b"})
    assert adapterhub.metadata(snapshot).fields == fields(tight)
    assert blob.read_bytes() == tight.read_bytes()


def test_seven_gigabytes_are_edited_in_a_moment(tmp_path):
    path, size = tmp_path / "big.safetensors", 7 << 30
    head = json.dumps({"t": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode().ljust(4096)
    with path.open("wb") as stream:
        stream.write(len(head).to_bytes(8, "little") + head)
        stream.truncate(8 + len(head) + size)
    adapterhub.metadata(path, set={"a": "0"})  # what is imported on first use
    took = []
    for value in range(5):
        started = time.perf_counter()
        assert adapterhub.metadata(path, set={"a": f"{value}."}).written == "in-place"
        took.append(time.perf_counter() - started)
    assert path.stat().st_blocks * 512 < 1 << 20, "the data was written"
    assert min(took) < 0.05


def test_a_picture_becomes_a_small_upright_thumbnail_and_comes_out_again(tight, tmp_path):
    picture = Image.new("RGB", (800, 400), "red")
    picture.paste("blue", (0, 0, 400, 400))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter
    picture.save(tmp_path / "p.jpg", exif=exif, quality=95)
    found = adapterhub.metadata(tight, thumbnail=tmp_path / "p.jpg")
    assert (found.thumbnail.media_type, found.thumbnail.width, found.thumbnail.height) == ("image/jpeg", 128, 256)
    assert found.changes[0].reason == "thumbnail"
    out = tmp_path / "out.jpg"
    assert adapterhub.metadata(tight, thumbnail_to=out).extracted == str(out)
    with Image.open(out) as image:
        assert (image.size, len(image.getexif())) == ((128, 256), 0)
        assert [image.getpixel((64, y)).index(max(image.getpixel((64, y)))) for y in (20, 236)] == [2, 0]
    with pytest.raises(UsageError, match="exists"):
        adapterhub.metadata(tight, thumbnail_to=out)


@pytest.mark.parametrize(("uri", "kind"), [(None, NotFound), ("data:image/svg+xml;base64,PHN2Zz4=", RefusedInput),
                                           ("data:image/png;base64,AAAA", RefusedInput), ("http://x/y.png", RefusedInput)])  # fmt: skip
def test_what_is_no_picture_does_not_come_out(tight, tmp_path, uri, kind):
    if uri:
        adapterhub.metadata(tight, set={"modelspec.thumbnail": uri})
    with pytest.raises(kind):
        adapterhub.metadata(tight, thumbnail_to=tmp_path / "out.png")
    assert [one.name for one in tmp_path.iterdir()] == [tight.name]


def test_the_command_line_sets_from_texts_and_files_and_says_what_it_cleaned(cli, tight, tmp_path):
    (tmp_path / "text.md").write_text("two\nlines", "utf-8")
    done = cli(
        "metadata",
        tight,
        "--set",
        f"d=@{tmp_path / 'text.md'}",
        "--set",
        "at=@@x=y",
        "--set",
        "p=/home/joe/a",
        "--json",
    )
    assert done.status == 0
    assert {"d": "two\nlines", "at": "@x=y", "p": "/home/joe/a"}.items() <= json.loads(done.out)["fields"].items()
    done = cli("metadata", tight, "--clean-private")
    assert "p: local-path × 1, now a" in done.out
    assert "joe" not in done.out
    assert "two\\nlines" in cli("metadata", tight).out
    assert cli("metadata", tight, "--set", "x").status == 2
    assert cli("metadata", tight, "--hash").status == 2
    assert cli("metadata", tight, "--lint").status == 1
