"""Ways to write a module's path that several layouts share, and the odd ones that are only read.

A spelling takes (component, dotted path) and returns the path as written, or None where it does not apply.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from adapterhub.layouts.lora.keyed import Prefixes, Spelling, Variant

TEXT_ENCODERS = ("text_encoder", "text_encoder_2")


def identity(component: str, path: str) -> str | None:
    """The path itself."""
    return path


def without_text_model(component: str, path: str) -> str | None:
    """CLIP names as transformers ≥ 5.6 has them (`CLIPTextModel` lost a level)."""
    return path.removeprefix("text_model.") if component in TEXT_ENCODERS and path.startswith("text_model.") else None


def bare_to_out(component: str, path: str) -> str | None:
    """`to_out` for `to_out.0`, as the attention processors named it."""
    return path.removesuffix(".0") if path.endswith(".to_out.0") else None


def trailing_underscore(component: str, path: str) -> str | None:
    """A name with an underscore behind it (TheLastBen's trainer; Comfy-Org/ComfyUI#4347)."""
    return path + "_"


def processor(component: str, path: str) -> str | None:
    """`attn1.processor.to_q`, `…to_out`: where diffusers' attention processors kept their LoRA."""
    head, _, leaf = path.rpartition(".to_")
    if component != "unet" or not head.endswith((".attn1", ".attn2")):
        return None
    return f"{head}.processor.to_{leaf.removesuffix('.0')}"


ODD: Mapping[str, Spelling] = {
    "text-model-missing": without_text_model,
    "to-out-without-index": bare_to_out,
}


def variants(
    prefixes: Mapping[str, Prefixes],
    spellings: Mapping[str, Spelling],
    dialects: Mapping[str, Mapping[str, str] | None] | None = None,
) -> Iterator[Variant]:
    """Every combination of a prefix set, a spelling and a dialect, each named by a code ("" is the layout's own)."""
    for prefix_code, prefix in prefixes.items():
        for dialect_code, dialect in (dialects or {"": None}).items():
            for code, spelling in {"": identity, **spellings}.items():
                if name := prefix_code or dialect_code or code:
                    yield Variant(code=name, prefixes=prefix, dialects=dialect, spelling=spelling)
