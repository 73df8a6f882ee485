"""Layouts of hypernetworks: what is recognised, where tensors stand, and that nothing is lost on the way."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file

import adapterhub.layouts as layouts
from adapterhub import files
from adapterhub.adapter import Kind
from adapterhub.documents import HypernetworkStructure
from adapterhub.errors import BrokenAdapter
from adapterhub.layouts.hypernetwork import structure as structures
from adapterhub.layouts.hypernetwork.structure import (
    ACTIVATIONS,
    STRUCTURE,
    UNUSABLE,
    Net,
    expected,
    structure_of,
)
from adapterhub.layouts.hypernetwork.widths import architectures_of
from tests.operations.a1111_nets import hypernetwork, pairs, saved


def opened(path):
    """Identity and reading of a file."""
    with files.read(path) as package:
        identity = layouts.identify(package)
        return identity, identity.decode(package)


# formats/embeddings-hypernetworks-checkpoints.md §2.4, verbatim
TABLE = [
    ([1, 2, 1], "linear", False, False, None, [0, 1]),
    ([1, 2, 1], "relu", False, False, None, [0, 2]),
    ([1, 2, 1], "relu", False, True, None, [0, 2]),
    ([1, 2, 1], "linear", True, False, None, [0, 1, 2, 3]),
    ([1, 2, 1], "relu", True, False, None, [0, 2, 3, 4]),
    ([1, 2, 1], "relu", True, False, [0, 0.3, 0], [0, 2, 4, 5]),
    ([1, 2, 2, 1], "relu", False, False, [0, 0.3, 0, 0], [0, 3, 5]),
    ([1, 2, 2, 1], "relu", False, False, [0, 0.3, 0.3, 0], [0, 3, 6]),
    ([1, 2, 2, 1], "relu", True, False, [0, 0.3, 0.3, 0], [0, 2, 4, 6, 8, 9]),
    ([1, 2, 4, 2, 1], "linear", False, False, None, [0, 1, 2, 3]),
    # by the rule above the table: an activated output moves the norm behind it
    ([1, 2, 1], "relu", True, True, None, [0, 2, 3, 5]),
]


@pytest.mark.parametrize(("layers", "activation", "norm", "output", "dropout", "indices"), TABLE)
def test_tensors_stand_at_the_indices_of_the_table(layers, activation, norm, output, dropout, indices):
    structure = HypernetworkStructure(widths=[8], layer_structure=layers, activation=activation, layer_norm=norm,
                                      activate_output=output, dropout=dropout)  # fmt: skip
    names = [name for name, _ in expected(structure, Net(8, "k")).values()]
    assert sorted({int(name.split(".")[1]) for name in names}) == indices


@pytest.mark.parametrize(("layers", "activation", "norm", "output", "dropout", "indices"), TABLE)
def test_a_file_with_those_indices_is_read_as_that_structure(
    tmp_path, layers, activation, norm, output, dropout, indices
):
    hypernetwork(tmp_path / "a.pt", [8], layers, activation, norm, output, dropout)
    _, reading = opened(tmp_path / "a.pt")
    assert sorted({int(place.split(".")[3]) for place in reading.places.values()}) == indices
    assert structure_of(reading.adapter) == HypernetworkStructure(
        widths=[8], layer_structure=layers, activation=activation, layer_norm=norm, activate_output=output,
        dropout=dropout, weight_initialization="Normal",
    )  # fmt: skip


def test_activations_are_those_of_torch():
    names = {name.lower() for name in torch.nn.modules.activation.__all__}
    assert names | {"linear", "swish"} == ACTIVATIONS | UNUSABLE


@pytest.mark.parametrize(
    ("widths", "names"),
    [
        ((768, 320, 640, 1280), ("sd1",)), ((1024, 320, 640, 1280), ("sd2",)), ((1024,), ("sd2",)),
        ((2048, 640, 1280), ("sdxl",)), ((2048,), ("sdxl",)), ((768, 1280, 1536), ("sdxl-refiner",)),
        ((768,), ("sd1", "sdxl-refiner")), ((768, 1280), ("sd1", "sdxl-refiner")), ((320, 640, 1280), ("sd1", "sd2")),
        ((640, 1280), ("sd1", "sd2", "sdxl")), ((1280,), ("sd1", "sd2", "sdxl", "sdxl-refiner")),
        ((768, 1024, 320, 640, 1280), ("sd1", "sd2")), ((48, 32), ()),
    ],
)  # fmt: skip
def test_architectures_are_told_by_the_widths_of_their_contexts(widths, names):
    assert architectures_of(widths) == names


def test_a_file_of_a1111_is_recognised(tmp_path):
    hypernetwork(tmp_path / "a.pt", [768, 320], [1, 2, 1])
    identity, reading = opened(tmp_path / "a.pt")
    assert (identity.kind, identity.layout.name, identity.architecture) == (Kind.HYPERNETWORK, "a1111", "sd1")
    assert reading.places[Net(768, "v").key("linear", 1, "layer_bias")] == "768.1.linear.1.bias"
    assert {field: reading.metadata[field] for field in ("name", "step", "sd_checkpoint")} == {
        "name": "style", "step": "100", "sd_checkpoint": "deadbeef",
    }  # fmt: skip


@pytest.mark.parametrize("kind", [tuple, list])
@pytest.mark.parametrize("legacy", [False, True])
def test_novelais_form_is_read_whatever_holds_the_pair(tmp_path, kind, legacy):
    state = OrderedDict({
        "linear1.weight": torch.full((16, 8), 1.0), "linear1.bias": torch.full((16,), 2.0),
        "linear2.weight": torch.full((8, 16), 3.0), "linear2.bias": torch.full((8,), 4.0),
    })  # fmt: skip
    torch.save({8: kind([state, state])}, tmp_path / "nai.pt", _use_new_zipfile_serialization=not legacy)
    with files.read(tmp_path / "nai.pt") as package:
        identity = layouts.identify(package)
        reading = identity.decode(package)
        last = reading.adapter.tensors[Net(8, "k").key("linear", 1, "layer_weight")]
        assert torch.frombuffer(bytearray(last.read()), dtype=torch.float32).unique().tolist() == [3.0]
    assert (identity.layout.name, structure_of(reading.adapter).layer_structure) == ("nai", [1, 2, 1])


def test_text_for_widths_is_read(tmp_path):
    torch.save({"8": (pairs([8], [1, 1])[8][0].state_dict(),) * 2, "layer_structure": [1, 1]}, tmp_path / "text.pt")
    _, reading = opened(tmp_path / "text.pt")
    assert structure_of(reading.adapter).widths == [8]


@pytest.mark.parametrize("up", [False, True])
def test_the_nets_with_skip_connections_of_the_extension_are_read(tmp_path, up):
    made = pairs([8], [1, 2, 1], activation="relu", norm=True, up=up)
    fields = {"skip_connection": True, "upsample_linear": "Linear" if up else None, "is_layer_norm": True}
    saved(tmp_path / "skip.pt", made, [1, 2, 1], activation_func="relu", **fields)
    _, reading = opened(tmp_path / "skip.pt")
    told = structure_of(reading.adapter)
    assert (told.skip_connection, told.upsample_linear, told.layer_norm, told.activation) == (True, up, True, "relu")
    assert len(reading.places) == 2 * (2 * 4 + 2 * up)


def test_missing_fields_are_taken_as_a1111_takes_them(tmp_path):
    fields = ("layer_structure", "is_layer_norm", "activate_output", "use_dropout", "dropout_structure")
    made = pairs([8], [1, 2, 1], activation="relu", activate_output=True)
    saved(tmp_path / "old.pt", made, [1, 2, 1], without=fields, activation_func="relu")
    _, reading = opened(tmp_path / "old.pt")
    told = structure_of(reading.adapter)
    assert (told.layer_structure, told.layer_norm, told.activate_output, told.dropout) == ([1, 2, 1], False, True, None)


@pytest.mark.parametrize(("last", "dropout"), [(False, [0, 0.3, 0, 0]), (True, [0, 0.3, 0.3, 0])])
def test_dropout_before_it_was_stored_is_where_a1111_puts_it(tmp_path, last, dropout):
    made = pairs([8], [1, 2, 2, 1], activation="relu", dropout=dropout)
    saved(tmp_path / "old.pt", made, [1, 2, 2, 1], without=("dropout_structure",), activation_func="relu",
          use_dropout=True, last_layer_dropout=last)  # fmt: skip
    _, reading = opened(tmp_path / "old.pt")
    assert structure_of(reading.adapter).dropout == dropout


@pytest.mark.parametrize(
    ("true", "fields", "field", "value"),
    [
        ({}, {"activation_func": "relu"}, "activation", "linear"),
        ({"norm": True}, {}, "layer_norm", True),
        ({"activation": "prelu"}, {"activation_func": "relu"}, "activation", "prelu"),
        ({"activation": "relu"}, {"activation_func": "relu", "use_dropout": True, "dropout_structure": [0, 0.3, 0]}, "dropout", None),
        ({"activation": "relu", "dropout": [0, 0.3, 0.3]}, {"activation_func": "relu"}, "dropout", [0, 0.3, 0]),
        ({}, {"dropout_structure": [0, 0.5]}, "dropout", None),
    ],
)  # fmt: skip
def test_tensors_count_more_than_fields(tmp_path, true, fields, field, value):
    saved(tmp_path / "a.pt", pairs([8], [1, 2, 1], **true), [1, 2, 1], **fields)
    _, reading = opened(tmp_path / "a.pt")
    assert getattr(structure_of(reading.adapter), field) == value


def test_layers_are_as_wide_as_their_tensors(tmp_path):
    saved(tmp_path / "a.pt", pairs([10, 20], [1, 1.5, 0.7, 1]), [1, 2, 1])
    _, reading = opened(tmp_path / "a.pt")
    assert structure_of(reading.adapter).layer_structure == [1, 1.5, 0.7, 1]


@pytest.mark.parametrize("size", [1, 319, 641, 1000])
def test_a_multiple_gives_back_the_size_that_it_is_of(size):
    assert all(int(width * structures.multiple(size, width)) == size for width in range(1, 2000, 7))


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"layer_structure": "wide"}', '{"activation": 3}', '{"colour": "red"}', '{"dropout": [2]}']
)
def test_a_structure_that_cannot_be_is_refused(tmp_path, text):
    state = {f"hypernet.8.{half}.linear.0.{name}": torch.zeros(8, 8)[: 8 if name == "weight" else 1].squeeze(0)
             for half in "kv" for name in ("weight", "bias")}  # fmt: skip
    save_file(state, tmp_path / "a.safetensors", {STRUCTURE: text})
    with pytest.raises(BrokenAdapter):
        opened(tmp_path / "a.safetensors")


def test_what_has_more_layers_or_widths_than_any_is_refused_at_once(tmp_path):
    layer = {"weight": torch.zeros(1, 1), "bias": torch.zeros(1)}
    deep = {f"linear.{index}.{name}": value for index in range(101) for name, value in layer.items()}
    flat = {f"linear.0.{name}": value for name, value in layer.items()}
    for tree in ({1: (deep, deep)}, dict.fromkeys(range(1, 102), (flat, flat))):
        torch.save(tree, tmp_path / "a.pt")
        with pytest.raises(BrokenAdapter, match="at most 100 items"):
            opened(tmp_path / "a.pt")


@pytest.mark.parametrize(
    "layers", [[], [1], "wide", [1, float("inf"), 1], [1, -1, 1], [1, float("nan"), 1], [1] * 101, None]
)
def test_a_pickle_with_layers_that_cannot_be_is_refused(tmp_path, layers):
    saved(tmp_path / "a.pt", pairs([8], [1, 1]), layers)
    with pytest.raises(BrokenAdapter, match="layer_structure"):
        opened(tmp_path / "a.pt")


@pytest.mark.parametrize(
    "tree",
    [
        {8: "nothing"}, {8: ()}, {8: ({}, {})}, {8: (3, 4)}, {True: ({"linear.0.weight": torch.zeros(1, 1)},)},
        {-8: ({"linear.0.weight": torch.zeros(1, 1)},)}, {8: ({"conv.weight": torch.zeros(1, 1)},)},
        {8: ({"linear.0.weight": torch.zeros(())},)},
    ],
)  # fmt: skip
def test_what_only_looks_like_one_is_none(tmp_path, tree):
    torch.save(tree, tmp_path / "a.pt")
    identity, _ = opened(tmp_path / "a.pt")
    assert identity.kind is not Kind.HYPERNETWORK


def test_the_optimizers_state_beside_it_is_called_what_it_is(tmp_path):
    net = pairs([8], [1, 1])[8][0].requires_grad_(True)
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.ones(1, 8)).sum().backward()
    optimizer.step()
    torch.save(
        {"optimizer_name": "AdamW", "hash": "0" * 10, "optimizer_state_dict": optimizer.state_dict()},
        tmp_path / "a.pt.optim",
    )
    identity, _ = opened(tmp_path / "a.pt.optim")
    assert (identity.kind, identity.foreign.code) == (Kind.UNKNOWN, "optimizer-state")
