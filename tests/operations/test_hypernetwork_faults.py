"""What inspect and validate say of hypernetworks: each code once."""

from __future__ import annotations

import hashlib

import pytest
import torch
from safetensors.torch import save_file

import adapterhub
from tests.operations.a1111_nets import pairs, saved

ALL = [320, 640, 768, 1280]
LAYERS = [1, 0.0625, 1]


def codes(path, **fields):
    return {(problem.code, problem.where) for problem in adapterhub.validate(path, **fields).problems}


@pytest.fixture
def made(tmp_path):
    """`made(widths, change, without, **fields)`: a linear net of each width, its tensors changed before they are saved."""

    def write(widths=ALL, change=lambda made: None, without=(), layers=LAYERS, **options):
        fields = {
            name: options.pop(name) for name in list(options) if name not in ("activation", "norm", "dropout", "up")
        }
        nets = pairs(widths, LAYERS, **options)
        with torch.no_grad():
            change(nets)
        return saved(tmp_path / "a.pt", nets, layers, without=without, **fields)

    return write


def test_a_sound_file_has_no_problem(made):
    path = made()
    found = adapterhub.inspect(path)
    assert adapterhub.validate(path).problems == []
    assert (found.kind, found.layout, found.architecture) == ("hypernetwork", "a1111", "sd1")
    assert found.structure == {
        "widths": ALL, "layer_structure": [1, 0.0625, 1], "activation": "linear", "activate_output": False,
        "layer_norm": False, "dropout": None, "weight_initialization": "Normal", "skip_connection": False,
        "upsample_linear": False, "linear": True,
    }  # fmt: skip
    assert found.metadata == {"name": "style", "step": "100", "sd_checkpoint": "deadbeef", "sd_checkpoint_name": "base"}


@pytest.mark.parametrize(
    ("options", "linear"),
    [({}, True), ({"activation": "relu"}, False), ({"norm": True}, False)],
)
def test_inspect_says_whether_it_is_linear(made, options, linear):
    fields = {"activation_func": options.get("activation"), "is_layer_norm": options.get("norm", False)}
    assert adapterhub.inspect(made(**options, **fields)).structure["linear"] is linear


def without(name):
    return lambda state: state.pop(name)


BROKEN = [
    (lambda t: t[768][0].pop("linear.0.bias"), ("missing-tensor", "768.k.linear.0.bias")),
    (lambda t: t[768][1].clear(), ("missing-half", "768.v")),
    (lambda t: t.update({768: t[768][:1]}), ("missing-half", "768.v")),
    (lambda t: t[768][0].update({"linear.0.weight": torch.zeros(48, 767)}), ("shape-mismatch", "768.k.linear.0.weight")),
    (lambda t: t[768][0].update({"linear.1.weight": torch.zeros(767, 48)}), ("shape-mismatch", "768.k.linear.1.weight")),
    (lambda t: t[768][0].update({"linear.1.bias": torch.zeros(2)}), ("shape-mismatch", "768.k.linear.1.bias")),
    (lambda t: t[320][1].update({"linear.9.weight": torch.zeros(320, 320)}), ("uneven-nets", "320.v.linear.2.weight")),
    (lambda t: t[768][0].update({"colour": torch.zeros(3)}), ("unknown-key", "768.0.colour")),
    (lambda t: t.update(activation_func="wiggle"), ("unknown-activation", "activation_func")),
    (lambda t: t.update(activation_func="glu"), ("unknown-activation", "activation_func")),
    (lambda t: t[768][0]["linear.0.weight"].fill_(float("nan")), ("not-finite", "768.k.linear.0")),
]  # fmt: skip


@pytest.mark.parametrize(("change", "problem"), BROKEN, ids=[code for _, (code, _) in BROKEN])
def test_what_is_broken_is_an_error(made, change, problem):
    path = made(activation="relu", activation_func="relu") if problem[0] == "unknown-activation" else made()
    tree = torch.load(path)
    change(tree)
    torch.save(tree, path)
    found = adapterhub.validate(path)
    assert not found.valid
    assert problem in {(each.code, each.where) for each in found.problems if each.severity == "error"}


def zero(nets):
    for parameter in nets[320][0].linear[1].parameters():
        parameter.zero_()


ODD = [
    ({"without": ("activate_output",)}, ("missing-field", "activate_output")),
    ({"layers": [1, 2, 1]}, ("structure-contradicts", "layer_structure")),
    ({"is_layer_norm": True}, ("structure-contradicts", "layer_norm")),
    ({"activation_func": "relu"}, ("structure-contradicts", "activation")),
    ({"widths": [48]}, ("unknown-architecture", "")),
    ({"widths": [1280]}, ("ambiguous-architecture", "")),
    ({"widths": [320, 640, 1024, 1280, 768]}, ("idle-width", "1024")),
    ({"sd_checkpoint": "e3b0c442"}, ("empty-hash", "sd_checkpoint")),
    ({"metadata": {"modelspec.architecture": "stable-diffusion-xl-v1-base/hypernetwork"}}, ("metadata-contradicts", "metadata")),
    ({"change": zero}, ("zero-net", "320.k")),
    ({"change": lambda nets: nets[320][0].linear[0].weight.mul_(1e4)}, ("exploded-norm", "320.k.linear.0")),
    ({"activation": "gelu", "activation_func": "gelu"}, ("comfyui-differs", "activation_func")),
    ({"activation": "relu", "activation_func": "relu", "without": ("activate_output",)}, ("comfyui-differs", "activate_output")),
    ({"activation": "relu", "activation_func": "relu", "norm": True, "is_layer_norm": True}, ("comfyui-differs", "is_layer_norm")),
    ({"dropout": [0, 0.3, 0], "use_dropout": True, "dropout_structure": [0, 0.3, 0]}, ("comfyui-differs", "use_dropout")),
]  # fmt: skip


@pytest.mark.parametrize(("options", "problem"), ODD, ids=["-".join(problem) for _, problem in ODD])
def test_what_is_odd_is_a_warning(made, options, problem):
    found = adapterhub.validate(made(**options))
    assert found.valid
    assert problem in {(each.code, each.where) for each in found.problems}


def test_dropout_that_is_noted_and_not_in_the_nets_is_not_left_switched_on(made, tmp_path):
    path = made(dropout=[0, 0.3, 0], use_dropout=True, dropout_structure=[0, 0.3, 0])
    adapterhub.convert(path, tmp_path / "mended.pt", to="a1111")
    assert ("comfyui-differs", "use_dropout") in codes(path)
    assert ("comfyui-differs", "use_dropout") not in codes(tmp_path / "mended.pt")


def test_text_for_a_width_is_told_as_what_no_tool_reads(made):
    path = made([768])
    tree = torch.load(path)
    torch.save({str(key): value for key, value in tree.items()}, path)
    assert ("text-width", "768") in codes(path)


def test_skip_connections_are_told_as_what_only_the_extension_reads(made):
    path = made([320], activation="linear", norm=False, up=False, skip_connection=True)
    assert ("comfyui-differs", "skip_connection") in codes(path)


def test_a_safetensors_file_without_its_structure_is_told(tmp_path):
    tensors = {f"hypernet.320.{half}.linear.0.weight": torch.ones(320, 320) for half in "kv"}
    tensors |= {f"hypernet.320.{half}.linear.0.bias": torch.ones(320) for half in "kv"}
    save_file(tensors, tmp_path / "a.safetensors")
    assert ("missing-field", "adapterhub.hypernetwork") in codes(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (lambda data: hashlib.sha256(data).hexdigest()[:10], None),
        (lambda data: hashlib.sha256(data[0x100000:0x110000]).hexdigest()[:8], None),
        (lambda data: "0123456789", "optimizer-differs"),
        (lambda data: None, "optimizer-differs"),
    ],
)
def test_the_optimizers_file_beside_it_has_to_be_its_own(made, told, expected):
    path = made()
    beside = path.with_name("a.pt.optim")
    torch.save({"optimizer_name": "AdamW", "hash": told(path.read_bytes()), "optimizer_state_dict": {}}, beside)
    assert codes(path) == ({(expected, "a.pt.optim")} if expected else set())


def test_an_optimizers_file_that_cannot_be_read_is_told(made):
    path = made()
    path.with_name("a.pt.optim").write_bytes(b"PK\3\4 nothing")
    assert codes(path) == {("optimizer-unreadable", "a.pt.optim")}
