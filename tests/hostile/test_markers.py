"""A file whose payload would make a folder never makes it, through any command."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from adapterhub.cli import COMMANDS, adapterhub
from tests.hostile.payloads import CONTAINERS, HIDDEN, PICKLES

EVIL, STYLE, WORD, OUT, PICTURE, TOKENS, SHOTS = "EVIL", "STYLE", "WORD", "OUT", "PICTURE", "TOKENS", "SHOTS"
CALLS: dict[str, tuple[tuple[str, ...], ...]] = {
    "inspect": ((EVIL,), (EVIL, "--hash", "--tensors"), (EVIL, "--json"), (STYLE, EVIL),
                (EVIL, "--spectrum"), (STYLE, "--spectrum", "--base", EVIL)),
    "validate": ((EVIL,), (EVIL, "--strict", "--json"), (STYLE, "--base", EVIL)),
    "convert": (
        (EVIL, "--to", "kohya", "-o", OUT), (EVIL, "--to", "diffusers", "-o", OUT, "--no-check", "--dtype", "fp16"),
        (EVIL, "--to", "a1111-image", "--image", PICTURE, "-o", OUT), (EVIL, "--to", "a1111", "-o", OUT, "--dry-run"),
        (EVIL, "--for", "comfyui", "-o", OUT, "--allow-loss", "--architecture", "sd1"),
        (EVIL, "--extract-embeddings", "-o", OUT), (EVIL, "--prune", "--verify", "-o", OUT), (STYLE, "--to", "diffusers", "-o", OUT, "--base", EVIL),
        (STYLE, "--to", "diffusers", "--as", "full", "-o", OUT, "--base", EVIL),
    ),
    "scale": ((EVIL, "2", "-o", OUT),),
    "combine": ((EVIL, STYLE, "-o", OUT), (STYLE, f"{EVIL}:0.5", "-o", OUT, "--rank", "2")),
    "resize": ((EVIL, "--rank", "2", "-o", OUT),),
    "extract": ((EVIL, EVIL, "--rank", "2", "-o", OUT),),
    "merge": ((EVIL, STYLE, "-o", OUT), (EVIL, EVIL, "-o", OUT, "--dry-run")),
    "unmerge": ((EVIL, STYLE, "-o", OUT),),
    "plot": ((EVIL, "-o", f"{OUT}.png"), (STYLE, "--base", EVIL, "-o", f"{OUT}.png")),
    "diff": ((EVIL, STYLE), (STYLE, EVIL), (STYLE, STYLE, "--base", EVIL), (EVIL, EVIL, "--json")),
    "embedding merge": ((EVIL, WORD, "-o", OUT), (WORD, f"{EVIL}:0.5", "-o", OUT, "--method", "concat")),
    "embedding scale": ((EVIL, "2", "-o", OUT), (EVIL, "--to-norm", "1", "-o", OUT, "--to", "diffusers")),
    "embedding trim": ((EVIL, "--vectors", "1", "-o", OUT, "--json"),),
    "embedding nearest": ((EVIL, "--base", OUT), (WORD, "--tokenizer", TOKENS, "--text-encoder", EVIL)),
    "hypernetwork scale": ((EVIL, "2", "-o", f"{OUT}.pt"),),
    "hypernetwork merge": ((f"{EVIL}:1", EVIL, "-o", f"{OUT}.pt"), (EVIL, EVIL, "--method", "chain", "-o", OUT, "--to", "a1111")),
    **{f"train {name}": (("--base", EVIL, "--images", SHOTS, "-o", OUT, "--steps", "1", *more),) for name, more in (
        ("textual-inversion", ("--token", "<fox>", "--initial-words", "cat")), ("dreambooth", ("--prompt", "a cat")),
        ("lora", ("--prompt", "a cat")), ("hypernetwork", ("--prompt", "a cat", "--json")),
    ) if find_spec(f"adapterhub.train.{name.replace('-', '_')}")},
    "compatible": ((EVIL,), (STYLE, EVIL), (EVIL, "--json")),
    **dict.fromkeys("index watch list search show tag note rate alias remove duplicates similar lineage replay verify doctor backup "
                    "restore export import lock sync metadata pull push".split(), ()),
    "layouts": (),
    "architectures": (),
    "demo": (),
}  # fmt: skip
"""Every command, in every way in which it opens a file. The last ones open none that is given to them, but for `index`, which keeps
what it refuses: see below, and `metadata`, which has no use for them."""


def commands(group: Any, names: Any, before: str = "") -> Iterator[str]:
    for name in names:
        command = group.get_command(click.Context(group), name)
        if isinstance(command, click.Group):
            yield from commands(command, command.list_commands(click.Context(command)), f"{before}{name} ")
        else:
            yield f"{before}{name}"


def test_every_command_is_tried() -> None:
    assert CALLS.keys() == {*commands(adapterhub, COMMANDS)}


class Scene:
    """A folder with what the commands need, and the marker that a payload would make."""

    def __init__(self, folder: Path, cli: Callable[..., Any], style: Path) -> None:
        self._folder, self._cli = folder, cli
        self.marker, self.evil, self.out = folder / "marker", folder / "evil.pt", folder / "out"
        self._names = {STYLE: style, WORD: folder / "word.safetensors", OUT: self.out, PICTURE: folder / "x.png", TOKENS: folder / "tokens", SHOTS: folder / "shots"}  # fmt: skip
        save_file({"emb_params": torch.ones(1, 768)}, self._names[WORD])
        Image.new("RGB", (64, 64), "white").save(self._names[PICTURE])
        self._names[SHOTS].mkdir()
        Image.new("RGB", (64, 64), "white").save(self._names[SHOTS] / "x.png")
        self._names[TOKENS].mkdir()
        (self._names[TOKENS] / "vocab.json").write_text('{"a</w>": 0}')
        (self._names[TOKENS] / "merges.txt").write_text("")

    def outcomes(self, evil: Path) -> Iterator[tuple[str, Any]]:
        """What every command does with `evil`, and what was called."""
        names = {EVIL: evil, **self._names}
        for command, ways in CALLS.items():
            for way in ways:
                words = [re.sub("|".join(names), lambda found: str(names[found[0]]), word) for word in way]
                yield f"{command} {' '.join(way)}", self._cli(*command.split(), *words)

    def refused(self, evil: Path, named: str) -> None:
        """Every command refuses `evil`, says `named`, and leaves nothing behind."""
        before = {*self._folder.rglob("*")}
        for called, outcome in self.outcomes(evil):
            said = outcome.err + outcome.out
            assert (outcome.status, named in said, "Traceback" in said) == (3, True, False), (called, outcome)
            assert {*self._folder.rglob("*")} == before, called


@pytest.fixture
def scene(tmp_path: Path, cli: Callable[..., Any], style: Path) -> Scene:
    return Scene(tmp_path, cli, style)


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("what", PICKLES)
def test_no_command_runs_what_a_file_calls(scene: Scene, what: str, container: str) -> None:
    make, named = PICKLES[what]
    scene.evil.write_bytes(CONTAINERS[container](make(str(scene.marker))))
    scene.refused(scene.evil, named)


@pytest.mark.parametrize("what", PICKLES)
def test_the_registry_keeps_what_it_refuses_and_runs_none_of_it(
    scene: Scene, cli: Callable[..., Any], what: str, tmp_path: Path
) -> None:
    make, named = PICKLES[what]
    scene.evil.write_bytes(CONTAINERS["zip"](make(str(scene.marker))))
    db = tmp_path / "r.db"
    assert cli("index", scene.evil, "--db", db).status == 0
    (record,) = json.loads(cli("list", "--problem", "any", "--json", "--db", db).out)
    assert (named in record["reason"], record["kind"]) == (True, "unknown")
    for command in (("verify",), ("duplicates", "--confirm"), ("doctor",), ("show", "evil"), ("export",)):
        cli(*command, "--db", db)
    assert not scene.marker.exists()


@pytest.mark.parametrize("place", HIDDEN)
def test_no_command_runs_what_lies_beside_the_pickle_that_is_read(scene: Scene, place: str) -> None:
    hide, named = HIDDEN[place]
    make, _ = PICKLES["REDUCE"]
    scene.evil.write_bytes(hide(make(str(scene.marker))))
    scene.refused(scene.evil, named)


SAFE = {"bare": "a pickle that torch.save did not write", "zip": "a torch pickle", "legacy": "a torch pickle"}


@pytest.mark.parametrize("container", SAFE)
def test_no_command_reads_a_pickle_that_is_called_safetensors(scene: Scene, container: str, tmp_path: Path) -> None:
    make, _ = PICKLES["REDUCE"]
    path = tmp_path / "evil.safetensors"
    path.write_bytes({**CONTAINERS, "bare": bytes}[container](make(str(scene.marker))))
    scene.refused(path, SAFE[container])


PLACES = (
    "pytorch_lora_weights.bin", "learned_embeds.bin", "adapter_model.bin", "unet/adapter_model.bin", "x.ckpt",
    "unet/diffusion_pytorch_model.bin", "model-00002-of-00002.bin",
)  # fmt: skip


def lay(folder: Path, place: str) -> None:
    """What makes `place` a part of the folder."""
    (folder / place).parent.mkdir(parents=True)
    if place.endswith("adapter_model.bin"):
        (folder / place).with_name("adapter_config.json").write_text("{}")
    elif place.startswith("unet/"):
        (folder / "model_index.json").write_text(json.dumps({"unet": ["diffusers", "UNet2DConditionModel"]}))
    elif place.startswith("model-"):
        first = "model-00001-of-00002.bin"
        torch.save({"a": torch.zeros(1)}, folder / first)
        (folder / "model.bin.index.json").write_text(json.dumps({"weight_map": {"a": first, "b": place}}))


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("place", PLACES)
def test_no_command_runs_what_lies_in_a_folder(scene: Scene, tmp_path: Path, place: str, container: str) -> None:
    make, named = PICKLES["REDUCE"]
    lay(tmp_path / "in", place)
    (tmp_path / "in" / place).write_bytes(CONTAINERS[container](make(str(scene.marker))))
    scene.refused(tmp_path / "in", named)


def test_no_command_imports_the_code_that_a_folder_brings(scene: Scene, tmp_path: Path) -> None:
    code = f"import os\nos.mkdir({str(scene.marker)!r})\n"
    folder = tmp_path / "in"
    (folder / "unet").mkdir(parents=True)
    for name in ("pipeline.py", "evil.py", "__init__.py", "unet/evil.py", "conftest.py", "sitecustomize.py"):
        (folder / name).write_text(code)
    asks = {"custom_pipeline": "evil", "auto_map": {"AutoModel": "evil.Model"}, "unet": ["evil", "Model"]}
    (folder / "model_index.json").write_text(json.dumps(asks))
    (folder / "unet/config.json").write_text(json.dumps({"_class_name": "Model", **asks}))
    save_file({"x": torch.zeros(1)}, folder / "unet/diffusion_pytorch_model.safetensors")
    for called, outcome in scene.outcomes(folder):
        assert outcome.status < 5, (called, outcome)
        assert not scene.marker.exists(), called
        assert "evil" not in sys.modules
        scene.out.unlink(missing_ok=True)
    subprocess.run([sys.executable, folder / "evil.py"], check=True)
    assert scene.marker.exists()  # the code would have worked


UNPICKLE = """
import pickle, sys
from pathlib import Path

class Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        return (lambda *given: None) if module.startswith("torch") else super().find_class(module, name)

    def persistent_load(self, identifier):
        return None

for path in Path(sys.argv[1]).glob("*.pkl"):
    try:
        with path.open("rb") as stream:
            Unpickler(stream).load()
    except (EOFError, pickle.UnpicklingError):
        pass
"""


def test_the_payloads_would_have_worked(tmp_path: Path) -> None:
    markers = []
    for number, (make, _) in enumerate(PICKLES.values()):
        markers.append(tmp_path / f"marker{number}")
        (tmp_path / f"{number}.pkl").write_bytes(make(str(markers[-1])))
    subprocess.run([sys.executable, "-c", UNPICKLE, tmp_path], check=True)
    assert [what for what, marker in zip(PICKLES, markers, strict=True) if not marker.is_dir()] == []
