"""Metadata breaks ties and never overrules tensors."""

import pytest

import adapterhub

HEAD = "lora_unet_mid_block_attentions_0_transformer_blocks_0"
SHARED = {f"{HEAD}_attn1_to_q": (1280, 1280)}
"""A module that SD 1, SD 2 and SDXL have alike."""
SD1 = {f"{HEAD}_attn2_to_k": (1280, 768)}
SAYS = [
    ({"modelspec.architecture": "stable-diffusion-v1/lora"}, "sd1"),
    ({"modelspec.architecture": "stable-diffusion-v2-512/lora"}, "sd2"),
    ({"modelspec.architecture": "stable-diffusion-v2-768-v/lora"}, "sd2"),
    ({"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}, "sdxl"),
    ({"ss_base_model_version": "sd_v1"}, "sd1"),
    ({"ss_base_model_version": "sd_v2_768_v"}, "sd2"),
    ({"ss_base_model_version": "sdxl_base_v1-0"}, "sdxl"),
    ({"ss_base_model_version": "sd_1.5"}, "sd1"),
    ({"ss_base_model_version": "sd_2.1"}, "sd2"),
    ({"ss_base_model_version": "sdxl_1.0"}, "sdxl"),
    ({"ss_v2": "True"}, "sd2"),
    ({"ss_v2": "true"}, "sd2"),
    ({"ss_v2": "False"}, "sd1"),
    ({"modelspec.architecture": "stable-diffusion-xl-v1-base/lora", "ss_v2": "True"}, "sdxl"),
]


def codes(found) -> set[str]:
    return {problem.code for problem in found.problems}


@pytest.mark.parametrize(("metadata", "architecture"), SAYS, ids=str)
def test_metadata_decides_where_tensors_fit_several(metadata, architecture, lora):
    found = adapterhub.inspect(lora(SHARED, metadata))
    assert found.architecture == architecture
    assert f"metadata: {architecture}" in found.evidence
    assert codes(found) == set()


@pytest.mark.parametrize(
    "metadata",
    [{}, {"ss_seed": "1"}, {"modelspec.architecture": "flux-1-dev/lora"}, {"ss_base_model_version": "flux1"}],
    ids=str,
)
def test_without_a_vote_the_first_is_taken_and_said_to_be_uncertain(metadata, lora):
    found = adapterhub.inspect(lora(SHARED, metadata))
    assert found.architecture == "sd1"
    (ambiguous,) = [problem for problem in found.problems if problem.code == "ambiguous-architecture"]
    assert ambiguous.severity == "warning"
    assert "sd2, sdxl" in ambiguous.message


@pytest.mark.parametrize(("metadata", "architecture"), SAYS, ids=str)
def test_metadata_never_overrules_what_tensors_tell(metadata, architecture, lora):
    found = adapterhub.inspect(lora(SD1, metadata))
    assert found.architecture == "sd1"
    assert codes(found) == ({"metadata-contradicts"} if architecture != "sd1" else set())


def test_a_contradicted_claim_is_not_carried_into_the_new_file(lora, tmp_path):
    path = lora(SD1, {"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"})
    adapterhub.convert(path, tmp_path / "out.safetensors", to="kohya")
    found = adapterhub.inspect(tmp_path / "out.safetensors")
    assert (found.architecture, found.metadata["modelspec.architecture"]) == ("sd1", "stable-diffusion-v1/lora")
    assert codes(found) == set()


def test_the_mark_of_omi_makes_no_omi_of_kohyas_names(lora):
    assert adapterhub.inspect(lora(SD1, {"ot_branch": "omi_format"})).layout == "kohya"


def test_a_vote_for_an_architecture_that_does_not_fit_does_not_count(lora):
    found = adapterhub.inspect(lora(SHARED, {"modelspec.architecture": "stable-diffusion-xl-v1-refiner/lora"}))
    assert found.architecture == "sd1"
    assert {"ambiguous-architecture", "metadata-contradicts"} <= codes(found)
