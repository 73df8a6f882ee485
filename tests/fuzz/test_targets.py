"""A fuzz target is worth its time if it reaches what lies behind the first check."""

import random
from collections.abc import Callable

import pytest

from tests.fuzz.seeds import SEEDS, WORDS, seeds
from tests.fuzz.targets import TARGETS


def accepted(name: str, content: bytes) -> bool:
    """Whether a target reads these bytes; only a rule may refuse them."""
    try:
        return TARGETS[name].read(content)
    except TARGETS[name].refuses:
        return False


def test_every_target_has_seeds_and_words() -> None:
    assert TARGETS.keys() == SEEDS.keys() == WORDS.keys()


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_reads_some_of_its_seeds_and_refuses_the_others_by_a_rule(name: str) -> None:
    assert sum(accepted(name, content) for content in seeds(name))


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "header": lambda part: part + b" ",
    "zip": lambda part: part[::-1],
    "png": lambda part: part.replace(b"265", b"266"),
    "webp": lambda part: part + b"NOTE\2\0\0\0ab",
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_changed_inside_of_a_file_is_mended_around_it(name: str) -> None:
    content = next(content for content in seeds(name) if accepted(name, content))
    made = {TARGETS[name].mutate(content, CHANGES[name], random.Random(number)) for number in range(40)}
    assert any(accepted(name, changed) for changed in made - {content})
