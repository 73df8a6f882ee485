"""metadata --lint: ModelSpec's rules, each broken once."""

import base64
from io import BytesIO

import pytest
from PIL import Image

import adapterhub
from adapterhub import files
from adapterhub.adapter import Kind
from adapterhub.operations.header.lint import Facts, linted

RIGHT = {
    "modelspec.sai_model_spec": "1.0.1", "modelspec.architecture": "stable-diffusion-v1/lora", "modelspec.title": "Fox",
    "modelspec.implementation": "diffusers", "modelspec.description": "A fox.", "modelspec.author": "joe",
    "modelspec.date": "2024-01-31T12:00:00", "modelspec.hash_sha256": "0x" + "ab" * 32, "sshs_model_hash": "ab" * 32,
    "ss_network_dim": "4", "ss_epoch": "10", "ss_v2": "False", "ss_clip_skip": "None", "ss_tag_frequency": "{}",
}  # fmt: skip
LORA = Facts(Kind.LORA, "sd1", frozenset({4}), "ab" * 32)


def uri(side: int) -> str:
    out = BytesIO()
    Image.new("RGB", (side, 8)).save(out, "PNG")
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"


def test_a_header_that_is_right_has_no_problem():
    assert linted(RIGHT | {"modelspec.thumbnail": uri(256)}, LORA) == []


SPEC = "modelspec."
BROKEN = [
    ({"modelspec.title": None}, "error", "modelspec-missing", "modelspec.title"),
    ({"modelspec.author": None}, "warning", "modelspec-advised", "modelspec.author"),
    ({"modelspec.title": " "}, "error", "modelspec-format", "modelspec.title"),
    ({"modelspec.sai_model_spec": "sai_1"}, "error", "modelspec-format", "modelspec.sai_model_spec"),
    ({"modelspec.date": "31.1.2024"}, "error", "modelspec-format", "modelspec.date"),
    ({"modelspec.hash_sha256": "ab" * 32}, "error", "modelspec-format", "modelspec.hash_sha256"),
    ({"modelspec.hash_sha256": "0x" + "cd" * 32}, "error", "untrue-hash", "modelspec.hash_sha256"),
    ({"sshs_model_hash": "cd" * 32}, "error", "untrue-hash", "sshs_model_hash"),
    ({"sshs_model_hash": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}, "error", "untrue-hash", "sshs_model_hash"),
    ({"modelspec.resolution": "512"}, "error", "modelspec-format", "modelspec.resolution"),
    ({"modelspec.prediction_type": "v_prediction"}, "error", "modelspec-format", "modelspec.prediction_type"),
    ({"modelspec.timestep_range": "999,0"}, "error", "modelspec-format", "modelspec.timestep_range"),
    ({"modelspec.is_negative_embedding": "yes"}, "error", "modelspec-format", "modelspec.is_negative_embedding"),
    ({"modelspec.architecture": "stable-diffusion-v1-lora"}, "error", "modelspec-kind", "modelspec.architecture"),
    ({"modelspec.architecture": "stable-diffusion-v1/textual-inversion"}, "error", "modelspec-kind", "modelspec.architecture"),
    ({"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}, "error", "metadata-contradicts", "modelspec.architecture"),
    ({"ss_network_dim": "8"}, "error", "metadata-contradicts", "ss_network_dim"),
    ({"modelspec.colour": "red"}, "warning", "modelspec-unknown-field", "modelspec.colour"),
    ({"modelspec.language": "en"}, "warning", "modelspec-other-kind", "modelspec.language"),
    ({"modelspec.thumbnail": "x"}, "error", "modelspec-thumbnail", "modelspec.thumbnail"),
    ({"modelspec.thumbnail": uri(300)}, "warning", "modelspec-thumbnail-large", "modelspec.thumbnail"),
    ({"ss_epoch": "many"}, "warning", "kohya-type", "ss_epoch"),
    ({"ss_v2": "0"}, "warning", "kohya-type", "ss_v2"),
    ({"ss_unet_lr": "1e-4x"}, "warning", "kohya-type", "ss_unet_lr"),
    ({"ss_tag_frequency": "{"}, "warning", "kohya-type", "ss_tag_frequency"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "severity", "code", "where"), BROKEN, ids=lambda value: str(value)[:40])
def test_each_rule_is_told_where_it_is_broken(change, severity, code, where):
    fields = {name: text for name, text in (RIGHT | change).items() if text is not None}
    found = {(one.severity, one.code, one.where) for one in linted(fields, LORA)}
    assert (severity, code, where) in found
    assert len([one for one in found if one[0] == "error"]) == (severity == "error") + (
        change.get("modelspec.architecture") == "stable-diffusion-v1-lora")  # fmt: skip


def test_an_architecture_that_nobody_knows_is_odd_and_wrong_where_the_tensors_fit_another():
    fields = RIGHT | {"modelspec.architecture": "stable-diffusion-v9/lora"}
    assert [one.code for one in linted(fields, Facts(Kind.LORA))] == ["modelspec-unknown-architecture"]
    assert [one.code for one in linted(fields, LORA)] == ["metadata-contradicts", "modelspec-unknown-architecture"]


def test_a_whole_model_must_say_its_resolution():
    fields = RIGHT | {"modelspec.architecture": "stable-diffusion-v1"}
    (found,) = linted(fields, Facts(Kind.CHECKPOINT, "sd1"))
    assert (found.code, found.where) == ("modelspec-missing", "modelspec.resolution")
    assert linted(fields | {"modelspec.resolution": "512x512"}, Facts(Kind.CHECKPOINT, "sd1")) == []


def test_a_header_without_modelspec_has_one_error_and_no_more():
    assert [one.code for one in linted({"ss_epoch": "1"}, LORA)] == ["modelspec-absent"]


def test_what_convert_writes_is_right_but_for_what_only_a_person_knows(style, tmp_path):
    made = tmp_path / "made.safetensors"
    adapterhub.convert(style, made, to="kohya-diffusers-names")
    found = adapterhub.metadata(made, lint=True, hash=True)
    assert found.valid
    assert [one.where for one in found.problems if one.severity == "error"] == []
    digest = files.data_sha256(made)
    adapterhub.metadata(
        made, set={"modelspec.author": "joe", "modelspec.description": "d", "modelspec.date": "2024-01-31"}
    )
    found = adapterhub.metadata(made, lint=True, hash=True)
    assert (found.valid, found.fields["modelspec.hash_sha256"]) == (True, f"0x{digest}")
