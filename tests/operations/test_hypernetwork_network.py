"""The formula: our nets beside A1111's, built from the description of its format in torch's own modules."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from adapterhub.adapter import Kind
from adapterhub.layouts.hypernetwork.structure import Net
from adapterhub.operations.hypernetwork.affine import affine, chained
from adapterhub.operations.hypernetwork.network import Network
from adapterhub.operations.source import open_adapter
from tests.operations.a1111_nets import CLASSES, hypernetwork, pairs, saved

DOUBLE = torch.float64


@contextmanager
def adapter(path: Path):
    with open_adapter(path, kinds=(Kind.HYPERNETWORK,)) as source:
        yield source.adapter


def contexts(width: int, *shape: int) -> torch.Tensor:
    return torch.randn(*(shape or (2, 7)), width, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("activation", ["linear", *CLASSES])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("output", [False, True])
def test_every_structure_does_what_a1111_does(tmp_path, activation, norm, output):
    made = hypernetwork(
        tmp_path / "a.pt", [8, 12], [1, 2, 1.5, 1], activation, norm, output, [0, 0.3, 0, 0], spread=0.5
    )
    with adapter(tmp_path / "a.pt") as held:
        for width, pair in made.items():
            x = contexts(width)
            for half, net in zip("kv", pair, strict=True):
                assert torch.equal(Network(held, Net(width, half))(x, 0.7), net(x, 0.7))


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("activation", ["linear", "relu"])
@pytest.mark.parametrize("norm", [False, True])
def test_skip_connections_do_what_the_extension_does(tmp_path, up, activation, norm):
    layers = [1, 1.5, 0.75, 1]
    made = pairs([8], layers, spread=0.5, activation=activation, norm=norm, up=up)
    saved(tmp_path / "a.pt", made, layers, activation_func=activation, is_layer_norm=norm, skip_connection=True,
          upsample_linear="Linear" if up else None)  # fmt: skip
    with adapter(tmp_path / "a.pt") as held:
        assert torch.equal(Network(held, Net(8, "v"))(contexts(8), 0.7), made[8][1](contexts(8), 0.7))


def test_half_precision_is_computed_in_float32_and_rounded_once(tmp_path):
    made = hypernetwork(tmp_path / "a.pt", [8], [1, 2, 1], "relu")
    x = contexts(8).half()
    with adapter(tmp_path / "a.pt") as held, torch.autocast("cpu", torch.bfloat16):
        found = Network(held, Net(8, "k"))(x)
    assert found.dtype == torch.float16
    assert torch.equal(found, made[8][0](x.float()).half())


@pytest.mark.parametrize("up", [None, False, True])
def test_a_linear_net_is_its_matrix_and_bias(tmp_path, up):
    options = {} if up is None else {"up": up, "activation": "linear", "norm": False}
    made = pairs([8], [1, 2, 1.5, 1], spread=0.5, **options)
    saved(tmp_path / "a.pt", made, [1, 2, 1.5, 1], upsample_linear="Linear" if up else None)
    with adapter(tmp_path / "a.pt") as held:
        found = affine(held, Net(8, "k"), 0.5)
    x = contexts(8, 2, 5).to(DOUBLE)
    wanted = made[8][0].double()(x, 0.5)
    assert torch.allclose(x + x @ found.matrix.T + found.bias, wanted, rtol=0, atol=1e-13)


def test_nets_are_chained_in_order(tmp_path):
    nets = [hypernetwork(tmp_path / f"{seed}.pt", [8], [1, 2, 1], seed=seed, spread=0.5)[8][0] for seed in (1, 2, 3)]
    with adapter(tmp_path / "1.pt") as a, adapter(tmp_path / "2.pt") as b, adapter(tmp_path / "3.pt") as c:
        found = chained(affine(held, Net(8, "k"), m) for held, m in ((a, 0.5), (b, -1.0), (c, 2.0)))
    x = y = contexts(8, 5).to(DOUBLE)
    for net, m in zip(nets, (0.5, -1.0, 2.0), strict=True):
        y = net.double()(y, m)
    assert torch.allclose(x + x @ found.matrix.T + found.bias, y, rtol=0, atol=1e-13)
