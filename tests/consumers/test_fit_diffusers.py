"""What `compatible` foretells of diffusers is what diffusers does, layout by layout and algorithm by algorithm."""

from __future__ import annotations

import warnings

import pytest
from peft.tuners.lora import LoraLayer

from adapterhub.operations.fit.rules import table
from tests.consumers.fit_files import LAYOUTS, PARTS, in_attention, in_layout, made, verdict
from tests.consumers.test_readers_diffusers import deltas_of, pipeline

CASES = [(name, algorithm) for name in ("sd1", "sdxl") for algorithm in PARTS] + [("sdxl-refiner", "lora")]


def loaded(bench, architecture: str, path) -> int | str:
    """How many modules diffusers adapts, or the error."""
    models = bench.models(architecture)
    where = (str(path), None) if path.is_dir() else (str(path.parent), path.name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            pipeline(models).load_lora_weights(where[0], weight_name=where[1])
        except (ValueError, KeyError, OSError, AttributeError) as error:
            return type(error).__name__
    return len(bench.layers(models, (LoraLayer,)))


@pytest.mark.parametrize(("architecture", "algorithm"), CASES)
def test_diffusers_loads_as_many_modules_as_foretold(bench, architecture, algorithm, tmp_path):
    source = made(bench, architecture, algorithm, tmp_path)
    asked = 0
    for layout in LAYOUTS:
        if layout == "kohya-diffusers-names" and not architecture.startswith("sdxl"):
            continue  # the same as kohya there
        if path := in_layout(source, layout, architecture, tmp_path / layout):
            told, found = verdict(path, architecture, "diffusers"), loaded(bench, architecture, path)
            assert (told.status == "refused") == isinstance(found, str), (layout, told, found)
            assert isinstance(found, str) or found == told.applied, (layout, told)
            asked += 1
    assert asked >= 3


def test_the_modules_whose_alpha_diffusers_takes_from_others_are_those_foretold(bench):
    source = bench.kohya("sd1", rank=lambda number, module: 4)
    models = bench.models("sd1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the pattern that fits no module is the defect
        pipeline(models).load_lora_weights(str(source.parent), weight_name=source.name)
    wrong = bench.far(deltas_of(bench.layers(models, (LoraLayer,))), bench.changes(source, "sd1"))
    told = verdict(source, "sd1", "diffusers")
    assert (told.status, [reason.code for reason in told.reasons]) == ("misread", ["alpha-of-others"] * 2)
    assert sum(reason.modules for reason in told.reasons) == len(wrong) == 50
    assert all(module.component == "text_encoder" or in_attention(module) for module in wrong)


def test_a_dora_of_kohyas_layout_is_a_plain_lora_to_diffusers(bench, tmp_path):
    source = made(bench, "sd1", "dora", tmp_path)
    told = verdict(source, "sd1", "diffusers")
    models = bench.models("sd1")
    pipeline(models).load_lora_weights(str(source.parent), weight_name=source.name)
    assert [reason.code for reason in told.reasons] == ["magnitude-unread"]
    assert not any(layer.lora_magnitude_vector for layer in bench.layers(models, (LoraLayer,)).values())


def test_the_rules_are_those_of_the_version_at_hand():
    import diffusers

    assert next(reader.title for reader in table().readers if reader.name == "diffusers") in (
        f"diffusers {diffusers.__version__.rpartition('.')[0]}"
    )
