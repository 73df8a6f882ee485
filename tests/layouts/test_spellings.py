"""Spellings that nobody should write: golden files respelled as bad tools do are read, reported and mended by `convert`."""

import json
import re
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

import adapterhub

FIXTURES = Path(__file__).parents[2] / "fixtures"
PLAIN = r"\.(lora_(?:down|up)\.weight|alpha)$"

# golden file, (pattern, replacement) on every key, the code that is reported
RESPELLED = {
    "the LyCORIS wrapper's prefix": ("kohya/sd1-lora", [(r"^lora_(unet|te)_", "lycoris_")], "lycoris-prefix"),
    "the LyCORIS wrapper's prefix, in SDXL": ("kohya-diffusers-names/sdxl-lokr", [(r"^lora_unet_", "lycoris_")], "lycoris-prefix"),
    "Kohya's OFT prefix": ("kohya/sd1-oft", [(r"^lora_(unet|te)_", r"oft_\1_")], "oft-prefix"),
    "an adapter name": ("diffusers/sd1-lora", [(r"\.weight$", ".default.weight")], "adapter-name"),
    "another adapter name": ("diffusers/sdxl-lora", [(r"\.weight$", ".my-style_0.weight")], "adapter-name"),
    "an adapter name behind a magnitude": ("diffusers/sd1-dora", [(r"(magnitude_vector)$", r"\1.default.weight")], "adapter-name"),
    "a compiled model": ("diffusers/sd1-lora", [(r"^unet\.", "unet._orig_mod.")], "compiled"),
    "a compiled model inside": ("comfyui/sd1-lora", [(r"^diffusion_model\.", "_orig_mod.diffusion_model.")], "compiled"),
    "a sharded model": ("diffusers/sd1-lora", [(r"\.transformer_blocks\.", "._fsdp_wrapped_module.transformer_blocks.")], "compiled"),
    "a distributed model": ("diffusers/sd1-lora", [("^", "module.")], "distributed"),
    "CLIP without its level": ("kohya/sd1-lora", [(r"^lora_te_text_model_", "lora_te_")], "text-model-missing"),
    "both CLIPs without their level": ("kohya/sdxl-lora", [(r"^(lora_te[12])_text_model_", r"\1_")], "text-model-missing"),
    "diffusers' CLIP without its level": ("diffusers/sd2-lora", [(r"^text_encoder\.text_model\.", "text_encoder.")], "text-model-missing"),
    "OMI's CLIP without its level": ("omi/sdxl-lora", [(r"^(clip_[lg])\.text_model\.", r"\1.")], "text-model-missing"),
    "a trailing underscore": ("kohya/sd1-lora", [(PLAIN, r"_.\1")], "trailing-underscore"),
    "a doubled prefix": ("kohya/sd1-lora", [(r"^lora_unet_", "lora_unet_unet_"), (r"^lora_te_", "lora_te_text_encoder_")], "doubled-prefix"),
    "an underscore before lora_down": ("kohya/sd1-lora", [(PLAIN, r"_\1")], "undotted-suffix"),
    "a doubled prefix and no dot": ("kohya/sdxl-lora", [(r"^lora_unet_", "lora_unet_unet_"), (PLAIN, r"_\1")], "undotted-suffix"),
    "to_out without its index": ("kohya/sd1-lokr", [(r"_to_out_0\.", "_to_out.")], "to-out-without-index"),
    "ComfyUI's to_out without its index": ("comfyui/sdxl-lokr", [(r"\.to_out\.0\.", ".to_out.")], "to-out-without-index"),
    "SD 1's prefix in SDXL": ("kohya/sdxl-lora", [(r"^lora_te1_", "lora_te_")], "first-encoder-unnumbered"),
    "SDXL's prefix in SD 1": ("kohya/sd1-lora", [(r"^lora_te_", "lora_te1_")], None),
    "SDXL's prefix in the refiner": ("kohya/sdxl-refiner-lora", [(r"^lora_te_", "lora_te2_")], None),
    "the name of a processor": ("kohya/sd1-lora", [(r"_(attn[12])_to_", r"_\1_processor_to_")], "processor-name"),
    "a doubled underscore": ("kohya/sd1-lora", [(r"^lora_(unet|te)_", r"lora_\1__")], "double-underscore"),
    "ComfyUI's CLIP without transformer": ("comfyui/sd1-lora", [(r"\.clip_l\.transformer\.", ".clip_l.")], "no-transformer-level"),
    "a checkpoint's prefix": ("comfyui/sd1-lora", [(r"^diffusion_model\.", "model.diffusion_model.")], "model-prefix"),
    "no prefix for the UNet": ("diffusers/sd1-lora", [(r"^unet\.", "")], None),
    "attention processors without a prefix": ("diffusers-attn-procs/sd1-attention", [(r"^unet\.", "")], None),
    "the first generation's text encoder": (
        "diffusers-attn-procs/sd1-attention", [(r"\.([qkv]|out)_proj\.lora_linear_layer\.", r".to_\1_lora.")], None,
    ),
    "a magnitude that ends in weight": ("diffusers/sd2-dora", [(r"(magnitude_vector)$", r"\1.weight")], None),
}  # fmt: skip


def opened(path: Path) -> tuple[dict, bytes]:
    data = path.read_bytes()
    start = 8 + struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8:start]), data[start:]


def respelled(source: Path, target: Path, spell: Callable[[str], str]) -> Path:
    """A copy of a safetensors file whose keys are spelled anew."""
    header, body = opened(source)
    renamed = {name if name == "__metadata__" else spell(name): told for name, told in header.items()}
    assert len(renamed) == len(header)
    text = json.dumps(renamed).encode()
    target.write_bytes(len(text).to_bytes(8, "little") + text + body)
    return target


def tensors(path: Path) -> dict[str, tuple]:
    header, body = opened(path)
    return {
        name: (told["dtype"], told["shape"], body[slice(*told["data_offsets"])])
        for name, told in header.items()
        if name != "__metadata__"
    }


@pytest.mark.parametrize(("golden", "rules", "code"), RESPELLED.values(), ids=RESPELLED.keys())
def test_an_odd_spelling_is_read_reported_and_mended(golden, rules, code, tmp_path):
    def spell(name: str) -> str:
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name, count=1)
        return name

    layout, source = golden.partition("/")[0], FIXTURES / f"{golden}.safetensors"
    odd = respelled(source, tmp_path / "odd.safetensors", spell)
    assert tensors(odd).keys() != tensors(source).keys()
    found, wanted = adapterhub.inspect(odd, hash=True), adapterhub.inspect(source, hash=True)
    assert (found.layout, found.architecture, found.algorithms) == (layout, wanted.architecture, wanted.algorithms)
    assert found.fingerprint == wanted.fingerprint
    assert code is None or code in {problem.code for problem in found.problems if problem.severity == "warning"}
    done = adapterhub.convert(odd, tmp_path / "mended.safetensors", to=layout)
    assert tensors(tmp_path / "mended.safetensors") == tensors(source)
    assert (done.exactness, done.max_error) == ("bit-exact", 0.0)
    assert code is None or code in {problem.code for problem in done.problems}
    assert sorted(place for entry in done.entries for place in entry.source) == sorted(tensors(odd))


@pytest.mark.parametrize(
    ("golden", "architecture"), [("sd1-lora", "sd1"), ("sd2-lora", "sd2"), ("sd1-tucker", "sd1"), ("sd1-loha", "sd1")]
)
def test_sd1_and_sd2_in_original_names_are_read_and_written_in_diffusers(golden, architecture, tmp_path):
    """ComfyUI's golden file flattened and prefixed: `lora_unet_input_blocks_1_1_…`."""

    def flatten(name: str) -> str:
        head, dot, suffix = re.fullmatch(r"(.*?)(\.)((?:lora_|hada_|alpha).*)", name).groups()
        prefixed = head.replace("diffusion_model.", "lora_unet_").replace(
            "text_encoders.clip_h.transformer.", "lora_te_"
        )
        return prefixed.replace("text_encoders.clip_l.transformer.", "lora_te_").replace(".", "_") + dot + suffix

    odd = respelled(FIXTURES / f"comfyui/{golden}.safetensors", tmp_path / "odd.safetensors", flatten)
    found = adapterhub.inspect(odd)
    assert (found.layout, found.architecture) == ("kohya", architecture)
    assert "ldm-names" in {problem.code for problem in found.problems}
    adapterhub.convert(odd, tmp_path / "mended.safetensors", to="kohya")
    assert tensors(tmp_path / "mended.safetensors") == tensors(FIXTURES / f"kohya/{golden}.safetensors")


@pytest.mark.parametrize(("golden", "pattern"), [
    ("sd1-lora", r"(lora_[AB])(\.weight)$"), ("sd1-dora", r"(lora_magnitude_vector)()$"), ("sd1-loha-tucker", r"(hada_\w+)()$"),
    ("sd1-lokr-both", r"(lokr_\w+)()$"), ("sd1-ia3-multiplier", r"(ia3_l)()$"), ("sd1-oft-input", r"(oft_R)(\.weight)$"),
    ("sd1-boft-input", r"(boft_[Rs])()$"), ("sd1-adalora", r"(lora_[ABE])()$"),
])  # fmt: skip
def test_a_raw_state_dict_of_peft_is_read(golden, pattern, tmp_path):
    """The adapter's name inside the key where the entry is a module, behind it where it is a parameter."""
    source, odd = FIXTURES / "peft" / golden, tmp_path / "odd"
    for config in source.rglob("adapter_config.json"):
        folder = odd / config.parent.name
        folder.mkdir(parents=True)
        (folder / config.name).write_bytes(config.read_bytes())
        respelled(config.with_name("adapter_model.safetensors"), folder / "adapter_model.safetensors",
                  lambda name: re.sub(pattern, r"\1.default\2", name))  # fmt: skip
    found, wanted = adapterhub.inspect(odd, hash=True), adapterhub.inspect(source, hash=True)
    assert (found.layout, found.architecture, found.ranks) == ("peft", "sd1", wanted.ranks)
    assert found.fingerprint == wanted.fingerprint
    assert {problem.code for problem in found.problems} == {"adapter-name"}


@pytest.mark.parametrize("architecture", ["sd1", "sd2", "sdxl"])
def test_peft_reads_clip_with_its_old_level(architecture, tmp_path):
    source, old = FIXTURES / f"peft/{architecture}-lora", tmp_path / "old"
    for config in source.rglob("adapter_config.json"):
        folder = old / config.parent.name
        folder.mkdir(parents=True)
        (folder / config.name).write_bytes(config.read_bytes())
        respelled(config.with_name("adapter_model.safetensors"), folder / "adapter_model.safetensors",
                  lambda name: re.sub(r"^base_model\.model\.encoder\.", "base_model.model.text_model.encoder.", name))  # fmt: skip
    assert adapterhub.inspect(old).problems == []
    assert adapterhub.diff(source, old).equal


def test_a_lone_peft_file_has_the_strength_that_it_would_have_without_a_config(tmp_path):
    lone = tmp_path / "adapter_model.safetensors"
    lone.write_bytes((FIXTURES / "peft/sd2-lora/text_encoder/adapter_model.safetensors").read_bytes())
    found = adapterhub.inspect(lone)
    assert (found.kind, found.layout, found.architecture, found.components) == (
        "lora",
        "peft",
        "sd2",
        {"text_encoder": 1},
    )
    assert (found.ranks, found.alphas) == ({"2": 1}, {})
    adapterhub.convert(lone, tmp_path / "kohya.safetensors", to="kohya")
    assert adapterhub.inspect(tmp_path / "kohya.safetensors").alphas == {"2": 1}
