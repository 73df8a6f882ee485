"""Where the golden embeddings are, what they can be converted to, and how files are read with nothing of ours."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file

from tests.files.pictures import strips_by_hand

FIXTURES = Path(__file__).parents[2] / "fixtures"
MANIFEST = json.loads((FIXTURES / "embedding/manifest.json").read_text("utf-8"))
CRANE = FIXTURES / "embedding/a1111/sd1.pt"

TARGETS = [("a1111", ".pt"), ("a1111-image", ".png"), ("a1111-image", ".webp"), ("diffusers", ".safetensors"),
           ("diffusers", ".bin"), ("kohya", ".safetensors"), ("kohya", ".pt")]  # fmt: skip


def stored(path: Path) -> dict[str, torch.Tensor]:
    """The vectors of a file (or of diffusers' folder for SDXL) by the name of their place, read with nothing of ours."""
    if path.is_dir():
        return {f"{file.name}:{name}": tensor for file in path.iterdir() for name, tensor in stored(file).items()}
    if path.suffix == ".safetensors":
        return load_file(path)
    if path.suffix in (".png", ".webp"):
        with Image.open(path) as image:
            tree = json.loads(strips_by_hand(image.convert("RGB")))
        return {"string_to_param.*": torch.tensor(tree["string_to_param"]["*"]["TORCHTENSOR"], dtype=torch.float32)}
    tree = torch.load(path, map_location="cpu", weights_only=True)
    return {"string_to_param.*": tree["string_to_param"]["*"]} if "string_to_param" in tree else tree
