"""What the commands of the arithmetic say to people who err, and which file each thing that they say is about."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.operations.made_loras import LINEAR, SHAPES, saved
from tests.operations.made_loras import lora as wide
from tests.operations.merge_files import base, changed, lora, place

FIXTURES = Path(__file__).parents[2] / "fixtures"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    base(Path("base.safetensors"))
    lora(Path("a.safetensors"))
    return tmp_path


@pytest.mark.parametrize("command", ["merge", "unmerge"])
def test_what_is_odd_about_one_of_several_files_names_it(cli, folder: Path, command: str) -> None:
    outcome = cli(command, "base.safetensors", "a.safetensors", "-o", "out.safetensors", "--json")
    told = [one["where"] for one in json.loads(outcome.out)["problems"] if one["code"] == "other-widths"]
    assert told == ["base.safetensors", "a.safetensors"]


def test_a_file_whose_name_is_no_text_is_named_too(cli, folder: Path) -> None:
    odd = Path("odd\udcff.safetensors")
    Path("a.safetensors").rename(odd)
    outcome = cli("combine", odd, "-o", "out.safetensors", "--json")
    assert [one["where"] for one in json.loads(outcome.out)["problems"]] == [r"odd\udcff.safetensors"]
    odd.rename("a.safetensors")
    embedding = Path("odd\udcff.pt")
    embedding.write_bytes((FIXTURES / "embedding/a1111/sd1.pt").read_bytes())
    outcome = cli("embedding", "merge", embedding, embedding, "-o", "merged.pt", "--json")
    assert json.loads(outcome.out)["entries"][0]["reason"] == r"odd\udcff.pt + odd\udcff.pt"


@pytest.mark.parametrize(
    ("given", "status", "told"),
    [
        (("merge", "base.safetensors", "a.safetensors:0.7:0.2:0.1"), 2,
         "a.safetensors: two strengths at most, for the UNet and for the text encoders"),
        (("merge", "base.safetensors", "a.safetensors", "--blocks", "1,1,x"), 2, "'x' is no number"),
        (("merge", "base.safetensors", "a.safetensors", "--blocks", "1,1,0.5.5"), 2, "'0.5.5' is no number"),
        (("unmerge", "base.safetensors", "m.undo"), 3, "m.undo: an undo file of a merge, which unmerge --undo takes"),
        (("merge", "base.safetensors", "m.undo"), 3, "m.undo: an undo file of a merge, which unmerge --undo takes"),
        (("scale", "wide.safetensors", "1e6", "--into", "weights"), 3, "--into alpha"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_for_what_it_is(cli, folder: Path, given: tuple[str, ...], status: int, told: str) -> None:
    saved(Path("wide.safetensors"), {LINEAR: wide(SHAPES[LINEAR], dtype="f2")})
    assert cli("merge", "base.safetensors", "a.safetensors", "-o", "m.safetensors", "--undo", "m.undo").status == 0
    outcome = cli(*given, "-o", "out.safetensors")
    assert (outcome.status, told in outcome.err) == (status, True), outcome.err
    assert not Path("out.safetensors").exists()


def test_what_cannot_be_merged_is_said_once(cli, folder: Path) -> None:
    lora(Path("b.safetensors"), modules={"unet": ("down_blocks.0.attentions.0.proj_in",)})
    changed(Path("base.safetensors"), lambda tensors: tensors.pop(place("unet", "down_blocks.0.attentions.0.proj_in")))
    outcome = cli("merge", "base.safetensors", "b.safetensors", "-o", "out.safetensors")
    assert outcome.status == 4
    assert outcome.err.count("b.safetensors: unet.down_blocks.0.attentions.0.proj_in") == 1


def test_a_picture_is_not_written_for_a_folder(cli, folder: Path) -> None:
    outcome = cli("plot", "a.safetensors", "-o", "heat/")
    assert (outcome.status, "a PNG" in outcome.err) == (2, True), outcome.err
    assert not Path("heat").exists()
