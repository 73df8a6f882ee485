"""What looks like an adapter and is none: named by what its keys say, so that a refusal can say what the file is."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from adapterhub.adapter import Kind


class Foreign(NamedTuple):
    """A family of files; `pattern` finds one of its keys."""

    kind: Kind
    code: str
    title: str
    pattern: re.Pattern[str]


# Asked in order; formats/lora.md §1.16, §1.17 and formats/embeddings-hypernetworks-checkpoints.md §0.
FAMILIES = tuple(
    Foreign(kind, code, title, re.compile(pattern))
    for kind, code, title, pattern in (
        (Kind.UNKNOWN, "control-lora", "a control-LoRA (a ControlNet)", r"lora_controlnet$"),
        (Kind.UNKNOWN, "controlnet-lllite", "a ControlNet-LLLite", r"lllite_"),
        (Kind.UNKNOWN, "ip-adapter", "an IP-Adapter", r"(ip_adapter|image_proj)\."),
        (Kind.UNKNOWN, "controlnet", "a ControlNet", r"(control_model\.|controlnet_cond_embedding\.|controlnet_down_blocks\.|controlnet_blocks\.)"),
        (Kind.UNKNOWN, "custom-diffusion", "a Custom Diffusion file", r".*\.to_\w+_custom_diffusion\."),
        (Kind.UNKNOWN, "optimizer-state", "the state of an optimizer, as A1111 keeps it beside a hypernetwork or an embedding", r"optimizer_state_dict\."),
        (Kind.UNKNOWN, "undo", "an undo file of a merge, which unmerge --undo takes", r"(change|head)\.\d+$"),
        (Kind.CHECKPOINT, "sd3", "a model of Stable Diffusion 3", r"(model\.diffusion_model\.)?joint_blocks\.\d+\.(x|context)_block\.attn\.qkv\.weight$"),
        (Kind.CHECKPOINT, "flux", "a model of Flux", r"(model\.diffusion_model\.)?double_blocks\.\d+\.(img|txt)_attn\.qkv\.weight$"),
        (Kind.CHECKPOINT, "checkpoint", "a whole checkpoint", r"(model\.diffusion_model|first_stage_model|cond_stage_model|conditioner\.embedders)\.(?!.*(lora|hada_|lokr_|\.alpha$))"),
        (Kind.CHECKPOINT, "diffusers-model", "a diffusers model", r"(down_blocks|up_blocks|mid_block|conv_in|conv_out|time_embedding|encoder|decoder|text_model)\.(?!.*lora)(.*\.)?(weight|bias)$"),
    )
)  # fmt: skip


def family_of(names: Iterable[str]) -> Foreign | None:
    """The first family that one of the keys belongs to."""
    keys = list(names)
    return next((family for family in FAMILIES if any(family.pattern.match(key) for key in keys)), None)
