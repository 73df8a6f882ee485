"""Every digest against independent code: hashlib, zlib and blake3 on the whole file, and Kohya's hashes as its trainer makes them."""

import hashlib
import json
import zlib

import pytest
import torch
from blake3 import blake3
from safetensors.torch import save

from adapterhub.documents import Hashes
from adapterhub.files import data_sha256, every_digest

NOTHING = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
EDGE = 1 << 20  # where the window of the oldest hashes begins
BLOCK = 4 << 20  # what is read at once


def a_file(folder, data, name="a.bin"):
    path = folder / name
    path.write_bytes(data)
    return path


def noise(count):
    return (
        torch.randint(0, 256, (count,), dtype=torch.uint8, generator=torch.Generator().manual_seed(count))
        .numpy()
        .tobytes()
    )


def kohya_hashes(tensors, metadata):
    """sd-scripts, library/train_util.py: precalculate_safetensors_hashes, said again."""
    stored = save(tensors, {name: text for name, text in metadata.items() if name.startswith("ss_")})
    data = 8 + int.from_bytes(stored[:8], "little")
    return hashlib.sha256(stored[data:]).hexdigest(), hashlib.sha256(stored[EDGE : EDGE + 0x10000]).hexdigest()[:8]


def as_kohya_saves(tensors, metadata):
    model, legacy = kohya_hashes(tensors, metadata)
    return save(tensors, {**metadata, "sshs_model_hash": model, "sshs_legacy_hash": legacy})


def a_lora(width=96, rank=8):
    generator = torch.Generator().manual_seed(width)
    tensors = {}
    for number in range(8):
        tensors[f"lora_te_{number}.lora_up.weight"] = torch.randn(width, rank, generator=generator).half()
        tensors[f"lora_te_{number}.lora_down.weight"] = torch.randn(rank, width, generator=generator)
        tensors[f"lora_te_{number}.alpha"] = torch.tensor(4.0)
    return tensors


TRAINED = {"ss_network_dim": "8", "ss_output_name": 'naïve\n"七"', "modelspec.title": "x" * 3000, "format": "pt"}


@pytest.mark.parametrize(
    "size", [0, 1, 9, EDGE - 1, EDGE, EDGE + 1, EDGE + 0x10000, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 7]
)
def test_the_digests_of_any_file_are_those_of_its_bytes(tmp_path, size):
    data = noise(size)
    whole = hashlib.sha256(data).hexdigest()
    assert every_digest(a_file(tmp_path, data)) == {
        "sha256": whole,
        "autov1": hashlib.sha256(data[EDGE : EDGE + 0x10000]).hexdigest()[:8],
        "autov2": whole[:10],
        "autov3": None,
        "sshs_model_hash": None,
        "sshs_legacy_hash": None,
        "blake3": blake3(data).hexdigest(),
        "crc32": zlib.crc32(data).to_bytes(4, "big").hex(),
    }


def test_the_names_are_those_of_the_document_in_its_order(tmp_path):
    assert list(every_digest(a_file(tmp_path, b"x"))) == list(Hashes.model_fields)


def test_a_checksum_that_begins_with_zeros_keeps_its_eight_digits(tmp_path):
    number = next(n for n in range(10_000) if zlib.crc32(b"%d" % n) < 1 << 24)
    assert every_digest(a_file(tmp_path, b"%d" % number))["crc32"] == f"{zlib.crc32(b'%d' % number):08x}"


@pytest.mark.parametrize("width", [96, 30_000], ids=["below 1 MiB", "above"])
def test_the_hashes_that_kohya_stores_are_found_again(tmp_path, width):
    data = as_kohya_saves(a_lora(width), TRAINED)
    path = a_file(tmp_path, data)
    stored = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    found = every_digest(path)
    assert found["sshs_model_hash"] == stored["sshs_model_hash"] == data_sha256(path)
    assert found["autov3"] == stored["sshs_model_hash"][:12]
    assert found["sshs_legacy_hash"] == stored["sshs_legacy_hash"]
    assert (found["sshs_legacy_hash"] == NOTHING[:8]) == (len(data) < EDGE)


def test_the_legacy_hash_does_not_depend_on_metadata_that_is_not_kohyas(tmp_path):
    tensors = a_lora(30_000)
    first, second = (every_digest(a_file(tmp_path, as_kohya_saves(tensors, {**TRAINED, "modelspec.title": title})))
                     for title in ("a", "b" * 999))  # fmt: skip
    assert first["sshs_legacy_hash"] == second["sshs_legacy_hash"]
    assert first["sshs_model_hash"] == second["sshs_model_hash"]
    assert first["sha256"] != second["sha256"]
    assert first["autov1"] != second["autov1"]


@pytest.mark.parametrize(
    "metadata", [{}, {"ss_tag_frequency": "y" * EDGE}], ids=["no ss_ fields", "a header beyond 1 MiB"]
)
def test_a_legacy_hash_that_cannot_be_told_is_none(tmp_path, metadata):
    found = every_digest(a_file(tmp_path, save(a_lora(30_000), metadata)))
    assert found["sshs_legacy_hash"] is None
    assert len(found["sshs_model_hash"]) == 64


def test_the_legacy_hash_of_tensors_in_another_order_is_none(tmp_path):
    """The header puts the bytes of b before those of a, which safetensors' own writer never does."""
    entry = {"dtype": "F32", "shape": [1]}
    header = json.dumps({
        "__metadata__": {"ss_network_dim": "1"}, "b": {**entry, "data_offsets": [0, 4]}, "a": {**entry, "data_offsets": [4, 8]},
    }).encode()  # fmt: skip
    path = a_file(tmp_path, len(header).to_bytes(8, "little") + header + bytes(8))
    assert every_digest(path)["sshs_legacy_hash"] is None
    assert every_digest(path)["sshs_model_hash"] == hashlib.sha256(bytes(8)).hexdigest()


def test_a_file_without_tensors_has_the_data_hash_of_nothing(tmp_path):
    assert every_digest(a_file(tmp_path, save({}, {"ss_network_dim": "4"})))["sshs_model_hash"] == NOTHING


def test_a_broken_safetensors_file_still_has_the_digests_of_its_bytes(tmp_path):
    data = save(a_lora())[:-1]
    found = every_digest(a_file(tmp_path, data))
    assert found["sha256"] == hashlib.sha256(data).hexdigest()
    assert found["sshs_model_hash"] is None
