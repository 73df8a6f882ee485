"""scale and merge: what comes of them in A1111's own formula."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import torch

import adapterhub
from adapterhub import hypernetworks
from adapterhub.errors import NotAnAdapter, OutputExists, RefusedInput, UnknownName, UsageError
from tests.operations.a1111_nets import hypernetwork, loaded, pairs, saved

X = {width: torch.randn(2, 5, width, generator=torch.Generator().manual_seed(1)) for width in (8, 12, 320, 640)}


def change(net, width):
    return net(X[width]).detach() - X[width]


def near(found, wanted):
    wanted = wanted.detach()
    return float((found.detach() - wanted).abs().max()) <= 4e-6 * max(1.0, float(wanted.abs().max()))


@pytest.mark.parametrize(
    ("activation", "norm", "output", "factor"),
    [
        ("linear", False, False, -0.7), ("relu", False, False, -0.7), ("sigmoid", False, False, 3.0),
        ("relu", False, True, 0.7), ("leakyrelu", False, True, 2.0), ("prelu", False, True, 0.7), ("rrelu", False, True, 0.7),
        ("sigmoid", True, True, -0.7), ("linear", True, False, 0.7), ("linear", False, True, 0.0),
    ],
)  # fmt: skip
def test_scaling_multiplies_the_change(tmp_path, activation, norm, output, factor):
    made = hypernetwork(tmp_path / "a.pt", [8, 12], [1, 2, 1], activation, norm, output, [0, 0.3, 0], spread=0.5)
    done = hypernetworks.scale(tmp_path / "a.pt", tmp_path / "b.pt", factor)
    assert (done.exactness, done.max_error < 1e-6, done.modules) == ("exact", True, 4)
    for width, pair in loaded(tmp_path / "b.pt").items():
        for again, net in zip(pair, made[width], strict=True):
            assert near(change(again, width), factor * change(net, width))


def test_scaling_touches_the_last_layer_alone(tmp_path):
    hypernetwork(tmp_path / "a.pt", [8], [1, 2, 1], "relu")
    done = hypernetworks.scale(tmp_path / "a.pt", tmp_path / "b.pt", 0.5)
    assert {(entry.source[0], entry.action) for entry in done.entries} == {
        (f"8.{half}.linear.{index}.{name}", "copy" if index == 0 else "compute")
        for half in (0, 1) for index in (0, 2) for name in ("weight", "bias")
    }  # fmt: skip
    assert done.max_error == 0


@pytest.mark.parametrize(
    ("activation", "output", "factor", "why"),
    [("relu", True, -1.0, "no negative factor"), ("sigmoid", True, 0.5, "sigmoid behind the last layer")],
)
def test_what_no_tensor_scales_is_refused(tmp_path, activation, output, factor, why):
    hypernetwork(tmp_path / "a.pt", [8], [1, 2, 1], activation, activate_output=output)
    with pytest.raises(RefusedInput, match=why):
        hypernetworks.scale(tmp_path / "a.pt", tmp_path / "b.pt", factor)


def test_skip_connections_are_neither_scaled_nor_summed(tmp_path):
    saved(tmp_path / "a.pt", pairs([8], [1, 1], up=False, activation="linear", norm=False), [1, 1])
    with pytest.raises(RefusedInput, match="skip connections"):
        hypernetworks.scale(tmp_path / "a.pt", tmp_path / "b.pt", 2)
    with pytest.raises(RefusedInput, match="skip connections"):
        hypernetworks.merge([tmp_path / "a.pt"] * 2, tmp_path / "b.pt")


@pytest.mark.parametrize("activation", ["linear", "relu", "sigmoid", "prelu"])
@pytest.mark.parametrize("layers", [([1, 2, 1], [1, 0.7, 1]), ([1, 1.5, 2, 1], [1, 0.3, 1.1, 1]), ([1, 1], [1, 1])])
def test_a_sum_adds_up_what_both_change_wherever_either_does(tmp_path, activation, layers):
    a = hypernetwork(tmp_path / "a.pt", [8, 12], layers[0], activation, seed=1, spread=0.5)
    b = hypernetwork(tmp_path / "b.pt", [8, 320], layers[1], activation, seed=2, spread=0.5)
    if activation == "prelu" and len(layers[0]) > 2:
        tree = torch.load(tmp_path / "b.pt")
        for half, net in enumerate(b[8]):
            for name, value in a[8][half].state_dict().items():
                if value.numel() == 1:
                    net.state_dict()[name].copy_(value)
                    tree[8][half][name] = value
        torch.save(tree, tmp_path / "b.pt")
    done = hypernetworks.merge([(tmp_path / "a.pt", 0.5), (tmp_path / "b.pt", -2)], tmp_path / "c.pt")
    assert (done.exactness, done.max_error < 1e-6) == ("exact", True)
    assert [Path(read.path).name for read in done.inputs] == ["a.pt", "b.pt"]
    for width, pair in loaded(tmp_path / "c.pt").items():
        for half, net in enumerate(pair):
            parts = [w * change(made[width][half], width) for made, w in ((a, 0.5), (b, -2)) if width in made]
            assert near(change(net, width), sum(parts))


def test_a_chain_is_what_a1111_does_with_several(tmp_path):
    a = hypernetwork(tmp_path / "a.pt", [8, 12], [1, 2, 1], seed=1, spread=0.5)
    b = hypernetwork(tmp_path / "b.pt", [8], [1, 1.5, 0.5, 1], seed=2, spread=0.5)
    done = hypernetworks.merge(
        [(tmp_path / "a.pt", 0.5), (tmp_path / "b.pt", 2)], tmp_path / "c.safetensors", method="chain"
    )
    assert done.max_error < 1e-6
    adapterhub.convert(tmp_path / "c.safetensors", tmp_path / "c.pt", to="a1111")
    found = loaded(tmp_path / "c.pt")
    assert adapterhub.inspect(tmp_path / "c.pt").structure["layer_structure"] == [1, 1]
    for half in (0, 1):
        assert near(found[8][half](X[8]), b[8][half](a[8][half](X[8], 0.5), 2))
        assert near(found[12][half](X[12]), a[12][half](X[12], 0.5))


@pytest.mark.parametrize(
    ("first", "second", "method", "why"),
    [
        ({"layers": [1, 2, 1]}, {"layers": [1, 1]}, "sum", "different depth or activation"),
        ({"activation": "relu"}, {"activation": "tanh"}, "sum", "different depth or activation"),
        ({"norm": True}, {"norm": True}, "sum", "layer norm"),
        ({"activation": "relu", "activate_output": True}, {"activation": "relu"}, "sum", "last layer is activated"),
        ({"activation": "prelu", "seed": 1}, {"activation": "prelu", "seed": 2}, "sum", "slopes of PReLU differ"),
        ({"activation": "relu"}, {}, "chain", r"activation \(relu\)"),
        ({}, {"norm": True}, "chain", "layer norm"),
    ],
)  # fmt: skip
def test_what_has_no_exact_merge_is_refused(tmp_path, first, second, method, why):
    for name, options in (("a", first), ("b", second)):
        hypernetwork(tmp_path / f"{name}.pt", [8], **{"layers": [1, 2, 1], **options})
    with pytest.raises(RefusedInput, match=why):
        hypernetworks.merge([tmp_path / "a.pt", tmp_path / "b.pt"], tmp_path / "c.pt", method=method)
    assert not (tmp_path / "c.pt").exists()


def test_activations_that_mix_units_have_no_sum(tmp_path):
    made = pairs([8], [1, 1])
    saved(tmp_path / "a.pt", made, [1, 1], activation_func="softmax")
    with pytest.raises(RefusedInput, match="softmax looks at all units"):
        hypernetworks.merge([tmp_path / "a.pt"] * 2, tmp_path / "b.pt")


def test_requests_that_cannot_be_meant_are_refused(tmp_path, style):
    a, b = tmp_path / "a.pt", tmp_path / "b.pt"
    hypernetwork(a, [8], [1, 2, 1])
    for call, error, why in [
        (lambda: hypernetworks.merge([a], b), UsageError, "two hypernetworks"),
        (lambda: hypernetworks.merge([a], b), UsageError, "two hypernetworks"),
        (lambda: hypernetworks.merge([a, a], b, method="mean"), UnknownName, "mean"),
        (lambda: hypernetworks.scale(a, b, float("nan")), UsageError, "finite"),
        (lambda: hypernetworks.scale(a, tmp_path / "b.bin", 2), UsageError, "written as .bin"),
        (lambda: hypernetworks.scale(a, b, 2, to="kohya"), NotAnAdapter, "kohya"),
        (lambda: hypernetworks.scale(a, a, 2), UsageError, "the source itself"),
        (lambda: hypernetworks.merge([style, a], b), NotAnAdapter, "a LoRA, and not a hypernetwork"),
    ]:
        with pytest.raises(error, match=why):
            call()
    b.write_bytes(b"mine")
    with pytest.raises(OutputExists):
        hypernetworks.scale(a, b, 2)
    assert hypernetworks.scale(a, b, 2, force=True).target.path == str(b)


def test_the_command_line_scales_and_merges(tmp_path, cli, request):
    hypernetwork(tmp_path / "a.pt", [320], [1, 0.125, 1], "relu")
    done = cli("hypernetwork", "scale", tmp_path / "a.pt", "0.5", "-o", tmp_path / "b.pt", "--json")
    schema = json.loads((request.config.rootpath / "schemas" / "conversion.schema.json").read_text("utf-8"))
    jsonschema.validate(json.loads(done.out), schema)
    assert json.loads(done.out)["command"] == "hypernetwork scale"
    negative = json.loads(cli("hypernetwork", "scale", tmp_path / "a.pt", "-1", "-o", tmp_path / "n.pt", "--json").out)
    assert {entry["reason"] for entry in negative["entries"]} == {None, "× -1"}
    shown = cli("hypernetwork", "merge", tmp_path / "a.pt", f"{tmp_path / 'b.pt'}:-2", "-o", tmp_path / "c.safetensors")
    assert (shown.status, "ledger  compute 16" in shown.out) == (0, True)
    assert float(loaded_change(tmp_path / "c.safetensors", tmp_path).abs().max()) < 1e-6
    wrong = cli("hypernetwork", "merge", f"{tmp_path / 'a.pt'}:much", tmp_path / "b.pt", "-o", tmp_path / "d.pt")
    assert (wrong.status, "'much' is no weight such as 0.7" in wrong.err) == (2, True)


def loaded_change(path, folder):
    """What the keys' net changes, in A1111's own module."""
    adapterhub.convert(path, folder / "again.pt", to="a1111")
    return change(loaded(folder / "again.pt")[320][0], 320)


def test_a_file_with_a_colon_in_its_name_is_taken_whole(tmp_path, cli):
    hypernetwork(tmp_path / "a.pt", [320], [1, 1])
    (tmp_path / "a.pt").rename(tmp_path / "a:2")
    done = cli("hypernetwork", "merge", tmp_path / "a:2", tmp_path / "a:2", "-o", tmp_path / "c.pt", "--json")
    assert {entry["reason"] for entry in json.loads(done.out)["entries"]} == {"merged × 1"}
