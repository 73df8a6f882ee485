"""How tools spell a role behind a module's name. One suffix means one role in every layout, so keys split without knowing it.

Sources: formats of LyCORIS (`lycoris/modules`), Kohya (`networks/lora.py`), diffusers (`loaders/`), PEFT
(`tuners/*/layer.py`), A1111 (`extensions-builtin/Lora`), ComfyUI (`comfy/lora.py`).
"""

from __future__ import annotations

from adapterhub.adapter import Role

R = Role

# What LyCORIS stores: its names are our roles' values; a few are modules and end in `.weight`.
_MODULES = {R.DOWN, R.UP, R.MID, R.IA3_WEIGHT, R.GLORA_A1, R.GLORA_A2, R.GLORA_B1, R.GLORA_B2}
_ODD = {R.IA3_WEIGHT: ".weight", R.RESIDUAL: ".bias", R.OFT_R: ".oft_R.weight", R.OFT_SCALED: ".oft_R.scaled_oft"}
_ELSEWHERE = {R.UP_BIAS, R.ADALORA_E, R.IA3_L, R.OFT_TERMS, R.BOFT_R, R.BOFT_S, R.VECTORS,
              R.OUTPUT_VECTORS, R.LAYER_WEIGHT, R.LAYER_BIAS, R.ASIDE}  # fmt: skip

LYCORIS: dict[Role, str] = {
    role: _ODD.get(role, f".{role}.weight" if role in _MODULES else f".{role}") for role in R if role not in _ELSEWHERE
}
"""The suffixes that Kohya, LyCORIS and their readers share."""

_NEVER_WRITTEN = {R.SCALAR, R.SCALE}  # LyCORIS folds the one, only A1111 reads the other
KOHYA: dict[Role, str] = {role: suffix for role, suffix in LYCORIS.items() if role not in _NEVER_WRITTEN}
"""What is written of LYCORIS."""

PEFT_LORA: dict[Role, str] = {
    R.DOWN: ".lora_A.weight", R.UP: ".lora_B.weight", R.UP_BIAS: ".lora_B.bias", R.DORA_SCALE: ".lora_magnitude_vector",
}  # fmt: skip
"""The suffixes of a PEFT LoRA, with or without DoRA."""

PEFT: dict[Role, str] = {
    **PEFT_LORA,
    **{role: f".{role}" for role in (
        R.HADA_W1_A, R.HADA_W1_B, R.HADA_W2_A, R.HADA_W2_B, R.HADA_T1, R.HADA_T2,
        R.LOKR_W1, R.LOKR_W1_A, R.LOKR_W1_B, R.LOKR_W2, R.LOKR_W2_A, R.LOKR_W2_B, R.LOKR_T2,
        R.IA3_L, R.BOFT_R, R.BOFT_S,
    )},
    R.OFT_R: ".oft_R.weight",
    R.ADALORA_E: ".lora_E",
}  # fmt: skip
"""The suffixes of every PEFT method that adapterhub writes."""

LORA_LINEAR = {R.DOWN: ".lora.down.weight", R.UP: ".lora.up.weight"}
LORA_LINEAR_LAYER = {R.DOWN: ".lora_linear_layer.down.weight", R.UP: ".lora_linear_layer.up.weight"}
PROCESSOR = {R.DOWN: ".down.weight", R.UP: ".up.weight"}

READ_ONLY = {
    ".lora_A": R.DOWN, ".lora_B": R.UP, ".lora_magnitude_vector.weight": R.DORA_SCALE, ".magnitude": R.DORA_SCALE,
}  # fmt: skip
"""Suffixes that some writer used and nobody should write again."""

ROLES: dict[str, Role] = {
    **{suffix: role for table in (LYCORIS, PEFT, LORA_LINEAR, LORA_LINEAR_LAYER, PROCESSOR)
       for role, suffix in table.items()},
    **READ_ONLY,
}  # fmt: skip
"""Every suffix that is read, and the role that it means."""
