"""What the house holds itself to: sizes, names, one place for each fact."""

import ast
import re
import tomllib
from itertools import chain
from pathlib import Path

import pytest

from adapterhub import errors
from adapterhub.cli import COMMANDS

ROOT = Path(__file__).parents[2]
PYTHON = sorted(path for top in ("adapterhub", "tests", "fixtures") for path in (ROOT / top).rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PINS = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE))
MEANINGLESS = {"utils", "util", "helpers", "helper", "manager", "common", "misc"}


def canonical(name: str) -> str:
    """A project's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", PYTHON, ids=relative)
def test_no_file_is_above_300_lines_and_no_function_above_50(path):
    text = path.read_text("utf-8")
    functions = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert text.count("\n") <= 300
    assert [f.name for f in functions if f.end_lineno - f.lineno + 1 > 50] == []


def test_no_module_has_a_name_that_says_nothing():
    assert [relative(path) for path in PYTHON if path.stem in MEANINGLESS] == []


def test_every_command_has_a_file_and_every_file_with_a_command_is_listed():
    files = {path.stem for path in (ROOT / "adapterhub/cli").glob("*.py") if "def command(" in path.read_text("utf-8")}
    assert files == COMMANDS.keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_documented(name):
    assert f"| `adapterhub {name}` | {COMMANDS[name]} |" in (ROOT / "README.md").read_text("utf-8")


def test_the_tree_of_errors_is_drawn_as_it_is():
    drawn = dict(re.findall(r"(\w+) +(\d)  ", errors.__doc__))
    classes = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    assert {name: int(status) for name, status in drawn.items()} == {c.__name__: c.exit_status for c in classes}


def test_every_dependency_is_pinned():
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = [*PROJECT["project"]["dependencies"], *PROJECT["build-system"]["requires"], *chain(*extras.values())]
    names = {canonical(re.match(r"[\w.-]+", requirement)[0]) for requirement in wanted} - {"adapterhub"}
    assert names - {canonical(name) for name in PINS} == set()


def test_torch_is_pinned_without_a_build():
    assert PINS["torch"] == "2.13.0"
