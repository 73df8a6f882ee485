"""Whatever LyCORIS makes for a layer fits that layer's weight, and does not fit one that is longer."""

from __future__ import annotations

import pytest
from lycoris.modules.boft import ButterflyOFTModule
from lycoris.modules.diag_oft import DiagOFTModule
from lycoris.modules.glora import GLoRAModule
from lycoris.modules.ia3 import IA3Module
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from torch import nn

from adapterhub.adapter import Role
from adapterhub.operations.lora.deltas import delta, lazy
from adapterhub.operations.lora.shapes import unfit

LAYERS = {
    "linear": lambda: nn.Linear(24, 16),
    "wider": lambda: nn.Linear(16, 32, bias=False),
    "square": lambda: nn.Linear(16, 16),
    "1×1": lambda: nn.Conv2d(24, 16, 1),
    "3×3": lambda: nn.Conv2d(24, 16, 3),
    "square 3×3": lambda: nn.Conv2d(16, 16, 3),
    "few channels": lambda: nn.Conv2d(4, 32, 3),
}
DORA = {"weight_decompose": True, "wd_on_out": True}
DORA_ON_INPUT = {"weight_decompose": True, "wd_on_out": False}
MADE = [
    *[(LoConModule, more) for more in ({}, {"use_tucker": True}, DORA, DORA_ON_INPUT, {**DORA, "use_tucker": True})],
    *[(LohaModule, more) for more in ({}, {"use_tucker": True}, DORA, DORA_ON_INPUT)],
    *[(LokrModule, more) for more in (
        {}, {"factor": 2}, {"factor": 4, "decompose_both": True}, {"use_tucker": True, "decompose_both": True},
        {"full_matrix": True}, DORA, DORA_ON_INPUT)],
    (GLoRAModule, {}), (ButterflyOFTModule, {}), (ButterflyOFTModule, {"rescaled": True}),
    (DiagOFTModule, {}), (DiagOFTModule, {"rescaled": True}), (IA3Module, {}), (IA3Module, {"train_on_input": True}),
]  # fmt: skip
ROLES = {
    **{str(role): role for role in Role},
    **{f"{role}.weight": role for role in Role},
    "weight": Role.IA3_WEIGHT,
}


@pytest.mark.parametrize("rank", [2, 4])
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(("algorithm", "options"), MADE, ids=lambda given: getattr(given, "__name__", None))
def test_what_lycoris_makes_for_a_layer_fits_its_weight(algorithm, options, layer, rank):
    base = LAYERS[layer]()
    module = algorithm("x", base, 1.0, rank, 1, **options)
    stored = {ROLES[name]: value for name, value in (module.custom_state_dict() or module.state_dict()).items()}
    tensors = {role: lazy(value, "I64" if role is Role.ON_INPUT else "F32") for role, value in stored.items()}
    assert unfit(tensors, tuple(base.weight.shape)) == []
    assert delta(tensors).apply(base.weight).shape == base.weight.shape
    rows, columns, *kernel = base.weight.shape
    assert unfit(tensors, (rows + 1, columns + 1, *kernel))
