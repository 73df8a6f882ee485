"""Two processes do what one does. Accelerate's own launcher starts one without a word on a CPU, so that every test counts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from adapterhub import train
from tests.train.test_loop import difference, losses
from tests.train.trainings import BUSY, PRIOR, TECHNIQUES, flags, settings

BaseOf = Callable[[str], Path]
ROOT = Path(__file__).parents[2]
ENVIRONMENT = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
RATE = {"learning_rate": 1e-4}


def two(words: Sequence[str]) -> list[dict[str, Any]]:
    """What two processes print, a document each run."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *words]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | ENVIRONMENT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    decoder, text, found = json.JSONDecoder(), done.stdout.strip(), []
    while text:
        document, end = decoder.raw_decode(text)
        found.append(document)
        text = text[end:].strip()
    return found


def test_the_command_with_everything_on_agrees_with_one_process(
    base_of: BaseOf, pictures: Path, tmp_path: Path
) -> None:
    own = {
        **BUSY,
        **PRIOR,
        **RATE,
        "batch": 3,
        "gradient_checkpointing": True,
        "text_targets": "attention",
        "sample_count": 1,
    }
    words = flags("lora", base_of("sd1"), pictures, tmp_path / "two" / "fox", **own)
    (document,) = two(["-m", "adapterhub", *words, "--json"])
    assert (document["processes"], document["steps"]) == (2, 4)
    train.run(
        settings("lora", base_of("sd1"), pictures, tmp_path / "one" / "fox", **own | {"text_targets": ("attention",)})
    )
    assert losses(tmp_path / "two" / "fox") == pytest.approx(losses(tmp_path / "one" / "fox"), abs=1e-5)
    assert difference(*(tmp_path / name / "fox" / "fox.safetensors" for name in ("one", "two"))) < 1e-3
    assert (tmp_path / "two" / "fox" / "samples" / "step-000004.png").is_file()


CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    **{name: (name, "sd1", {}) for name in TECHNIQUES},
    "sdxl's text encoders": ("lora", "sdxl", {"text_targets": ["attention"], "micro_batch": 1, "batch": 3}),
    "in halves": ("lora", "sd2", {"precision": "bf16", "micro_batch": 2}),
}  # fmt: skip
DRIVER = """
import json, os, sys
from pathlib import Path
from adapterhub import train
from tests.train.trainings import settings
for name, (technique, base, images, output, changes) in json.loads(Path(sys.argv[1]).read_text()).items():
    done = train.run(settings(technique, base, images, output, **changes))
    if os.environ["RANK"] == "0":
        print(json.dumps({"name": name, "processes": done.processes}), flush=True)
"""


def test_every_trainer_agrees_with_one_process(base_of: BaseOf, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "driver.py").write_text(DRIVER)
    told = {name: (technique, str(base_of(architecture)), str(pictures), str(tmp_path / name / "two" / "fox"), {**RATE, **BUSY, **changes})
            for name, (technique, architecture, changes) in CASES.items()}  # fmt: skip
    (tmp_path / "cases.json").write_text(json.dumps(told))
    found = two([str(tmp_path / "driver.py"), str(tmp_path / "cases.json")])
    assert found == [{"name": name, "processes": 2} for name in CASES]
    for name, (technique, base, images, _, changes) in told.items():
        one = tmp_path / name / "one" / "fox"
        train.run(settings(technique, Path(base), Path(images), one, **changes))
        near = 2e-3 if changes.get("precision") else 1e-5
        assert losses(tmp_path / name / "two" / "fox") == pytest.approx(losses(one), abs=near), name
        for path in sorted(one.rglob("*.safetensors")):
            other = tmp_path / name / "two" / "fox" / path.relative_to(one)
            assert difference(path, other) < 1e-3, (name, path.name)
