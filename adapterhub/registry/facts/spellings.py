"""How side-cars spell what is not spelled plainly: prompts, HTML, JSON in a text, A1111's architectures."""

from __future__ import annotations

import json
import re
from typing import Any

from adapterhub.files import strict_json
from adapterhub.registry.facts.bases import architecture
from adapterhub.registry.facts.fact import Value
from adapterhub.registry.facts.markup import marked, plain
from adapterhub.registry.facts.rows import NoPlace, Spelling

_PROMPT_CHARACTERS = 262_144
_WORD = re.compile(r"(?:\([^()]*\)|[^,|\n]|\|(?!\|))+")
"""What stands between commas, ends of lines, and the "||" that Civitai Helper puts between prompts; commas within round
brackets do not count."""


def words_of(prompt: Any) -> Any:
    """The words of a prompt, or of a list with commas."""
    return _WORD.findall(prompt[:_PROMPT_CHARACTERS]) if isinstance(prompt, str) else prompt


def _prompt(value: Value, old: Any) -> str:
    words = value if isinstance(value, tuple) else (str(value),)
    between = " || " if any(len(_WORD.findall(word)) > 1 for word in words) else ", "
    return between.join(words)


def _text_of_html(found: Any) -> Any:
    return plain(found) if isinstance(found, str) else found


_A1111_BASES = frozenset({"SD1", "SD2", "SD3", "SDXL", "Flux"})


def _a1111_base(value: Value, old: Any) -> str:
    name = architecture(str(value))
    if name not in _A1111_BASES:
        raise NoPlace(f"A1111 has no word for {value!r}")
    return name


def tips(found: Any) -> dict[str, Any]:
    """LoRA Manager's `usage_tips`: an object in a text; an empty one where it is broken, as LoRA Manager takes it."""
    if isinstance(found, dict):
        return found
    try:
        told = strict_json.loads(found[:_PROMPT_CHARACTERS]) if isinstance(found, str) else {}
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _with_strength(value: Value, old: Any) -> str:
    if isinstance(old, str) and old.strip() and not tips(old) and old.strip() != "{}":
        raise NoPlace("its usage_tips are broken")
    return json.dumps(tips(old) | {"strength": value}, ensure_ascii=False)


PROMPT = Spelling(words_of, _prompt)
LIST_OR_PROMPT = Spelling(words_of, lambda value, old: list(value) if isinstance(value, tuple) else [value])
HTML = Spelling(_text_of_html, lambda value, old: marked(str(value)))
TEXT_OR_HTML = Spelling(_text_of_html, lambda value, old: value)
A1111_BASE = Spelling(lambda found: found, _a1111_base)
USAGE_TIPS = Spelling(lambda found: tips(found).get("strength"), _with_strength)
LOWER = Spelling(lambda found: found, lambda value, old: value)
