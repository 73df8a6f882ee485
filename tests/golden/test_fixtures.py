"""The golden files are what their script makes, and `inspect` says of each what the script knows."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import adapterhub

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "fixtures"
MANIFEST = json.loads((FIXTURES / "manifest.json").read_text("utf-8"))
SAID = ("kind", "layout", "architecture", "algorithms", "components", "ranks", "alphas")


def test_the_script_makes_the_same_bytes_again():
    command = [sys.executable, "-m", "fixtures.make", "--check"]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (made.returncode, made.stdout, made.stderr) == (0, "", "")


@pytest.mark.parametrize("name", MANIFEST)
def test_inspect_says_what_the_script_knows_and_finds_nothing_odd(name):
    told = MANIFEST[name]
    for file, digest in told["sha256"].items():
        assert hashlib.sha256((FIXTURES / file).read_bytes()).hexdigest() == digest, file
    found = adapterhub.inspect(FIXTURES / name)
    assert {field: getattr(found, field) for field in SAID} == {field: told[field] for field in SAID}
    assert found.problems == []


def test_every_layout_algorithm_and_architecture_has_a_golden_file():
    rows = MANIFEST.values()
    layouts = {(row["layout"], row["architecture"]) for row in rows}
    algorithms = {(algorithm, row["architecture"]) for row in rows for algorithm in row["algorithms"]}
    architectures = {"sd1", "sd2", "sdxl", "sdxl-refiner"}
    four = {"kohya", "comfyui", "omi", "diffusers", "diffusers-lora-linear", "diffusers-attn-procs", "peft"}
    assert layouts == {(layout, architecture) for layout in four for architecture in architectures} | {
        ("kohya-diffusers-names", "sdxl"), ("kohya-diffusers-names", "sdxl-refiner"),
        ("cloneofsimo", "sd1"), ("cloneofsimo", "sd2"),
    }  # fmt: skip
    names = "lora locon loha lokr ia3 oft boft glora full norm lora+dora locon+dora".split()
    assert algorithms == {(name, architecture) for name in names for architecture in architectures}


def test_the_fixtures_stay_small():
    files = [path for path in FIXTURES.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert sum(path.stat().st_size for path in files) < 1e7
    assert (FIXTURES / "demo.safetensors").stat().st_size < 300_000
