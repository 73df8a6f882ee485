"""Whole files of torch: large ones, old ones, real ones, and LoRAs that have a twin in safetensors."""

import hashlib
import os
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import adapterhub
from adapterhub import files

OLD = pytest.mark.parametrize("old", [False, True], ids=["zip", "legacy"])


def save(value: object, path: Path, *, old: bool = False, protocol: int = 2) -> Path:
    torch.save(value, path, pickle_protocol=protocol, _use_new_zipfile_serialization=not old)
    return path


def stored(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


SPARSE = """
import re, sys
from pathlib import Path
from adapterhub import files
with files.read(Path(sys.argv[1])) as package:
    print({name: list(tensor.shape) for name, tensor in package.only.tensors.items()})
    print(package.only.tensors["b"].read().hex())
peak = int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])
print(peak < 60 << 10, "torch" in sys.modules, "numpy" in sys.modules)
"""


def write_sparse(path: Path, records: dict[str, bytes | int]) -> None:
    """A stored archive; a number stands for so many zeros, which take no room on the disk."""
    directory = b""
    with path.open("wb") as out:
        for name, content in records.items():
            offset, raw = out.tell(), name.encode()
            size = content if isinstance(content, int) else len(content)
            sizes = struct.pack("<2HQQ", 1, 16, size, size)
            rest = (0, 0, 0, 0, 0 if isinstance(content, int) else zlib.crc32(content), 2**32 - 1, 2**32 - 1, len(raw))
            out.write(b"PK\3\4" + struct.pack("<5H3L2H", 45, *rest, len(sizes)) + raw + sizes)
            if isinstance(content, int):
                out.truncate(out.seek(content, os.SEEK_CUR))
            else:
                out.write(content)
            field = struct.pack("<2HQQQ", 1, 24, size, size, offset)
            entry = struct.pack("<6H3L5H2L", 45, 45, *rest, len(field), 0, 0, 0, 0, 2**32 - 1)
            directory += b"PK\1\2" + entry + raw + field
        at, count = out.tell(), len(records)
        end = b"PK\6\6" + struct.pack("<Q2H2L4Q", 44, 45, 45, 0, 0, count, count, len(directory), at)
        end += b"PK\6\7" + struct.pack("<LQL", 0, at + len(directory), 1)
        out.write(directory + end + b"PK\5\6" + struct.pack("<4H2LH", 0, 0, count, count, len(directory), 2**32 - 1, 0))


def test_a_file_of_four_gigabytes_is_opened_without_reading_it(tmp_path: Path) -> None:
    path = save({"a": torch.zeros(1000), "b": torch.ones(1)}, tmp_path / "x.pt")
    with zipfile.ZipFile(path) as archive:
        pickled = archive.read("x/data.pkl")
    count = (1 << 30) + 8  # float32: beyond 32 bits, so that sizes and offsets are ZIP64's
    pickled = pickled.replace(b"M\xe8\x03", b"J" + struct.pack("<i", count))
    write_sparse(path, {"x/data.pkl": pickled, "x/data/0": 4 * count, "x/data/1": b"\0\0\x80?", "x/version": b"3\n"})
    assert path.stat().st_blocks * 512 < 1 << 20
    out = subprocess.run([sys.executable, "-c", SPARSE, path], capture_output=True, text=True)
    assert out.stdout.splitlines() == [str({"a": [count], "b": [1]}), "0000803f", "True False False"], out.stderr


def test_a_legacy_file_whose_pickle_is_longer_than_the_first_look_is_read(tmp_path: Path) -> None:
    value = {"note": "x" * (3 << 20), "a": torch.arange(5)}
    with files.read(save(value, tmp_path / "x.pt", old=True)) as package:
        assert package.only.tensors["a"].read() == stored(torch.arange(5))


def test_a_legacy_file_of_a_big_endian_machine_is_little_endian_all_the_same(tmp_path: Path) -> None:
    path = save({"a": torch.arange(5)}, tmp_path / "x.pt", old=True)
    path.write_bytes(path.read_bytes().replace(b"little_endianq\x02\x88", b"little_endianq\x02\x89"))
    assert b"\x02\x89" in path.read_bytes()
    assert torch.load(path, weights_only=True)["a"].tolist() == [0, 1, 2, 3, 4]
    with files.read(path) as package:
        assert package.only.tensors["a"].read() == stored(torch.arange(5))


REAL = {
    "Ljzd-PRO__stable-diffusion-embeddings-of-gasai-yuno__gasai_yuno-1000.pt": ("string_to_param.*", (8, 768)),
    "liwilliam2021__cs231n__dgtlv2.pt": ("string_to_param.*", (12, 1024)),
    "fastai__diffusion-nbs__learned_embeds.bin": ("<birb-style>", (768,)),
}


@pytest.mark.parametrize("name", REAL)
def test_real_embeddings_are_opened_and_hold_the_bytes_of_their_archive(real_files: Path, name: str) -> None:
    key, shape = REAL[name]
    with zipfile.ZipFile(real_files / name) as archive, files.read(real_files / name) as package:
        assert list(package.only.tensors) == [key]
        found = package.only.tensors[key]
        assert (found.dtype, found.shape, found.read()) == ("F32", shape, archive.read("archive/data/0"))


def test_the_state_of_random_generators_is_refused_by_the_name_of_its_global(
    real_files: Path, cli: Callable[..., Any]
) -> None:
    outcome = cli("inspect", real_files / "cocopo11__ink-and-wash-textual-inversion__random_states_0.pkl")
    assert (outcome.status, outcome.out) == (3, "")
    assert "numpy.core.multiarray._reconstruct" in outcome.err


LORA = "kohya/sd1-lora.safetensors"


@OLD
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_lora_in_a_pickle_is_inspected_checked_and_converted_like_its_twin(
    tmp_path: Path, old: bool, wrapped: bool
) -> None:
    twin = Path(__file__).parents[2] / "fixtures" / LORA
    state = load_file(twin)
    path = save({"state_dict": state, "epoch": 3} if wrapped else state, tmp_path / "x.ckpt", old=old)
    found, expected = adapterhub.inspect(path, hash=True), adapterhub.inspect(twin, hash=True)
    assert found.container == ("torch-legacy" if old else "torch-zip")
    assert (found.layout, found.architecture, found.ranks, found.alphas) == (
        expected.layout, expected.architecture, expected.ranks, expected.alphas,
    )  # fmt: skip
    assert found.fingerprint == expected.fingerprint
    assert found.hashes is not None
    assert found.hashes.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.hashes.autov3 is None
    assert adapterhub.validate(path).valid
    report = adapterhub.convert(path, tmp_path / "y.safetensors", to="kohya")
    assert report.source.sha256 == found.hashes.sha256
    assert report.max_error == 0
    assert adapterhub.inspect(tmp_path / "y.safetensors", hash=True).fingerprint == expected.fingerprint
