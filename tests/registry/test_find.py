"""list, search and show: filters, words that are data, references of every kind, forms of output."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

import adapterhub
from adapterhub.documents import Record
from adapterhub.errors import NotFound, UsageError
from adapterhub.registry.find import SORTS, Filter, listed
from tests.operations.merge_files import base
from tests.registry.libraries import adapter, embedding, said

TAGS = json.dumps({"10_cats": {"red cat": 9, "blue sky": 2}})


@pytest.fixture(scope="module")
def db(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("library")
    cats = adapter(root / "cats.safetensors", 1, ss_tag_frequency=TAGS, ss_output_name="kitty")
    said(cats, activation_text="catstyle, fluffy", description="Cats of <all> kinds", notes="mine since long")
    adapter(root / "sub" / "dogs.safetensors", 2, rank=16, dtype="f4")
    embedding(root / "ocean_wave.safetensors")
    (root / "broken.safetensors").write_bytes(b"<html>")
    os.utime(cats, ns=(10**18, 10**18))
    path = root / "r.db"
    adapterhub.index(root, db=path)
    adapterhub.tag("dogs", "good boys", db=path)
    return path


def names(found) -> list[str]:
    return [one.name for one in found]


@pytest.mark.parametrize(("wanted", "found"), [
    (Filter(), ["broken", "cats", "dogs", "ocean_wave"]),
    (Filter(kind="lora"), ["cats", "dogs"]),
    (Filter(kind="embedding", architecture="sd1"), ["ocean_wave"]),
    (Filter(architecture="sdxl"), []),
    (Filter(layout="kohya", rank=16), ["dogs"]),
    (Filter(algorithm="lora"), ["cats", "dogs"]),
    (Filter(token="FLUFFY"), ["cats"]),
    (Filter(token="ocean_wave"), ["ocean_wave"]),
    (Filter(tag="Good Boys"), ["dogs"]),
    (Filter(dtype="F32", kind="lora"), ["dogs"]),
    (Filter(component="unet"), ["cats", "dogs"]),
    (Filter(problem="any"), ["broken"]),
    (Filter(problem="html"), ["broken"]),
    (Filter(container="safetensors", min_size=100_000), ["dogs"]),
    (Filter(max_size=100), ["broken"]),
    (Filter(until="2002"), ["cats"]),
    (Filter(since="2002", kind="lora"), ["dogs"]),
    (Filter(missing=True), []),
    (Filter(missing=None), ["broken", "cats", "dogs", "ocean_wave"]),
])  # fmt: skip
def test_a_filter_takes_what_it_says(db, wanted, found):
    if wanted.problem == "html":
        (rule,) = {one.refused for one in adapterhub.list(db=db) if one.refused}
        wanted = Filter(problem=rule)
    assert sorted(names(adapterhub.list(wanted, db=db))) == found


def test_under_a_folder_is_all_that_lies_in_it_and_nothing_beside_it(db):
    assert names(adapterhub.list(Filter(under=db.parent / "sub"), db=db)) == ["dogs"]
    assert names(adapterhub.list(Filter(under=db.parent / "su"), db=db)) == []


@pytest.mark.parametrize("sort", SORTS)
def test_every_order_has_all_and_is_told(db, sort):
    found = adapterhub.list(db=db, sort=sort)
    keys = {"added": lambda one: -one.id, "name": lambda one: one.name.lower(), "size": lambda one: -one.size,
            "modified": lambda one: [-ord(c) for c in one.modified], "rank": lambda one: -(one.rank or 0),
            "path": lambda one: one.path}  # fmt: skip
    assert found == sorted(found, key=keys[sort])
    assert len(found) == 4
    with pytest.raises(UsageError, match="unknown order"):
        adapterhub.list(db=db, sort="colour")


@pytest.mark.parametrize(("words", "found"), [
    ("cats", ["cats"]),
    ("CAT", ["cats"]),
    ("fluff", ["cats"]),
    ("long", ["cats"]),
    ("kinds", ["cats"]),
    ("blue", ["cats"]),
    ("kitty", ["cats"]),
    ("good", ["dogs"]),
    ("ocean wave", ["ocean_wave"]),
    ("wave ocean", ["ocean_wave"]),
    ("ocean desert", []),
])  # fmt: skip
def test_words_are_found_wherever_they_are_said(db, words, found):
    assert names(adapterhub.search(words, db=db)) == found


def test_the_name_counts_most(tmp_path):
    other = adapter(tmp_path / "other.safetensors", 1)
    said(other, description="much about a castle, and the castle")
    adapter(tmp_path / "castle.safetensors", 2)
    adapter(tmp_path / "zebra castle of many other words here.safetensors", 3)
    db = tmp_path / "r.db"
    adapterhub.index(tmp_path, db=db)
    assert names(adapterhub.search("castle", db=db)) == [
        "castle", "zebra castle of many other words here", "other"]  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(words=st.text(min_size=1, max_size=30))
@pytest.mark.parametrize("hostile", ['"', "AND", "a OR NOT b", "name:x", "x*", "(", "NEAR(a b)", "'; DROP TABLE records; --", "-", "^a", "\0"])  # fmt: skip
def test_what_is_typed_is_data(db, hostile, words):
    for text in (hostile, words, f"{hostile} {words}"):
        if text.replace("\0", " ").split():
            adapterhub.search(text, db=db)
    assert len(adapterhub.list(db=db)) == 4


def test_an_expression_is_one_when_that_is_asked_for(db):
    assert sorted(names(adapterhub.search("cats OR dogs", db=db, fts=True))) == ["cats", "dogs"]
    assert names(adapterhub.search("name: ocean", db=db, fts=True)) == ["ocean_wave"]
    with pytest.raises(UsageError, match="no FTS5 expression"):
        adapterhub.search('"cats', db=db, fts=True)
    with pytest.raises(UsageError, match="nothing to search for"):
        adapterhub.search("  ", db=db)


def test_a_search_takes_filters_and_a_limit(db):
    assert names(adapterhub.search("cats", Filter(rank=16), db=db)) == []
    assert len(adapterhub.list(db=db, limit=2)) == 2


@pytest.mark.parametrize("ref", ["cats", "CATS", "cats.safetensors", "kitty", "path", "#", "folder", "sha256", "autov2", "autov3", "blake3", "crc32",
                                 "sshs_model_hash", "fingerprint", "0xautov3"])  # fmt: skip
def test_a_reference_may_be_any_of_these(db, ref):
    told = adapterhub.show("cats", db=db)
    (file,) = (one for one in told.files if one.role == "content")
    known = {"path": told.path, "#": f"#{told.id}", "fingerprint": told.fingerprint[:8], **file.hashes}
    known |= {"0xautov3": "0x" + file.hashes["autov3"].upper(), "sha256": file.hashes["sha256"][:7]}
    if ref == "folder":
        assert adapterhub.show(str(db.parent / "sub"), db=db).name == "dogs"
        return
    assert adapterhub.show(known.get(ref, ref), db=db).id == told.id


def test_nothing_and_several_are_told_apart(db):
    with pytest.raises(NotFound, match="nothing in the registry is called"):
        adapterhub.show("elephants", db=db)
    with pytest.raises(UsageError, match="may be any of #"):
        adapterhub.show(str(db.parent), db=db)


def test_rows_hold_what_the_document_says(db):
    for text in listed(Filter(), db=db):
        Record.model_validate_json(text)
        assert text.isascii()


def test_a_model_is_told_what_it_takes(db, tmp_path):
    model = base(tmp_path / "model.safetensors")
    found = adapterhub.list(Filter(fits=str(model)), db=db)
    assert sorted(names(found)) == ["cats", "dogs", "ocean_wave"]
    assert found[0].readers is not None
    assert {one.name: one.readers["a1111"] for one in found}["cats"] == "loads"


def test_what_fits_the_model_as_well_as_another_is_told_too(tmp_path):
    folder, db = tmp_path / "adapters", tmp_path / "own.db"
    folder.mkdir()
    name = "lora_unet_mid_block_attentions_0_transformer_blocks_0_{}"
    for path, module, width in (
        ("either", "attn1_to_q", 1280),
        ("one", "attn2_to_k", 768),
        ("two", "attn2_to_k", 1024),
    ):
        pair = {"lora_down.weight": np.ones((2, width), "f4"), "lora_up.weight": np.ones((1280, 2), "f4")}
        save_file(
            {f"{name.format(module)}.{part}": value for part, value in pair.items()}, folder / f"{path}.safetensors"
        )
    adapterhub.index(folder, db=db)
    adapterhub.export(tmp_path / "all.jsonl", db=db)
    adapterhub.import_(tmp_path / "all.jsonl", db=tmp_path / "copy.db")
    for architecture, told in (("sd1", ["either", "one"]), ("sd2", ["either", "two"]), ("sdxl", ["either"])):
        model = base(tmp_path / f"{architecture}.safetensors", architecture=architecture)
        fitting = [path.stem for path in sorted(folder.iterdir())
                   if (fit := adapterhub.compatible(path, model).model) and fit.same_architecture]  # fmt: skip
        assert fitting == told
        for one in (db, tmp_path / "copy.db"):
            assert sorted(names(adapterhub.list(Filter(fits=str(model)), db=one))) == told
    assert sorted(names(adapterhub.list(Filter(architecture="sd2"), db=db))) == ["two"]


class TestForms:
    def test_json_is_one_array_of_records(self, cli, db):
        out = cli("list", "--db", db, "--json")
        assert (out.status, [one["name"] for one in json.loads(out.out)]) == (0, names(adapterhub.list(db=db)))

    def test_lines_are_a_record_each(self, cli, db):
        out = cli("search", "cats", "--db", db, "--nl")
        (line,) = out.out.splitlines()
        assert json.loads(line)["words"] == ["catstyle", "fluffy"]

    def test_csv_is_read_by_csv(self, cli, db):
        out = cli("list", "--db", db, "--csv", "--sort", "name")
        rows = list(csv.DictReader(io.StringIO(out.out)))
        assert [row["name"] for row in rows] == ["broken", "cats", "dogs", "ocean_wave"]
        assert rows[1]["words"] == "catstyle, fluffy"

    @pytest.mark.parametrize("forms", [("--json", "--csv"), ("--nl", "--json"), ("--csv", "--nl")])
    def test_two_forms_are_wrong_usage(self, cli, db, forms):
        for words in (("list",), ("search", "cats")):
            out = cli(*words, "--db", db, *forms)
            assert (out.status, out.out) == (2, "")

    def test_nothing_found_is_status_1(self, cli, db):
        assert [
            cli("search", "elephants", "--db", db, *form).status for form in ((), ("--json",), ("--nl",), ("--csv",))
        ] == [1] * 4
        assert cli("search", "elephants", "--db", db, "--json").out == "[]\n"
        empty = cli("list", "--kind", "checkpoint", "--db", db, "--json")
        assert (empty.status, empty.out) == (0, "[]\n")

    def test_people_see_a_line_each_and_are_told_of_more(self, cli, db, monkeypatch):
        monkeypatch.setattr("adapterhub.cli.rows.SHOWN", 2)
        out = cli("list", "--db", db)
        assert (len(out.out.splitlines()), "more" in out.err) == (3, True)
        assert len(cli("list", "--db", db, "--limit", 0).out.splitlines()) == 5
        assert len(cli("list", "--db", db, "--limit", 1).out.splitlines()) == 2

    def test_show_tells_who_said_what(self, cli, db):
        out = cli("show", "cats", "--db", db)
        assert "notes (a1111)        mine since long" in out.out or "mine since long" in out.out
        assert json.loads(cli("show", "cats", "--db", db, "--json").out)["facts"]["alias"] == [
            {"value": "kitty", "origin": "kohya"}
        ]

    @pytest.mark.parametrize(
        "given", [("--since", "never"), ("--kind", "poster"), ("--min-size", "much"), ("--rank", "-1")]
    )
    def test_what_no_filter_takes_is_wrong_usage(self, cli, db, given):
        assert cli("list", "--db", db, *given).status == 2

    @pytest.mark.parametrize(("option", "known"), [("--architecture", "sdxl"), ("--layout", "kohya")])
    def test_an_unknown_name_is_wrong_usage_with_the_known_ones(self, cli, db, option, known):
        for words in (("list",), ("search", "cats"), ("export",)):
            out = cli(*words, "--db", db, option, "nope")
            assert (out.status, out.out) == (2, "")
            assert f"unknown {option[2:]} 'nope'" in out.err
            assert known in out.err
        assert cli("list", "--db", db, option, known).status == 0

    def test_no_registry_is_wrong_usage_and_none_is_made(self, cli, tmp_path):
        out = cli("list", "--db", tmp_path / "none.db")
        assert (out.status, (tmp_path / "none.db").exists()) == (2, False)
        assert "adapterhub index FOLDER makes one" in out.err
