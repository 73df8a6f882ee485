"""How many of all modules of a model each reader finds by their names, in every layout that it knows.

The numbers are those of the readers' own functions (ComfyUI and Forge: `model_lora_keys_unet`, `model_lora_keys_clip`,
`load_lora`; A1111: `convert_diffusers_name_to_compvis`), run once over a key for every module; nothing of them is kept here.
"""

from __future__ import annotations

import pytest

import adapterhub.layouts as layouts
from adapterhub.adapter import Kind, Role
from adapterhub.operations.fit.facts import Facts, Piece
from adapterhub.operations.fit.verdicts import readers

ARCHITECTURES = ("sd1", "sd2", "sdxl", "sdxl-refiner")
# reader, layout: modules found of SD 1, SD 2, SDXL and its refiner
FOUND = [
    ("comfyui", "comfyui", (490, 578, 1409, 1002)),
    ("comfyui", "kohya", (463, 529, 1315, 934)),
    ("comfyui", "kohya-diffusers-names", (463, 529, 1315, 934)),
    ("comfyui", "diffusers", (335, 401, 754, 390)),
    ("comfyui", "diffusers-lora-linear", (335, 401, 754, 390)),
    ("comfyui", "diffusers-attn-procs", (176, 220, 736, 352)),
    ("forge", "comfyui", (391, 391, 1050, 742)),
    ("forge", "kohya", (463, 529, 1315, 934)),
    ("a1111", "kohya", (486, 528, 1341, 742)),
    ("a1111", "kohya-diffusers-names", (486, 528, 1337, 739)),
]


def everything(layout: str, architecture: str) -> Facts:
    """A plain LoRA of every module that the layout has a name for."""
    known = layouts.get(layout)
    pieces = [
        Piece("lora", module.component, module.module, frozenset({"alpha-missing"}))
        for module in known.table(architecture).values()
        if Role.DOWN in known.roles(module.component)
    ]
    return Facts(Kind.LORA, layout, architecture, tuple(pieces))


@pytest.mark.parametrize(("reader", "layout", "found"), FOUND)
def test_as_many_modules_are_found_as_the_reader_finds(reader, layout, found):
    told = [
        next(one for one in readers(everything(layout, name)) if one.reader == reader).applied for name in ARCHITECTURES
    ]
    assert tuple(told) == found
