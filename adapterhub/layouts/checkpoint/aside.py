"""What stands in checkpoints beside the weights of the model, classed by name.

Sources: CompVis `ldm/models/diffusion/ddpm.py` (schedule), `ldm/modules/ema.py` (names without dots); open_clip; ComfyUI
`comfy/supported_models.py` (`v_pred`, `ztsnr`, `edm_…`); Lightning's checkpoints; lllyasviel/ControlNet.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import NamedTuple

from adapterhub.adapter import Key, Role
from adapterhub.tensors import FLOATS, LazyTensor, Shape, from_bytes, values

ASIDE = "aside"
"""The component of what is kept aside; its module is its name in a single file."""
MARKER = "marker"
"""The class of what tells readers how the model is to be sampled."""
POSITIONS = re.compile(r"(.*\.)?position_ids")
"""0, 1, 2 … for every text encoder; no model learns them, and old converters cast them."""
_MOST = 1 << 16
"""More than any text encoder has."""
_NUMBERS = FLOATS | {"I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64"}
"""Dtypes that position ids may have come to have."""


class Extra(NamedTuple):
    """A class of tensors: `neutral` if no image depends on them."""

    name: str
    pattern: re.Pattern[str]
    neutral: bool


EXTRAS = tuple(
    Extra(name, re.compile(pattern), neutral)
    for name, pattern, neutral in (
        ("ema", r"(model_ema|ema(_state_dict)?|state_dict_ema)\..*", True),
        ("optimizer", (r"(((model_)?state_dict|module|model)\.)*(optimizer(_states?|_state_dict)?|lr_schedulers?|callbacks|loops)"
                      r"\..*"), True),
        ("schedule", (r"(denoiser\.sigmas|logvar|scale_factor|betas|(sqrt_|log_)?(one_minus_|recip_|recipm1_)?alphas_cumprod"
                     r"(_prev)?|posterior_(variance|log_variance_clipped|mean_coef[12]))"), True),
        ("position-ids", POSITIONS.pattern, True),
        (MARKER, r"v_pred|ztsnr|edm_vpred\.sigma_(min|max)|edm_mean|edm_std", False),
        ("unused-text", (r"(cond_stage_model|conditioner\.embedders\.\d)\.(model\.)?(logit_scale|text_projection|attn_mask"
                        r"|transformer\.resblocks\.\d+\..*|transformer\.text_projection\.weight)"), True),
        ("training", r"(.*\.)?(loss|perceptual_loss|discriminator)\..*|epoch|global_step", True),
        ("foreign", r".*", False),
    )
)  # fmt: skip
"""The first whose pattern fits counts."""


def extra_of(name: str) -> Extra:
    """The class of a tensor that is no weight."""
    return next(extra for extra in EXTRAS if extra.pattern.fullmatch(name))


def aside(name: str) -> Key:
    """The key of a tensor that is kept aside."""
    return Key(ASIDE, name, Role.ASIDE)


def are_positions(held: Key) -> bool:
    """Whether a key is that of position ids."""
    return held.component == ASIDE and POSITIONS.fullmatch(held.module) is not None


def are_out_of_order(ids: LazyTensor) -> bool:
    """Whether whole numbers are not 0, 1, 2 …; what no text encoder has so many of is not read."""
    return ids.dtype == "I64" and ids.size <= _MOST and ids.read() != positions(ids.shape).read()


def are_in_order(ids: LazyTensor) -> bool:
    """Whether numbers of any dtype are known to be 0, 1, 2 …"""
    import numpy as np

    if ids.size > _MOST or ids.dtype not in _NUMBERS:
        return False
    return bool(np.array_equal(values(ids).ravel(), np.arange(ids.size)))


def positions(shape: Shape) -> LazyTensor:
    """Position ids of `shape` as they have to be."""
    import numpy as np

    return from_bytes("I64", shape, np.arange(math.prod(shape), dtype="<i8").tobytes())


def weights_of(keys: Iterable[Key]) -> list[Key]:
    """The keys that are weights of the model."""
    return [key for key in keys if key.component != ASIDE]
