"""Whole models that were saved inside a wrapper of torch: every name has a prefix, and the model is read as without it."""

from __future__ import annotations

import numpy as np
import pytest

import adapterhub
from tests.operations import merge_files
from tests.operations.checkpoint_files import (
    CONV_IN,
    FOREIGN,
    MARKERS,
    METADATA,
    UNET,
    averages,
    content,
    folder_content,
    positions,
    saved,
    schedule,
    stored,
    weights,
)

NAMES = ("sd1", "sd2", "sdxl", "sdxl-refiner")
WRAPPERS = {
    "DistributedDataParallel": (lambda name: f"module.{name}", "distributed"),
    "torch.compile": (lambda name: f"_orig_mod.{name}", "compiled"),
    "compiled, then distributed": (lambda name: f"module._orig_mod.{name}", "distributed"),
    "distributed, then compiled": (lambda name: f"_orig_mod.module.{name}", "distributed"),
    "a compiled UNet": (lambda name: name.replace(UNET, f"{UNET}_orig_mod."), "compiled"),
    "a compiled wrapper of the UNet": (lambda name: name.replace(UNET, "model._orig_mod.diffusion_model."), "compiled"),
    "a sharded UNet": (lambda name: name.replace("model.", "model._fsdp_wrapped_module.", 1), "compiled"),
}
CONVERTED = [(name, wrapper) for name in NAMES for wrapper in WRAPPERS
             if name == "sd1" or wrapper in ("DistributedDataParallel", "a compiled UNet")]  # fmt: skip


def everything(name):
    """A model with all that stands beside the weights of real ones."""
    tensors = weights(name)
    ids = positions(name) if name in ("sd1", "sdxl") else {}
    return {**tensors, **averages(tensors), **schedule(), **ids, **FOREIGN, **MARKERS}


def wrapped(tensors, wrap):
    return {wrap(name): tensor for name, tensor in tensors.items()}


def both(tmp_path, tensors, wrap, metadata=None):
    """The file without wrappers and the one with them, of the same name."""
    for folder in ("plain", "odd"):
        (tmp_path / folder).mkdir()
    return (saved(tmp_path / "plain/model.safetensors", tensors, metadata),
            saved(tmp_path / "odd/model.safetensors", wrapped(tensors, wrap), metadata))  # fmt: skip


@pytest.mark.parametrize(("name", "wrapper"), CONVERTED)
def test_a_wrapped_model_becomes_what_the_plain_one_becomes(name, wrapper, tmp_path):
    wrap, code = WRAPPERS[wrapper]
    plain, odd = both(tmp_path, everything(name), wrap, METADATA)
    for layout, contents in (("single-file", content), ("diffusers", folder_content)):
        done = {}
        for source in (plain, odd):
            done[source] = adapterhub.convert(source, source.parent / layout, to=layout)
        assert contents(odd.parent / layout) == contents(plain.parent / layout)
        assert done[odd].exactness == done[plain].exactness == "bit-exact"
        places = sorted(place for entry in done[odd].entries for place in entry.source)
        assert places == sorted(wrapped(everything(name), wrap))
        assert [problem.mend for problem in done[odd].problems if problem.code == code] == [
            "Mended: the usual names are written."
        ]
    adapterhub.convert(odd.parent / "diffusers", tmp_path / "back.safetensors", to="single-file")
    assert content(tmp_path / "back.safetensors") == content(plain.parent / "single-file")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("wrap", "code"), WRAPPERS.values(), ids=WRAPPERS.keys())
def test_a_wrapped_model_is_identified_and_its_wrapper_told(name, wrap, code, tmp_path):
    plain, odd = both(tmp_path, everything(name), wrap)
    found, wanted = adapterhub.inspect(odd, hash=True), adapterhub.inspect(plain, hash=True)
    for field in ("kind", "layout", "architecture", "variant", "components", "parts", "extras", "extra_bytes",
                  "fingerprint", "evidence"):  # fmt: skip
        assert getattr(found, field) == getattr(wanted, field), field
    assert found.fingerprint is not None
    known = [problem.code for problem in wanted.problems]
    (told,) = [problem for problem in found.problems if problem.code not in known]
    assert (told.severity, told.code) == ("warning", code)
    assert told.where in content(odd)
    assert told.where not in content(plain)
    assert "with which no program knows a weight" in told.message


def test_the_number_of_wrapped_tensors_is_told(tmp_path):
    tensors = weights("sd1")
    odd = saved(tmp_path / "odd.safetensors", wrapped(tensors, lambda name: f"module.{name}"))
    (told,) = [problem for problem in adapterhub.inspect(odd).problems if problem.code == "distributed"]
    message = "the mark of a distributed module, with which no program knows a weight"
    assert told.message == f"{message} ({len(tensors)} tensors)"
    assert told.mend == "adapterhub convert writes the usual names."
    assert adapterhub.validate(odd).valid


@pytest.mark.parametrize(
    ("start", "layout"), [(UNET, "single-file"), ("first_stage_model.", "single-file"),
                          ("cond_stage_model.transformer.", "single-file")],
)  # fmt: skip
@pytest.mark.parametrize("mark", ["module.", "_orig_mod."])
def test_a_component_alone_is_read_without_its_wrapper(start, layout, mark, tmp_path):
    tensors = {name.removeprefix(start): held for name, held in weights("sd1").items() if name.startswith(start)}
    plain, odd = both(tmp_path, tensors, lambda name: mark + name)
    found, wanted = adapterhub.inspect(odd), adapterhub.inspect(plain)
    assert (found.layout, found.components) == (wanted.layout, wanted.components)
    for source in (plain, odd):
        adapterhub.convert(source, source.parent / "out.safetensors", to=layout)
    assert content(odd.parent / "out.safetensors") == content(plain.parent / "out.safetensors")


@pytest.mark.parametrize("parts", [("unet",), ("unet", "vae", "text_encoder")])
@pytest.mark.parametrize("mark", ["module.", "_orig_mod."])
def test_components_of_a_folder_are_read_without_their_wrapper(parts, mark, tmp_path):
    plain = saved(tmp_path / "plain.safetensors", {**weights("sd1"), **positions("sd1")})
    adapterhub.convert(plain, tmp_path / "folder", to="diffusers")
    places = set()
    for part in parts:
        (file,) = (tmp_path / "folder" / part).glob("*.safetensors")
        held = {mark + name: tensor for name, tensor in _arrays(file).items()}
        saved(file, held, {"format": "pt"})
        places |= {f"{part}/{file.name}:{name}" for name in held}
    found = adapterhub.inspect(tmp_path / "folder")
    assert (found.kind, found.layout, found.architecture) == ("checkpoint", "diffusers", "sd1")
    done = adapterhub.convert(tmp_path / "folder", tmp_path / "back.safetensors", to="single-file")
    assert content(tmp_path / "back.safetensors") == content(plain)
    assert places <= {place for entry in done.entries for place in entry.source}


def _arrays(path):
    return {name: np.frombuffer(data, dtype).reshape(shape) for name, (dtype, shape, data) in content(path).items()}


def test_a_file_of_a_component_in_names_of_diffusers_is_read_without_its_wrapper(tmp_path):
    plain = saved(tmp_path / "plain.safetensors", weights("sd1"))
    adapterhub.convert(plain, tmp_path / "folder", to="diffusers")
    held = _arrays(tmp_path / "folder/unet/diffusion_pytorch_model.safetensors")
    odd = saved(tmp_path / "odd.safetensors", wrapped(held, lambda name: f"module.{name}"))
    found = adapterhub.inspect(odd)
    assert (found.kind, found.layout, found.architecture) == ("checkpoint", "diffusers", "sd1")
    adapterhub.convert(odd, tmp_path / "ldm.safetensors", to="single-file")
    expected = {name: told for name, told in content(plain).items() if name.startswith(UNET)}
    assert content(tmp_path / "ldm.safetensors") == expected


def test_diff_finds_no_difference_and_extract_the_change(tmp_path):
    tensors = everything("sd1")
    plain, odd = both(tmp_path, tensors, lambda name: f"module.{name}")
    assert adapterhub.diff(plain, odd).equal
    place = f"{UNET}input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    tuned = saved(tmp_path / "tuned.safetensors", {**tensors, place: tensors[place] + np.float32(1)})
    for base in (plain, odd):
        adapterhub.extract(tuned, base, base.parent / "lora.safetensors", rank=2)
    assert content(odd.parent / "lora.safetensors") == content(plain.parent / "lora.safetensors")


def test_a_merge_into_a_wrapped_model_changes_it_as_the_plain_one_and_is_undone(tmp_path):
    """It keeps the names of its base, and says so."""
    plain, odd = both(tmp_path, everything("sd1"), lambda name: f"module.{name}")
    lora = merge_files.lora(tmp_path / "lora.safetensors")
    for base in (plain, odd):
        done = adapterhub.merge(base, [lora], base.parent / "merged.safetensors", undo=base.parent / "undo")
    assert "distributed" in {problem.code for problem in done.problems}
    changed = content(plain.parent / "merged.safetensors")
    assert changed != content(plain)
    assert content(odd.parent / "merged.safetensors") == wrapped(changed, lambda name: f"module.{name}")
    adapterhub.unmerge(odd.parent / "merged.safetensors", [], tmp_path / "again.safetensors", undo=odd.parent / "undo")
    assert content(tmp_path / "again.safetensors") == content(odd)


def test_averages_and_a_vae_are_taken_out_of_wrapped_models(tmp_path):
    plain, odd = both(tmp_path, everything("sd1"), lambda name: f"module.{name}")
    for asked in ({"ema": True}, {"vae": odd}, {"only": "vae"}):
        for source in (plain, odd):
            adapterhub.convert(source, source.parent / "out", to="single-file", force=True, **asked)
        assert content(odd.parent / "out") == content(plain.parent / "out")


def test_a_name_that_is_there_without_a_wrapper_too_stays_as_it_is(tmp_path):
    tensors = weights("sd1")
    second = {f"module.{CONV_IN}": tensors[CONV_IN] + np.float32(1)}
    odd = saved(tmp_path / "odd.safetensors", {**tensors, **second})
    adapterhub.convert(odd, tmp_path / "out.safetensors", to="single-file")
    assert content(tmp_path / "out.safetensors") == stored({**tensors, **second})
    both_wrapped = saved(tmp_path / "both.safetensors",
                         wrapped(tensors, lambda name: f"_orig_mod.{name}") | second)  # fmt: skip
    done = adapterhub.convert(both_wrapped, tmp_path / "two.safetensors", to="single-file")
    assert len(content(tmp_path / "two.safetensors")) == len(tensors) + 1
    assert len({place for entry in done.entries for place in entry.source}) == len(tensors) + 1


def test_a_wrapped_model_of_two_architectures_is_told_as_that(tmp_path):
    unet = {name: held for name, held in weights("sd2").items() if name.startswith(UNET)}
    rest = {name: held for name, held in weights("sd1").items() if not name.startswith(UNET)}
    plain, odd = both(tmp_path, {**unet, **rest}, lambda name: f"module.{name}")
    codes = [{problem.code for problem in adapterhub.validate(path).problems} for path in (plain, odd)]
    assert codes[1] == codes[0] | {"distributed"}


def test_the_ledger_of_a_wrapped_model_names_the_keys_of_the_file(tmp_path):
    odd = saved(tmp_path / "odd.safetensors", wrapped(weights("sd1"), lambda name: f"module.{name}"))
    done = adapterhub.convert(odd, tmp_path / "out.safetensors", to="single-file")
    moved = {tuple(entry.source): (entry.target, entry.action) for entry in done.entries}
    assert moved[(f"module.{CONV_IN}",)] == ([CONV_IN], "rename")
    assert {action for _, action in moved.values()} == {"rename"}
