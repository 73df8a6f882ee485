"""A remote file read in parts is the same bytes, from few requests, with an end to them."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

import adapterhub
from adapterhub.errors import AdapterhubError, MalformedFile, NeedsDownload, RefusedInput, Unreachable
from adapterhub.hub import ranges, transport
from adapterhub.hub.ranges import Ranges

DATA = bytes(np.random.default_rng(1).integers(0, 256, 3000, np.uint8))
ORDINARY = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@ORDINARY
@given(st.lists(st.tuples(st.integers(0, 2999), st.integers(0, 900)), max_size=8), st.integers(1, 700))
def test_any_parts_in_any_order_are_those_of_the_file(hub, elsewhere, monkeypatch, spans, block):
    monkeypatch.setattr(ranges, "BLOCK", block)
    elsewhere.repos["plain"] = {"/x": DATA}
    content = Ranges(f"{elsewhere.url}/x")
    assert content.size == len(DATA)
    for start, length in spans:
        end = min(start + length, len(DATA))
        assert content.read(start, end - start) == DATA[start:end]


def sd1(rank):
    """A LoRA of every attention of SD 1 with 4 as its alpha."""
    from adapterhub import architectures

    tensors = {}
    for name, shape in architectures.get("sd1").weights["unet"].items():
        if name.endswith(("to_q", "to_k", "to_v")):
            head = "lora_unet_" + name.replace(".", "_")
            tensors[f"{head}.alpha"] = np.array(4, "f2")
            tensors[f"{head}.lora_down.weight"] = np.zeros((rank, shape[1]), "f2")
            tensors[f"{head}.lora_up.weight"] = np.zeros((shape[0], rank), "f2")
    return save(tensors)


def test_alphas_that_lie_near_each_other_come_together(hub):
    data = sd1(4)
    hub.repos["alice/fox"] = {"x.safetensors": data}
    found = adapterhub.inspect("hf://alice/fox")
    assert found.alphas == {"4": 96}
    assert len(hub.seen) <= 10


def test_alphas_that_lie_too_far_apart_are_left_out_and_that_is_said(hub, monkeypatch):
    monkeypatch.setattr(ranges, "LITTLE", 1000)
    monkeypatch.setattr(ranges, "BLOCK", 1 << 15)
    hub.repos["alice/fox"] = {"x.safetensors": sd1(16)}
    found = adapterhub.inspect("hf://alice/fox")
    assert found.alphas == {}
    assert found.ranks == {"16": 96}
    assert [problem.code for problem in found.problems] == ["alphas-not-read"]
    assert len(hub.seen) <= 5


def test_there_is_an_end_to_what_is_asked_for(hub, elsewhere, monkeypatch):
    monkeypatch.setattr(ranges, "BLOCK", 1)
    elsewhere.repos["plain"] = {"/x": DATA}
    content = Ranges(f"{elsewhere.url}/x")
    with pytest.raises(NeedsDownload):
        [content.read(start, 1) for start in range(0, 3000, 2)]
    assert len(elsewhere.seen) == ranges.REQUESTS


@pytest.mark.parametrize(
    "told",
    [
        "bytes 5-9/3000",
        "bytes 0-9/3001",
        "bytes 0-2/3000",
        "nonsense",
        "bytes 0-9/*",
        "bytes 0-99999999999999999999/3000",
    ],
)
def test_other_bytes_than_were_asked_for_are_refused(hub, elsewhere, told):
    elsewhere.answers["/x"] = (206, {"Content-Range": told}, DATA)
    with pytest.raises((RefusedInput, NeedsDownload)):
        Ranges(f"{elsewhere.url}/x", size=3000).read(0, 10)


def test_a_packed_answer_is_refused(hub, elsewhere):
    elsewhere.answers["/x"] = (206, {"Content-Range": "bytes 0-2999/3000", "Content-Encoding": "gzip"}, DATA)
    with pytest.raises(RefusedInput, match="packed"):
        Ranges(f"{elsewhere.url}/x").read(0, 10)


def test_a_huge_file_that_is_only_told_of_costs_nothing(hub, elsewhere):
    elsewhere.answers["/x.safetensors"] = (
        206,
        {"Content-Range": f"bytes 0-{(1 << 18) - 1}/{10**17}"},
        (1 << 62).to_bytes(8, "little") + bytes(1 << 18),
    )
    with pytest.raises(MalformedFile):
        adapterhub.inspect(f"{elsewhere.url}/x.safetensors")


def test_a_server_that_sends_a_byte_at_a_time_is_given_up(hub, elsewhere, monkeypatch):
    monkeypatch.setattr(transport, "WINDOW", -1)
    monkeypatch.setattr(transport, "PACE", 1 << 20)
    elsewhere.repos["plain"] = {"/x": DATA * 100}
    with pytest.raises(Unreachable, match="slowly"):
        Ranges(f"{elsewhere.url}/x")


@ORDINARY
@given(st.binary(max_size=400))
def test_any_bytes_from_afar_are_an_answer_or_a_refusal(hub, elsewhere, data):
    elsewhere.repos["plain"] = {"/x.safetensors": data, "/x.pt": data}
    for name in ("x.safetensors", "x.pt"):
        assert status(f"{elsewhere.url}/{name}") in (0, 3)


def status(address):
    """The exit status of `inspect`, whose errors are ours."""
    try:
        return 0 * adapterhub.inspect(address).size
    except AdapterhubError as error:
        return error.exit_status
