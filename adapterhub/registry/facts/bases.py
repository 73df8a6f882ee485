"""Which architecture the name of a base model stands for, whoever wrote it: Civitai's "Pony" and A1111's "SDXL" are one."""

from __future__ import annotations

import re

_BEGINNINGS = (
    ("SD1", "sd1 sd14 sd15 sdv1 stablediffusion1 stablediffusionv1 stablediffusion14 stablediffusion15"),
    ("SD2", "sd2 sd20 sd21 sdv2 stablediffusion2 stablediffusionv2"),
    ("SD3", "sd3 sd35 stablediffusion3 stablediffusionv3"),
    ("SDXL", "sdxl pony illustrious noobai stablediffusionxl playgroundv2 animagine"),
    ("Flux", "flux"),
)
"""A1111's and Forge's names of architectures (`network.SdVersion`), and how names of base models begin that are of them:
Civitai's `baseModel`, Kohya's `ss_base_model_version`, ModelSpec's `architecture`. The longest beginning decides."""
_OTHERS = ("ponyv7", "flux2")
"""What begins like one of these, and is another architecture."""
_BY_LENGTH = sorted(
    [(beginning, name) for name, beginnings in _BEGINNINGS for beginning in beginnings.split()]
    + [(beginning, None) for beginning in _OTHERS],
    key=lambda row: -len(row[0]),
)  # fmt: skip


def architecture(base_model: str) -> str | None:
    """SD1, SD2, SD3, SDXL or Flux; None for what is none of these or not known."""
    plain = re.sub(r"[^a-z0-9]", "", base_model.lower())
    return next((name for beginning, name in _BY_LENGTH if plain.startswith(beginning)), None)
