"""What starting costs: heavy libraries are imported only by what needs them."""

import json
import os
import subprocess
import sys

import pytest

from adapterhub.cli import COMMANDS

HEAVY = {
    "accelerate",
    "diffusers",
    "huggingface_hub",
    "matplotlib",
    "numpy",
    "peft",
    "pydantic",
    "rich",
    "torch",
    "transformers",
}
PROGRAM = """
import json, sys
from adapterhub.cli import run
status = run(sys.argv[1:])
print(json.dumps([status, sorted({name.partition(".")[0] for name in sys.modules})]), file=sys.stderr)
"""


def imports(*arguments: str) -> set[str]:
    """The top-level modules that a successful command line imported."""
    command = [sys.executable, "-c", PROGRAM, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"COLUMNS": "100"})
    status, modules = json.loads(done.stderr.splitlines()[-1])
    assert status == 0, done.stderr
    return set(modules)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)])
def test_help_and_version_import_nothing_heavy(arguments):
    assert not imports(*arguments) & HEAVY


def test_importing_the_api_imports_nothing_heavy():
    program = "import sys, adapterhub; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & (HEAVY | {"click"})


def test_inspect_imports_neither_torch_nor_numpy(style):
    assert not imports("inspect", str(style)) & (HEAVY - {"pydantic"})


def test_compatible_imports_neither_torch_nor_numpy(style):
    assert not imports("compatible", str(style)) & (HEAVY - {"pydantic"})


def test_a_renaming_convert_imports_no_torch(style, tmp_path):
    assert "torch" not in imports("convert", str(style), "--to", "diffusers", "-o", str(tmp_path / "out.safetensors"))
