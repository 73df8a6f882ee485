"""ModelSpec 1.0.1 and Kohya's fields as tables: which must be there, and what their values look like.

Sources: Stability-AI/ModelSpec (README, "Specification"); Kohya's `library/sai_model_spec.py` and `train_network.py`, which
writes every value as Python prints it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime

PREFIX = "modelspec."
MUST = ("sai_model_spec", "architecture", "implementation", "title")
MUST_OF_A_MODEL = ("resolution",)
"""Adapters and components may leave it off."""
SHOULD = ("description", "author", "date", "hash_sha256")
CAN = (
    "implementation_version license usage_hint thumbnail tags merged_from trigger_phrase prediction_type timestep_range "
    "encoder_layer preprocessor is_negative_embedding unet_dtype vae_dtype resolution category"
).split()
KNOWN = frozenset({*MUST, *MUST_OF_A_MODEL, *SHOULD, *CAN})
OF_TEXT_MODELS = frozenset({"data_format", "format_type", "language", "format_template"})

Rule = Callable[[str], str | None]
"""What is wrong with a value, completing "is …"; None for nothing."""


def _like(pattern: str, what: str) -> Rule:
    compiled = re.compile(pattern)
    return lambda text: None if compiled.fullmatch(text) else f"no {what}"


def _date(text: str) -> str | None:
    if re.fullmatch(r"\d{4}(-\d{2})?", text):
        return None
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return "no date by ISO 8601 such as 2026-01-31T12:00:00"
    return None


def _range(text: str) -> str | None:
    found = re.fullmatch(r"(\d{1,6}),(\d{1,6})", text)
    return None if found and int(found[1]) <= int(found[2]) else "no range of timesteps such as 500,999"


def _not_empty(text: str) -> str | None:
    return None if text.strip() else "empty"


FORMATS: dict[str, Rule] = {
    "sai_model_spec": _like(r"\d+(\.\d+){1,2}", "version such as 1.0.1"),
    "architecture": _like(r"[\w.-]+(/[\w.-]+)?", "id such as stable-diffusion-xl-v1-base/lora"),
    "implementation": _not_empty,
    "title": _not_empty,
    "date": _date,
    "hash_sha256": _like(r"0x[0-9a-f]{64}", "0x and 64 hexadecimal digits in lower case"),
    "resolution": _like(r"[1-9]\d{0,5}x[1-9]\d{0,5}", "width and height such as 1024x1024"),
    "prediction_type": _like(r"epsilon|v", "epsilon or v"),
    "timestep_range": _range,
    "encoder_layer": _like(r"-?\d{1,3}", "number of a layer"),
    "is_negative_embedding": _like(r"true|false", "true or false"),
}


def _number(of: Callable[[str], object], what: str) -> Rule:
    def rule(text: str) -> str | None:
        try:
            of(text)
        except ValueError:
            return f"no {what}"
        return None

    return rule


def _json(text: str) -> str | None:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return "no JSON"
    return None


_INT, _FLOAT = _number(int, "whole number"), _number(float, "number")
_BOOL = _like(r"True|False", "True or False")
_TYPES: tuple[tuple[Rule, str], ...] = (
    (_INT, ("batch_size_per_device clip_skip epoch gradient_accumulation_steps max_token_length max_train_steps "
           "num_batches_per_epoch num_epochs num_reg_images num_train_images num_validation_images seed steps total_batch_size")),
    (_FLOAT, ("learning_rate text_encoder_lr unet_lr training_started_at training_finished_at max_grad_norm min_snr_gamma "
             "network_alpha lr_warmup_steps noise_offset adaptive_noise_scale caption_dropout_rate prior_loss_weight network_dropout")),
    (_BOOL, ("v2 cache_latents gradient_checkpointing full_fp16 lowram shuffle_caption color_aug flip_aug random_crop "
            "enable_bucket zero_terminal_snr")),
    (_json, "bucket_info dataset_dirs datasets network_args reg_dataset_dirs tag_frequency"),
)  # fmt: skip
KOHYA: dict[str, Rule] = {f"ss_{name}": rule for rule, names in _TYPES for name in names.split()}
NOTHING = ("None", "", "Dynamic")
"""What Kohya writes where there is no value, and its `resize_lora.py` where there are several."""
