"""Who is believed, and who contradicts whom."""

import pytest

from adapterhub.registry.facts import ORIGINS, contradictions, disagreements, settled
from adapterhub.registry.facts.bases import architecture
from tests.registry.sidecar_files import facts


def test_the_order_of_belief():
    said = [fact for origin in reversed(ORIGINS) for fact in facts(origin, title=origin)]
    for origin in ORIGINS:
        assert settled(said)["title"].value == origin
        said.pop()


def test_an_unknown_origin_is_believed_least():
    assert settled(facts("oracle", title="a") + facts("guess", title="b"))["title"].value == "b"


def test_a1111_s_coarse_base_model_gives_way_to_a_side_car_but_not_to_a_header():
    said = facts("a1111", base_model="SDXL") + facts("kohya", base_model="sdxl_base_v1-0")
    assert settled(said)["base_model"].origin == "a1111"
    assert settled(said + facts("civitai", base_model="Pony"))["base_model"].value == "Pony"


def test_trigger_words_are_taken_whole_from_the_strongest():
    won = settled(facts("civitai", words=["a", "b"]) + facts("a1111", words=["b"]))["words"]
    assert (won.value, won.origin, won.origins) == (("b",), "a1111", ("a1111",))


def test_tags_are_joined_and_each_keeps_its_origin_unless_a_person_set_them():
    said = facts("civitai", tags=["style", "ink"]) + facts("lora-manager", tags=["Style"])
    won = settled(said)["tags"]
    assert (won.value, won.origins) == (("Style", "ink"), ("lora-manager", "civitai"))
    assert settled(said + facts("user", tags=["mine"]))["tags"].value == ("mine",)


@pytest.mark.parametrize(("one", "other", "disagree"), [
    ({"base_model": "SDXL"}, {"base_model": "Pony"}, False),
    ({"base_model": "SD 1.5"}, {"base_model": "SDXL 1.0"}, True),
    ({"base_model": "SD 1.5"}, {"base_model": "Something New"}, False),
    ({"words": ["a"]}, {"words": ["A", "b"]}, False),
    ({"words": ["a"]}, {"words": ["b"]}, True),
    ({"hash.sha256": "a" * 64}, {"hash.sha256": "b" * 64}, True),
    ({"civitai_model": 1}, {"civitai_model": 2}, True),
    ({"title": "a"}, {"title": "b"}, False),
])  # fmt: skip
def test_disagreements(one, other, disagree):
    said = facts("civitai", **one) + facts("a1111", **other)
    found = disagreements(said)
    assert bool(found) is disagree
    if disagree:
        assert (found[0].field, {fact.origin for fact in found[0].facts}) == (next(iter(one)), {"a1111", "civitai"})
    assert disagreements(facts("user", **one) + facts("a1111", **other)) == []


def test_a_claimed_hash_that_the_file_does_not_have_is_told():
    said = facts("civitai", **{"hash.sha256": "a" * 64, "hash.autov2": "b" * 10, "hash.crc32": "c" * 8})
    assert contradictions(said, {"sha256": "A" * 64, "autov2": "d" * 10, "crc32": None}) == [said[1]]


@pytest.mark.parametrize(("name", "known"), [
    ("SD 1.5 LCM", "SD1"), ("sd_v1", "SD1"), ("stable-diffusion-v1/lora", "SD1"), ("SD 2.1 768", "SD2"),
    ("sdxl_base_v1-0", "SDXL"), ("Illustrious", "SDXL"), ("stable-diffusion-xl-v1-base", "SDXL"), ("flux-1-dev", "Flux"),
    ("Stable Diffusion 1.5", "SD1"), ("SD 3.5 Medium", "SD3"), ("stable-diffusion-3-medium", "SD3"), ("", None),
])  # fmt: skip
def test_the_architecture_of_a_name(name, known):
    assert architecture(name) == known
