"""What `compatible` foretells of embeddings in diffusers is what diffusers does."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.consumers.fit_files import verdict
from tests.consumers.test_embeddings import FIXTURES, sd1, words

__all__ = ["sd1", "words"]
FILES = [
    "a1111/sd1.pt", "a1111-image/sd1.png", "diffusers/sd1.safetensors", "diffusers/sd1.bin", "diffusers/sd1-flat.bin",
    "diffusers/sd1-numbered.bin", "diffusers/sd1.ti.pt", "kohya/sd1-easy.safetensors", "kohya/sd1.safetensors", "ldm/sd1.pt",
    "ldm/sd1-several.pt", "raw/sd1.pt",
]  # fmt: skip


def known_tokens(pipeline, path: Path) -> set[str] | None:
    """The tokens that diffusers adds for a file; None where it refuses it."""
    before = set(pipeline.tokenizer.get_vocab())
    try:
        pipeline.load_textual_inversion(str(path))
    except Exception:  # noqa: BLE001 - whatever it raises, it does not read the file
        return None
    return set(pipeline.tokenizer.get_vocab()) - before


@pytest.mark.parametrize("name", FILES)
def test_diffusers_reads_an_embedding_as_foretold(sd1, name):
    told, tokens = verdict(FIXTURES / name, "sd1", "diffusers"), known_tokens(sd1, FIXTURES / name)
    assert (told.status == "refused") == (tokens is None)
    if told.status == "misread":
        assert [reason.code for reason in told.reasons] == ["token-unnamed"]
        assert "emb_params" in tokens or "clip_l" in tokens
