"""Adapters of several algorithms one after the other, hypernetworks, and the command line of the issue."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from adapterhub import inspect, merge, unmerge
from adapterhub.cli.options import strong_path
from adapterhub.errors import LossyConversion, RefusedInput
from tests.operations.a1111_nets import hypernetwork
from tests.operations.merge_files import CONV, OUT, Q, base, change, content, expected, head, lora, place, shape


def multiplier(path: Path, factors: list[float]) -> Path:
    """LyCORIS' IA3 on the output: W ∘ (1 + w)."""
    name = head("unet", Q)
    save_file({f"{name}.weight": torch.tensor(factors), f"{name}.on_input": torch.tensor(False)}, path)
    return path


def test_what_depends_on_the_weight_works_on_what_came_before(tmp_path: Path) -> None:
    model = base(tmp_path / "base.safetensors")
    a, b = (
        lora(tmp_path / "a.safetensors", modules={"unet": (Q,)}),
        multiplier(tmp_path / "b.safetensors", [0.5, -0.25]),
    )
    rows = np.array([[0.5], [-0.25]])
    first, last = tmp_path / "first.safetensors", tmp_path / "last.safetensors"
    done = merge(model, [(a, 0.5), (b, 0.8)], first, architecture="sd1")
    merge(model, [(b, 0.8), (a, 0.5)], last, architecture="sd1")
    assert [problem.code for problem in done.problems if problem.code == "order-matters"] == ["order-matters"]
    plus = change(a, "unet", Q) * 0.5
    for path, make in ((first, lambda w: (w + plus) * (1 + 0.8 * rows)), (last, lambda w: w * (1 + 0.8 * rows) + plus)):
        wanted = load_file(model)[place("unet", Q)].double().numpy()
        found = load_file(path)[place("unet", Q)].double().numpy()
        assert np.abs(found - make(wanted)).max() <= np.abs(make(wanted)).max() * 2.0**-11
        before, after = content(model), content(path)
        assert {name for name, held in before.items() if after[name] != held} == {place("unet", Q)}


def test_order_is_spoken_of_only_where_it_matters(tmp_path: Path) -> None:
    model, b, net = (
        base(tmp_path / "base.safetensors"),
        multiplier(tmp_path / "b.safetensors", [0.5, -0.25]),
        tmp_path / "net.pt",
    )
    same, other = (
        lora(tmp_path / f"{name}.safetensors", modules={"unet": (path,)})
        for name, path in (("same", Q), ("other", CONV))
    )
    hypernetwork(net, [2], [1, 1])
    for given, matters in (([b], False), ([b, other], False), ([b, same], True), ([same, b], True), ([b, b], True), ([net], False),
                           ([net, other], True)):  # fmt: skip
        done = merge(model, given, tmp_path / "out.safetensors", architecture="sd1", dry_run=True)
        assert ("order-matters" in [problem.code for problem in done.problems]) is matters, given


@pytest.mark.parametrize("strength", [1.0, -0.5])
def test_a_linear_hypernetwork_is_folded_into_what_came_before(tmp_path: Path, strength: float) -> None:
    model, a = (
        base(tmp_path / "base.safetensors", torch.float64),
        lora(tmp_path / "a.safetensors", modules={"unet": (Q.replace("to_q", "to_k"),)}),
    )
    net = tmp_path / "net.pt"
    hypernetwork(net, [2], [1, 1])
    keys, values, out = (Q.replace("to_q", name) for name in ("to_k", "to_v", "to_out.0"))
    state = torch.load(net, weights_only=True)
    (first, second) = ({name: value.double().numpy() for name, value in part.items()} for part in state[2])
    merge(model, [a, (net, strength)], tmp_path / "out.safetensors", architecture="sd1")
    before, after = load_file(model), load_file(tmp_path / "out.safetensors")
    key, value, output, bias = (before[place("unet", path, kind)].numpy() for path, kind in
                                ((keys, "weight"), (values, "weight"), (out, "weight"), (out, "bias")))  # fmt: skip
    one = np.eye(2)
    np.testing.assert_allclose(
        after[place("unet", keys)],
        (key + change(a, "unet", keys)) @ (one + strength * first["linear.0.weight"]),
        rtol=1e-12,
    )
    np.testing.assert_allclose(
        after[place("unet", values)], value @ (one + strength * second["linear.0.weight"]), rtol=1e-12
    )
    moved = bias + strength * output @ value @ second["linear.0.bias"]
    np.testing.assert_allclose(after[place("unet", out, "bias")], moved, rtol=1e-12)


def test_a_hypernetwork_that_is_not_linear_or_meets_no_attention_is_refused(tmp_path: Path) -> None:
    model = base(tmp_path / "base.safetensors")
    bent, wide = tmp_path / "bent.pt", tmp_path / "wide.pt"
    hypernetwork(bent, [2], [1, 2, 1], activation="relu")
    hypernetwork(wide, [320], [1, 1])
    with pytest.raises(RefusedInput, match=r"linear|relu"):
        merge(model, [bent], tmp_path / "out.safetensors", architecture="sd1")
    with pytest.raises(LossyConversion, match="no attention of sd1 has contexts of 320"):
        merge(model, [wide], tmp_path / "out.safetensors", architecture="sd1")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("a.safetensors", (Path("a.safetensors"), 1.0)),
        ("a.safetensors:0.7", (Path("a.safetensors"), 0.7)),
        ("a.safetensors:-.5:2e-1", (Path("a.safetensors"), -0.5, 0.2)),
        (r"C:\loras\a.safetensors:0.5", (Path(r"C:\loras\a.safetensors"), 0.5)),
        ("C:/loras/a.safetensors", (Path("C:/loras/a.safetensors"), 1.0)),
        ("C:a.safetensors:1:0", (Path("C:a.safetensors"), 1.0, 0.0)),
        ("a:b:0.5", (Path("a:b"), 0.5)),
        ("a:0.1:0.2:0.3", (Path("a:0.1"), 0.2, 0.3)),
    ],
)
def test_strengths_are_read_from_the_right(text: str, meant: tuple) -> None:
    assert strong_path(text) == meant


def test_a_file_of_that_whole_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a:0.5").touch()
    assert strong_path("a:0.5") == (Path("a:0.5"), 1.0)
    assert strong_path("a:0.5:0.25") == (Path("a:0.5"), 0.25)


def test_what_is_no_strength_is_said_of_a_file_and_of_a_folder(tmp_path: Path, cli) -> None:
    (tmp_path / "folder").mkdir()
    lora(tmp_path / "a.safetensors")
    for name in ("folder", "a.safetensors"):
        for weight in ("0.7x", "0,5", "1:high"):
            told = cli("merge", "base", f"{tmp_path / name}:{weight}", "-o", tmp_path / "out.safetensors")
            assert (told.status, f"{name}" in told.err, "is no weight such as 0.7" in told.err) == (2, True, True)


@pytest.mark.parametrize("text", ["", ":0.5", ":0.5:1"])
@pytest.mark.parametrize("command", ["merge", "combine"])
def test_an_empty_path_is_no_adapter(tmp_path: Path, cli, text: str, command: str) -> None:
    told = cli(command, "base", text, "-o", tmp_path / "out.safetensors")
    assert (told.status, "a path is empty" in told.err) == (2, True), told.err


def test_names_that_are_no_text_are_merged_and_told(tmp_path: Path) -> None:
    model = base(tmp_path / "base.safetensors")
    a = lora(tmp_path / "a.safetensors").rename(tmp_path / os.fsdecode(b"odd\xff.safetensors"))
    done = merge(model, [a], tmp_path / "out.safetensors", architecture="sd1", undo=tmp_path / "undo")
    assert r"odd\udcff.safetensors:" in done.model_dump_json().replace(r"\\", "\\")
    with safe_open(tmp_path / "out.safetensors", "np") as opened:
        assert opened.metadata()["modelspec.merged_from"] == r"base, odd\udcff"
    done = unmerge(tmp_path / "out.safetensors", [a], tmp_path / "back.safetensors", architecture="sd1")
    assert "not-as-merged" not in [problem.code for problem in done.problems]
    done = unmerge(tmp_path / "out.safetensors", [(a, 0.5)], tmp_path / "again.safetensors", architecture="sd1")
    assert r"odd\udcff.safetensors" in [problem.where for problem in done.problems if problem.code == "not-as-merged"]
    assert done.model_dump_json()


def test_chance_is_another_for_every_tensor(tmp_path: Path) -> None:
    model, a = base(tmp_path / "base.safetensors", torch.bfloat16), tmp_path / "a.safetensors"
    places, tensors, ones = [place("unet", module) for module in (Q, OUT)], load_file(model), {}
    for module, name in ((Q, places[0]), (OUT, places[1])):
        tensors[name] = torch.ones(64, 64, dtype=torch.bfloat16)
        ones |= {
            f"{head('unet', module)}.lora_down.weight": torch.ones(1, 64),
            f"{head('unet', module)}.lora_up.weight": torch.ones(64, 1),
        }
    save_file(tensors, model)
    save_file(ones, a)
    merge(model, [(a, 0.001)], tmp_path / "out.safetensors", architecture="sd1", rounding="stochastic")
    out = load_file(tmp_path / "out.safetensors")
    assert [len(out[name].unique()) for name in places] == [2, 2]
    assert not torch.equal(out[places[0]], out[places[1]])


def test_an_adapter_that_fits_two_architectures_is_for_the_one_of_the_base(tmp_path: Path) -> None:
    a = lora(tmp_path / "a.safetensors", modules={"unet": (Q,)})
    assert (inspect(a).architecture, inspect(a).also) == ("sd1", ["sd2"])
    model, out = base(tmp_path / "base.safetensors", architecture="sd2"), tmp_path / "out.safetensors"
    merge(model, [a], out)
    assert content(out) == expected(
        model, {place("unet", Q, architecture="sd2"): lambda weight: weight + change(a, "unet", Q)}
    )


def test_the_commands_of_the_issue(tmp_path: Path, cli) -> None:
    model, a, b = (
        base(tmp_path / "base.safetensors"),
        lora(tmp_path / "a.safetensors"),
        lora(tmp_path / "b.safetensors", 1),
    )
    out, undo, back = (tmp_path / name for name in ("m.safetensors", "m.undo", "restored.safetensors"))
    told = cli("merge", model, f"{a}:0.7", f"{b}:0.4:0.2", "-o", out, "--undo", undo, "--architecture", "sd1", "--json")
    assert told.status == 0, told.err
    document = json.loads(told.out)
    assert (document["command"], document["undo"]["path"]) == ("merge", str(undo))
    assert content(out) == expected(
        model,
        {place(component, module): lambda w, component=component, module=module: w + (
            change(a, component, module) * 0.7 + change(b, component, module) * (0.4 if component == "unet" else 0.2)).reshape(w.shape)
         for component, module in [("unet", Q), *_others()]},
    )  # fmt: skip
    told = cli("unmerge", out, "--undo", undo, "-o", back)
    assert (told.status, back.read_bytes() == model.read_bytes()) == (0, True)
    assert cli("merge", model, f"{a}:0.7", "-o", out).status == 2
    assert shape("unet", Q) == (2, 2)


def _others() -> list[tuple[str, str]]:
    from tests.operations.merge_files import MODULES

    return [(component, module) for component, modules in MODULES.items() for module in modules if module != Q]


def test_a_merge_of_plain_pairs_imports_no_torch(tmp_path: Path) -> None:
    model, a = base(tmp_path / "base.safetensors"), lora(tmp_path / "a.safetensors")
    code = ("import sys, adapterhub; adapterhub.merge(sys.argv[1], [sys.argv[2]], sys.argv[3], architecture='sd1'); "
            "assert 'torch' not in sys.modules")  # fmt: skip
    subprocess.run([sys.executable, "-c", code, model, a, tmp_path / "out.safetensors"], check=True)
