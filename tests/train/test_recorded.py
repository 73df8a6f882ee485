"""What is known of a result afterwards: what it was made of, by whom it is read, and no path of anybody's machine."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import adapterhub
from adapterhub import train
from adapterhub.documents import Training
from adapterhub.errors import RefusedInput, UsageError
from tests.hub.loopback import hub
from tests.hub.loopback.store import front_matter
from tests.train.trainings import PRIOR, TECHNIQUES, flags, settings

__all__ = ["hub"]
BaseOf = Callable[[str], Path]
Cli = Callable[..., Any]


def test_a_rehearsal_says_what_would_be_done_and_writes_nothing(
    base_of: BaseOf, pictures: Path, tmp_path: Path, cli: Cli
) -> None:
    words = flags("lora", base_of("sd1"), pictures, tmp_path / "fox", **PRIOR, resolution=64)
    done = cli(*words, "--dry-run", "--json", "--db", tmp_path / "r.db")
    plan = json.loads(done.out)
    told = {
        name: plan[name]
        for name in (
            "technique",
            "architecture",
            "steps",
            "batch",
            "resolution",
            "images",
            "captions",
            "class_images",
            "to_draw",
            "processes",
        )
    }
    assert told == {"technique": "lora", "architecture": "sd1", "steps": 4, "batch": 4, "resolution": 64, "images": 4,
                    "captions": 2, "class_images": 2, "to_draw": 2, "processes": 1}  # fmt: skip
    assert plan["size"] == 4 * plan["trained"] > 0
    assert [problem["code"] for problem in plan["problems"]] == ["small-picture"]
    assert [*tmp_path.iterdir()] == []
    assert "would train  lora" in cli(*words, "--dry-run").out
    wrong = cli(*words, "--rank", 4000, "--dry-run")
    assert (wrong.status, "above the width" in wrong.err) == (2, True)


def test_json_is_one_document_and_nothing_else_is_said(
    base_of: BaseOf, pictures: Path, tmp_path: Path, cli: Cli
) -> None:
    done = cli(*flags("lora", base_of("sd1"), pictures, tmp_path / "fox"), "--json")
    document = Training.model_validate_json(done.out)
    assert (done.status, document.technique, document.steps, document.processes) == (0, "lora", 4, 1)
    assert [Path(file.path).name for file in document.files] == ["fox.safetensors", "fox-diffusers.safetensors"]
    assert re.fullmatch(r"(step \d/4, loss .*\n)+", done.err)


def test_the_table_at_the_end_names_files_loss_and_samples(
    base_of: BaseOf, pictures: Path, tmp_path: Path, cli: Cli
) -> None:
    done = cli(*flags("lora", base_of("sd1"), pictures, tmp_path / "fox", sample_count=1, sample_steps=1, steps=1))
    assert re.search(r"^trained  lora, [\d,]+ numbers, 1 steps on 4 pictures$", done.out, re.MULTILINE)
    assert re.search(r"^file     .*fox\.safetensors \(kohya, [\d.]+ kB\)$", done.out, re.MULTILINE)
    assert re.search(r"^samples  .*samples/step-000001\.png$", done.out, re.MULTILINE)
    assert adapterhub.inspect(tmp_path / "fox" / "fox.safetensors").kind == "lora"


@pytest.fixture(scope="module")
def recorded(base_of: BaseOf, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a training of each technique that the registry beside it knows of."""
    made: dict[str, Path] = {}

    def make(technique: str) -> Path:
        if technique not in made:
            folder = tmp_path_factory.mktemp(technique) / "fox"
            done = train.run(
                settings(technique, base_of("sd1"), pictures, folder, steps=2, sample_count=1, sample_steps=1)
            )
            adapterhub.record_training(done, db=folder.parent / "r.db")
            made[technique] = folder
        return made[technique]

    return make


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_a_result_is_in_the_registry_with_its_base(
    technique: str, recorded: Callable[[str], Path], base_of: BaseOf, cli: Cli
) -> None:
    folder = recorded(technique)
    db = folder.parent / "r.db"
    first = next(
        Path(path) for path in (folder / "fox.safetensors", folder / "fox.pt", folder / "fox") if Path(path).exists()
    )
    found = adapterhub.lineage(str(first), db=db)
    command = f"train {technique.replace('_', '-')}"
    steps = [step for step in found.steps if step.child == found.of]
    assert [(step.command, step.by) for step in steps] == [(command, "sha256")]
    (parent,) = (node for node in found.nodes if node.key == steps[0].parent)
    assert parent.path == str(base_of("sd1"))
    assert f"[{command}]" in cli("lineage", first, "--db", db).out
    again = cli("replay", first, "--db", db)
    assert (again.status, f"was made by {command}" in again.err, "--config" in again.err) == (3, True, True)


def test_show_and_inspect_say_what_trained_it(recorded: Callable[[str], Path], cli: Cli) -> None:
    folder = recorded("lora")
    for shown in (
        cli("inspect", folder / "fox.safetensors"),
        cli("show", folder / "fox.safetensors", "--db", folder.parent / "r.db"),
    ):
        assert re.search(r"^trained +lora, 2 steps on 4 pictures$", shown.out, re.MULTILINE), shown


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_no_file_tells_a_path_but_the_configuration(
    technique: str, recorded: Callable[[str], Path], base_of: BaseOf, pictures: Path
) -> None:
    folder = recorded(technique)
    secrets = [str(path).encode() for path in (folder.parent, base_of("sd1").parent, pictures, "/tmp/")]
    copied = {path.read_bytes() for path in base_of("sd1").rglob("*.json")}  # of a whole model, as the base has them
    for path in folder.rglob("*"):
        if path.is_file() and path.name != "config.toml" and path.read_bytes() not in copied:
            assert not [secret for secret in secrets if secret in path.read_bytes()], path
    assert secrets[0] in (folder / "config.toml").read_bytes()


def test_a_folder_of_pickles_trains_the_same_as_one_of_safetensors(
    base_of: BaseOf, pictures: Path, tmp_path: Path
) -> None:
    pickled = tmp_path / "pickled"
    shutil.copytree(base_of("sd1"), pickled)
    for path in [*pickled.rglob("*.safetensors")]:
        torch.save(load_file(path), path.with_name("pytorch_model.bin" if path.stem == "model" else f"{path.stem}.bin"))
        path.unlink()
    for name, base in (("one", base_of("sd1")), ("other", pickled)):
        train.run(settings("lora", base, pictures, tmp_path / name / "fox", steps=2))
    one, other = (load_file(tmp_path / name / "fox" / "fox.safetensors") for name in ("one", "other"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_single_file_of_other_widths_than_its_familys_is_refused(
    base_of: BaseOf, pictures: Path, tmp_path: Path
) -> None:
    single = tmp_path / "model.safetensors"
    adapterhub.convert(base_of("sd1"), single, to="single-file")
    with pytest.raises(RefusedInput, match=r"model\.safetensors: the model cannot be loaded") as raised:
        train.run(settings("lora", single, pictures, tmp_path / "fox"))
    assert "give the folder of diffusers" in str(raised.value.mend)
    assert "adapterhub-base" not in raised.value.message


def test_a_run_is_pushed_with_its_samples_and_how_it_was_trained(recorded: Callable[[str], Path], hub: Any) -> None:
    folder = recorded("lora")
    done = adapterhub.push(folder, "alice/fox")
    assert (done.verified, done.kind) == (True, "lora")
    there = hub.files("alice/fox")
    assert {"pytorch_lora_weights.safetensors", "image_0.png", "README.md"} == there.keys()
    with Image.open(folder / "samples" / "step-000002.png") as grid:
        assert grid.text["parameters"] == "a photo of sks cat"
    card = there["README.md"].decode()
    assert front_matter(card)["widget"] == [{"text": "a photo of sks cat", "output": {"url": "image_0.png"}}]
    for line in ("- Technique: `lora`", "- Prompt: `a photo of sks cat`", "- Batch size: `4`", "- Pictures: `4`", "- Rank: `2`",
                 "- Steps: `2`", "Made by `adapterhub train lora` of", "Use `a photo of sks cat` in the prompt."):  # fmt: skip
        assert line in card, line
    assert not [text for text in ("/tmp", str(folder)) if text in card]


@pytest.mark.parametrize("technique", [name for name in TECHNIQUES if name != "lora"])
def test_the_result_of_every_training_is_ready_to_be_pushed(
    technique: str, recorded: Callable[[str], Path], hub: Any
) -> None:
    done = adapterhub.push(recorded(technique), f"alice/{technique}")
    assert (done.verified, [problem for problem in done.problems if problem.severity == "error"]) == (True, [])
    assert f"- Technique: `{technique.replace('_', '-')}`" in done.card
    assert "image_0.png" in hub.files(f"alice/{technique}")


def test_a_training_that_is_not_done_is_not_pushed(tmp_path: Path) -> None:
    for name in ("config.toml", "log.jsonl"):
        (tmp_path / name).write_text("")
    with pytest.raises(UsageError, match="no result of its training yet"):
        adapterhub.push(tmp_path, "alice/fox")


def test_a_base_of_the_hub_is_fetched_and_called_by_its_id(
    base_of: BaseOf, pictures: Path, tmp_path: Path, hub: Any
) -> None:
    base = base_of("sd1")
    hub.add(
        "alice/tiny", {str(path.relative_to(base)): path.read_bytes() for path in base.rglob("*") if path.is_file()}
    )
    done = train.run(settings("lora", Path("alice/tiny"), pictures, tmp_path / "fox", steps=1))
    assert done.recipe.inputs[0].name == "alice/tiny"
    assert adapterhub.inspect(tmp_path / "fox" / "fox.safetensors").metadata["ss_sd_model_name"] == "alice/tiny"
    pushed = adapterhub.push(tmp_path / "fox", "alice/fox")
    assert front_matter(pushed.card)["base_model"] == "alice/tiny"


def test_samples_are_drawn_in_halves_too(base_of: BaseOf, pictures: Path, tmp_path: Path) -> None:
    done = train.run(
        settings(
            "lora",
            base_of("sdxl"),
            pictures,
            tmp_path / "fox",
            steps=1,
            precision="bf16",
            sample_count=1,
            sample_steps=1,
        )
    )
    with Image.open(done.samples[0]) as grid:
        assert len({grid.getpixel((x, 30)) for x in range(4, 36)}) > 4


def test_rare_words_are_listed_for_people_and_for_programs(base_of: BaseOf, cli: Cli) -> None:
    shown = cli("train", "dreambooth", "--find-identifier", "--base", base_of("sd1"))
    told = cli("train", "dreambooth", "--find-identifier", "--set", f'base="{base_of("sd1")}"', "--json")
    words = [one["text"] for one in json.loads(told.out)["identifiers"]]
    assert (shown.status, told.status) == (0, 0)
    assert [line.split()[0] for line in shown.out.splitlines()] == ["word", *words]
    assert cli("train", "dreambooth", "--find-identifier").status == 2
