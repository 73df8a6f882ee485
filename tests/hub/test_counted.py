"""What the Hub told of the size of a file holds while it is downloaded: more is stopped, and nothing of it is kept."""

import pytest
from huggingface_hub import constants
from starlette.responses import Response, StreamingResponse

import adapterhub
from adapterhub.errors import RefusedInput, Unreachable
from tests.hub.loopback import Fault, reading

FOX, LORA = "alice/fox", "pytorch_lora_weights.safetensors"
PIECE = bytes(1 << 20)


@pytest.fixture
def fox(hub, style):
    hub.add(FOX, {LORA: style.read_bytes()})
    return hub


def kept(hub):
    return [path for path in hub.home.rglob("*") if path.is_file() and path.stat().st_size > 1000]


def answering(monkeypatch, answer):
    """Whole files are answered so; ranges and HEAD as ever."""
    real = reading._bytes

    def other(request, data, headers):
        return (
            real(request, data, headers)
            if "range" in request.headers or request.method == "HEAD"
            else answer(data, headers)
        )

    monkeypatch.setattr(reading, "_bytes", other)


def test_a_body_without_an_end_is_stopped_at_its_first_piece(fox, tmp_path, monkeypatch):
    async def long():
        for _ in range(40):
            yield PIECE

    answering(monkeypatch, lambda data, headers: StreamingResponse(long(), headers=headers))
    with pytest.raises(RefusedInput, match=f"has {constants.DOWNLOAD_CHUNK_SIZE} bytes, and the Hub told 5546"):
        adapterhub.pull(FOX, tmp_path / "out")
    assert (kept(fox), (tmp_path / "out").exists()) == ([], False)


def test_another_length_is_refused_before_a_byte_is_written(fox, tmp_path, monkeypatch):
    answering(monkeypatch, lambda data, headers: Response(data + b"x", headers=headers))
    with pytest.raises(RefusedInput, match="has 5547 bytes, and the Hub told 5546"):
        adapterhub.pull(FOX, tmp_path / "out")
    assert kept(fox) == []


def test_a_body_that_ends_early_is_no_file(fox, tmp_path, monkeypatch):
    async def short(data):
        yield data[:-1]

    answering(monkeypatch, lambda data, headers: StreamingResponse(short(data), headers=headers))
    with pytest.raises(Unreachable, match="broke off"):
        adapterhub.pull(FOX, tmp_path / "out")
    assert (kept(fox), (tmp_path / "out").exists()) == ([], False)


def test_a_download_that_is_cut_and_gone_on_with_is_counted_once(fox, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    fox.fail(Fault(method="GET", path="/cdn/", cut="within", nth=2))
    adapterhub.pull(FOX, tmp_path / "out")
    assert (tmp_path / "out" / LORA).read_bytes() == fox.files(FOX)[LORA]
    assert fox.requests[-1].range == "bytes=2000-"


def test_a_cache_that_cannot_be_written_is_said(fox, tmp_path, cli):
    (fox.home / "hub").write_bytes(b"")
    done = cli("pull", FOX, "-o", tmp_path / "out")
    assert (done.status, "cannot keep hf://alice/fox" in done.err) == (5, True)
