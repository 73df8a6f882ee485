"""Hypernetworks converted: what A1111 makes of our file, casts, losses, and that a rename needs no torch."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from safetensors import safe_open

import adapterhub
from adapterhub.errors import BrokenAdapter, LossyConversion, UsageError
from tests.operations.a1111_nets import hypernetwork, loaded, pairs, saved

X = torch.randn(2, 5, 320, generator=torch.Generator().manual_seed(1))
LAYERS = [1, 0.125, 1]


@pytest.mark.parametrize("activation", ["linear", "relu", "swish", "prelu"])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("output", [False, True])
@pytest.mark.parametrize("dropout", [None, [0, 0.3, 0]])
def test_what_comes_back_from_safetensors_does_the_same_in_a1111(tmp_path, activation, norm, output, dropout):
    made = hypernetwork(tmp_path / "a.pt", [320], LAYERS, activation, norm, output, dropout)
    there = adapterhub.convert(tmp_path / "a.pt", tmp_path / "b.safetensors", to="safetensors")
    back = adapterhub.convert(tmp_path / "b.safetensors", tmp_path / "c.pt", to="a1111")
    assert (there.exactness, there.max_error, back.exactness, back.max_error) == ("bit-exact", 0.0, "bit-exact", 0.0)
    for net, again in zip(made[320], loaded(tmp_path / "c.pt")[320], strict=True):
        assert torch.equal(net(X), again(X))
    assert adapterhub.inspect(tmp_path / "c.pt").structure == adapterhub.inspect(tmp_path / "a.pt").structure
    assert adapterhub.diff(tmp_path / "a.pt", tmp_path / "c.pt").equal


def test_our_pt_says_everything_that_comfyui_and_a1111_take_differently(tmp_path):
    made = pairs([320], LAYERS, activation="relu", dropout=[0, 0.3, 0], activate_output=True)
    saved(tmp_path / "a.pt", made, LAYERS, activation_func="relu", use_dropout=True, without=("activate_output",),
          dropout_structure=[0, 0.3, 0])  # fmt: skip
    adapterhub.convert(tmp_path / "a.pt", tmp_path / "b.pt", to="a1111")
    tree = torch.load(tmp_path / "b.pt", weights_only=True)
    assert {key: value for key, value in tree.items() if key != 320} == {
        "step": 100, "name": "style", "layer_structure": LAYERS, "activation_func": "relu", "is_layer_norm": False,
        "weight_initialization": "Normal", "activate_output": True, "use_dropout": False, "dropout_structure": None,
        "last_layer_dropout": False, "sd_checkpoint": "deadbeef", "sd_checkpoint_name": "base", "optional_info": None,
        "metadata": {"adapterhub.dropout": "[0.0, 0.3, 0.0]"},
    }  # fmt: skip
    assert list(tree[320][0]) == ["linear.0.weight", "linear.0.bias", "linear.2.weight", "linear.2.bias"]
    assert torch.equal(loaded(tmp_path / "b.pt")[320][0](X), made[320][0](X))


def test_novelais_form_becomes_a1111s(tmp_path):
    made = pairs([320], LAYERS)
    old = {"linear.0.": "linear1.", "linear.1.": "linear2."}
    tree = {320: [{old[name[:9]] + name[9:]: value for name, value in net.state_dict().items()} for net in made[320]]}
    torch.save(tree, tmp_path / "nai.pt")
    done = adapterhub.convert(tmp_path / "nai.pt", tmp_path / "b.pt", to="a1111")
    assert done.exactness == "bit-exact"
    assert {entry.action for entry in done.entries} == {"rename"}
    assert torch.load(tmp_path / "b.pt", weights_only=True)["name"] == "nai"
    assert torch.equal(loaded(tmp_path / "b.pt")[320][1](X), made[320][1](X))


def test_skip_connections_keep_the_extensions_form(tmp_path):
    made = pairs([320], LAYERS, activation="relu", norm=True, up=True)
    fields = {"skip_connection": True, "upsample_linear": "Linear", "is_layer_norm": True, "activation_func": "relu"}
    saved(tmp_path / "a.pt", made, LAYERS, **fields)
    adapterhub.convert(tmp_path / "a.pt", tmp_path / "b.safetensors", to="safetensors")
    adapterhub.convert(tmp_path / "b.safetensors", tmp_path / "c.pt", to="a1111")
    tree = torch.load(tmp_path / "c.pt", weights_only=True)
    assert {field: tree[field] for field in fields} == fields
    made[320][0].load_state_dict(tree[320][0])


def test_a_cast_rounds_each_number_once(tmp_path):
    made = hypernetwork(tmp_path / "a.pt", [320], LAYERS)
    done = adapterhub.convert(tmp_path / "a.pt", tmp_path / "b.pt", to="a1111", dtype="fp16")
    assert done.exactness == "approximate"
    assert 0 < done.max_error < 2**-10
    state = torch.load(tmp_path / "b.pt", weights_only=True)[320][0]
    assert torch.equal(state["linear.0.weight"], made[320][0].state_dict()["linear.0.weight"].half())


def test_the_safetensors_form_says_what_it_is_for(tmp_path):
    hypernetwork(tmp_path / "a.pt", [768, 320], LAYERS)
    adapterhub.convert(tmp_path / "a.pt", tmp_path / "b.safetensors", to="safetensors")
    with safe_open(tmp_path / "b.safetensors", "pt") as file:
        told = file.metadata()
        assert "hypernet.768.v.linear.1.bias" in file.keys()  # noqa: SIM118 # it is no dict
    assert told["modelspec.architecture"] == "stable-diffusion-v1/hypernetwork"
    assert told["adapterhub.hypernetwork"] == (
        '{"widths":[320,768],"layer_structure":[1,0.125,1],"weight_initialization":"Normal"}'
    )


def test_an_unknown_tensor_is_lost_only_on_demand(tmp_path):
    hypernetwork(tmp_path / "a.pt", [320], LAYERS)
    tree = torch.load(tmp_path / "a.pt")
    tree[320][0]["colour"] = torch.zeros(3)
    torch.save(tree, tmp_path / "a.pt")
    with pytest.raises(LossyConversion, match=r"320\.0\.colour"):
        adapterhub.convert(tmp_path / "a.pt", tmp_path / "b.pt", to="a1111")
    done = adapterhub.convert(tmp_path / "a.pt", tmp_path / "b.pt", to="a1111", allow_loss=True)
    assert (done.exactness, done.summary["drop"]) == ("partial", 1)


def test_half_a_hypernetwork_is_refused(tmp_path):
    hypernetwork(tmp_path / "a.pt", [320], LAYERS)
    torch.save({320: torch.load(tmp_path / "a.pt")[320][:1]}, tmp_path / "a.pt")
    with pytest.raises(BrokenAdapter, match="no net for values"):
        adapterhub.convert(tmp_path / "a.pt", tmp_path / "b.pt", to="a1111")


def test_novelais_form_is_not_written(tmp_path):
    hypernetwork(tmp_path / "a.pt", [320], LAYERS)
    with pytest.raises(UsageError, match="nai is only read"):
        adapterhub.convert(tmp_path / "a.pt", tmp_path / "b.pt", to="nai")


@pytest.mark.parametrize(
    "arguments", [["inspect", "a.pt"], ["convert", "a.pt", "--to", "safetensors", "-o", "b.safetensors"]]
)
def test_what_only_moves_bytes_imports_no_torch(tmp_path, arguments):
    hypernetwork(tmp_path / "a.pt", [320], LAYERS)
    program = (
        "import sys; from adapterhub.cli import run; run(sys.argv[1:]); print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr == "False\n"


def test_the_same_numbers_under_another_activation_differ(tmp_path):
    made = pairs([320], LAYERS, activation="relu")
    for name in ("relu", "tanh"):
        saved(tmp_path / f"{name}.pt", made, LAYERS, activation_func=name)
    found = adapterhub.diff(tmp_path / "relu.pt", tmp_path / "tanh.pt")
    assert not found.equal
    assert len(found.differences) == found.modules > 0


@pytest.mark.parametrize("name", ["b.safetensors", "b.pt"])
def test_what_is_to_become_a_lora_needs_a_layout_of_loras(tmp_path, name):
    hypernetwork(tmp_path / "a.pt", [320], LAYERS)
    with pytest.raises(UsageError, match="say what to convert to: a hypernetwork is no lora\nGive either --to"):
        adapterhub.convert(tmp_path / "a.pt", tmp_path / name, as_algorithm="lora")


def test_a_cast_alone_keeps_the_layout(tmp_path):
    hypernetwork(tmp_path / "a.pt", [320], LAYERS)
    done = adapterhub.convert(tmp_path / "a.pt", tmp_path / "b.pt", dtype="fp16")
    assert (done.target.layout, adapterhub.inspect(tmp_path / "b.pt").dtypes.keys()) == ("a1111", {"F16"})
