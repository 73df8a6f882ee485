"""What `compatible` foretells of PEFT is what PEFT does."""

from __future__ import annotations

import shutil
from pathlib import Path

import peft
import pytest
from peft.tuners.tuners_utils import BaseTunerLayer

from adapterhub.operations.fit.rules import table
from tests.consumers.fit_files import LAYOUTS, PARTS, in_layout, made, verdict


def loaded(bench, architecture: str, path) -> int:
    """How many modules PEFT adapts in all components, each from its folder."""
    models = bench.models(architecture)
    adapted = {component: bench.with_peft(model, path / component).base_model.model
               for component, model in models.items() if (path / component).is_dir()}  # fmt: skip
    return len(bench.layers(adapted, (BaseTunerLayer,)))


@pytest.mark.parametrize("algorithm", PARTS)
def test_peft_loads_as_many_modules_as_foretold(bench, algorithm, tmp_path):
    source = made(bench, "sd1", algorithm, tmp_path)
    for layout in LAYOUTS:
        if layout == "kohya-diffusers-names" or not (path := in_layout(source, layout, "sd1", tmp_path / layout)):
            continue
        told = verdict(path, "sd1", "peft")
        if layout == "peft":
            assert (told.status, told.applied) == ("loads", loaded(bench, "sd1", path))
        else:
            assert (told.status, told.applied) == ("refused", 0)
            with pytest.raises(ValueError, match=r"adapter_config\.json"):
                peft.PeftModel.from_pretrained(bench.models("sd1")["unet"], str(path.parent))


def test_weights_without_their_config_are_refused_by_peft_and_by_us(bench, tmp_path):
    path = in_layout(made(bench, "sd1", "lora", tmp_path), "peft", "sd1", tmp_path / "out")
    (tmp_path / "alone").mkdir()
    alone = shutil.copy(path / "unet" / "adapter_model.safetensors", tmp_path / "alone")
    told = verdict(Path(alone), "sd1", "peft")
    assert (told.status, [reason.code for reason in told.reasons]) == ("refused", ["config-missing"])
    with pytest.raises(ValueError, match=r"adapter_config\.json"):
        peft.PeftModel.from_pretrained(bench.models("sd1")["unet"], str(tmp_path / "alone"))


def test_the_rules_are_those_of_the_version_at_hand():
    assert next(reader.title for reader in table().readers if reader.name == "peft") == (
        f"PEFT {peft.__version__.rpartition('.')[0]}"
    )
