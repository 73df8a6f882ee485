"""The documents of a diffusers folder, against what the folders on the Hugging Face Hub hold; and CLIP's tokenizer."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from adapterhub import architectures
from adapterhub.architectures import clip_merges, tokenizer
from adapterhub.architectures.inventory import FOLDER
from adapterhub.architectures.pipeline import documents
from adapterhub.errors import MalformedFile, UnknownName, UsageError
from adapterhub.files.limits import Limits
from adapterhub.files.tokenizer import tokenizer_from

START, END = "<|startoftext|>", "<|endoftext|>"
TOKENIZER = {"merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json"}
NOTHING = [None, None]
UNET, VAE = ["diffusers", "UNet2DConditionModel"], ["diffusers", "AutoencoderKL"]
TEXT, PROJECTED = ["transformers", "CLIPTextModel"], ["transformers", "CLIPTextModelWithProjection"]
CLIP = ["transformers", "CLIPTokenizer"]
TOKENIZERS = {
    "sd1": {"tokenizer": END}, "sd2": {"tokenizer": "!"}, "sdxl": {"tokenizer": END, "tokenizer_2": "!"},
    "sdxl-refiner": {"tokenizer_2": "!"},
}  # fmt: skip
INDEXES = [
    ("sd1", {
        "_class_name": "StableDiffusionPipeline", "requires_safety_checker": False, "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": TEXT, "tokenizer": CLIP, "unet": UNET, "vae": VAE,
        "feature_extractor": NOTHING, "image_encoder": NOTHING, "safety_checker": NOTHING,
    }),
    ("sdxl", {
        "_class_name": "StableDiffusionXLPipeline", "force_zeros_for_empty_prompt": True,
        "scheduler": ["diffusers", "EulerDiscreteScheduler"], "text_encoder": TEXT, "text_encoder_2": PROJECTED,
        "tokenizer": CLIP, "tokenizer_2": CLIP, "unet": UNET, "vae": VAE,
        "feature_extractor": NOTHING, "image_encoder": NOTHING,
    }),
    ("sdxl-refiner", {
        "_class_name": "StableDiffusionXLImg2ImgPipeline", "force_zeros_for_empty_prompt": False,
        "requires_aesthetics_score": True, "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "text_encoder": NOTHING, "text_encoder_2": PROJECTED, "tokenizer": NOTHING, "tokenizer_2": CLIP,
        "unet": UNET, "vae": VAE, "feature_extractor": NOTHING, "image_encoder": NOTHING,
    }),
]  # fmt: skip
BETAS = {
    "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "clip_sample": False,
    "num_train_timesteps": 1000, "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1,
}  # fmt: skip
EULER = {
    "_class_name": "EulerDiscreteScheduler", "interpolation_type": "linear", "sample_max_value": 1.0,
    "timestep_spacing": "leading", "use_karras_sigmas": False,
}  # fmt: skip
V = "v_prediction"
SCHEDULERS = [
    ("sd1", [], {"_class_name": "PNDMScheduler", "prediction_type": "epsilon"}),
    ("sd1", ["inpainting"], {"_class_name": "DDIMScheduler", "prediction_type": "epsilon"}),
    ("sd1", ["instruct-pix2pix"], {"_class_name": "EulerAncestralDiscreteScheduler", "prediction_type": "epsilon"}),
    ("sd2", [], {"_class_name": "PNDMScheduler", "prediction_type": "epsilon"}),
    ("sd2", ["inpainting"], {"_class_name": "PNDMScheduler", "prediction_type": "epsilon"}),
    ("sd2", ["v-prediction"], {"_class_name": "DDIMScheduler", "prediction_type": V}),
    ("sdxl", [], {**EULER, "prediction_type": "epsilon"}),
    ("sdxl", ["v-prediction"], {**EULER, "prediction_type": V}),
    ("sdxl", ["zero-snr", "v-prediction"], {**EULER, "prediction_type": V, "rescale_betas_zero_snr": True}),
    ("sdxl-refiner", [], {**EULER, "prediction_type": "epsilon"}),
]  # fmt: skip
CHANGED = [
    ("sd1", ["inpainting"], {"in_channels": 9}),
    ("sd1", ["instruct-pix2pix"], {"in_channels": 8}),
    ("sd1", ["v-prediction"], {}),
    ("sd2", ["inpainting"], {"in_channels": 9}),
    ("sd2", ["v-prediction"], {"sample_size": 96}),
    ("sd2", ["inpainting", "v-prediction"], {"in_channels": 9, "sample_size": 96}),
    ("sdxl", ["inpainting"], {"in_channels": 9}),
    ("sdxl", ["instruct-pix2pix"], {"in_channels": 8}),
    ("sdxl", ["zero-snr"], {}),
    ("sdxl-refiner", ["inpainting"], {"in_channels": 9}),
    ("sdxl-refiner", ["instruct-pix2pix"], {"in_channels": 8}),
]  # fmt: skip


def whole(name: str, *variants: str) -> dict[str, Any]:
    return documents(name, list(architectures.get(name).weights), variants)


def configs(name: str) -> dict[str, dict[str, Any]]:
    stored: dict[str, dict[str, Any]] = json.loads((FOLDER / "configs" / f"{name}.json").read_text("utf-8"))
    return stored


def without_version(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != "_diffusers_version"}


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("name", architectures.NAMES)
def test_a_folder_has_a_configuration_of_each_component_and_the_files_of_each_tokenizer(name: str) -> None:
    expected = {"model_index.json", "scheduler/scheduler_config.json"}
    expected |= {f"{component}/config.json" for component in architectures.get(name).weights}
    expected |= {f"{folder}/{file}" for folder in TOKENIZERS[name] for file in TOKENIZER}
    assert whole(name).keys() == expected


@pytest.mark.parametrize(("name", "index"), INDEXES)
def test_the_index_names_the_class_of_each_part_and_null_for_what_a_checkpoint_lacks(
    name: str, index: dict[str, Any]
) -> None:
    assert without_version(whole(name)["model_index.json"]) == index


@pytest.mark.parametrize(("name", "variants", "scheduler"), SCHEDULERS)
def test_the_scheduler_is_that_of_the_published_folder(
    name: str, variants: list[str], scheduler: dict[str, Any]
) -> None:
    found = whole(name, *variants)
    assert without_version(found["scheduler/scheduler_config.json"]) == {**BETAS, **scheduler}
    assert found["model_index.json"]["scheduler"] == ["diffusers", scheduler["_class_name"]]


@pytest.mark.parametrize(("name", "variants", "changed"), CHANGED)
def test_a_variant_changes_the_configuration_of_the_unet_and_of_nothing_else(
    name: str, variants: list[str], changed: dict[str, int]
) -> None:
    plain, varied = whole(name), whole(name, *variants)
    assert varied["unet/config.json"] == {**plain["unet/config.json"], **changed}
    rest = plain.keys() - {"model_index.json", "scheduler/scheduler_config.json", "unet/config.json"}
    assert {file: varied[file] for file in rest} == {file: plain[file] for file in rest}


@pytest.mark.parametrize("name", architectures.NAMES)
def test_configurations_are_those_of_the_architecture_in_the_form_of_their_library(name: str) -> None:
    found = whole(name)
    for component, config in configs(name).items():
        added = {"_diffusers_version": "0.36.0"} if "_class_name" in config else {"torch_dtype": "float32"}
        assert found[f"{component}/config.json"] == {**config, **added}
        assert list(found[f"{component}/config.json"]) == sorted({**config, **added})


def test_a_component_without_weights_is_null_with_its_tokenizer_and_has_no_files() -> None:
    found = documents("sdxl", ["unet", "text_encoder"])
    assert {file.partition("/")[0] for file in found} == {
        "model_index.json", "scheduler", "unet", "text_encoder", "tokenizer",
    }  # fmt: skip
    empty = {name for name, value in found["model_index.json"].items() if value == NOTHING}
    assert empty == {"vae", "text_encoder_2", "tokenizer_2", "feature_extractor", "image_encoder"}


@pytest.mark.parametrize(
    ("name", "components", "variants", "kind", "unknown"),
    [
        ("sd9", ["unet"], [], "architecture", "sd9"),
        ("sd1", ["unet", "text_encoder_2"], [], "component of sd1", "text_encoder_2"),
        ("sdxl-refiner", ["unet"], ["zero-snr"], "variant of sdxl-refiner", "zero-snr"),
    ],
)
def test_an_unknown_name_is_refused(
    name: str, components: list[str], variants: list[str], kind: str, unknown: str
) -> None:
    with pytest.raises(UnknownName) as refusal:
        documents(name, components, variants)
    assert (refusal.value.kind, refusal.value.name) == (kind, unknown)


def test_the_table_of_an_architecture_is_not_changed_by_a_variant() -> None:
    before = whole("sd1")
    whole("sd1", "inpainting")
    assert whole("sd1") == before


@pytest.mark.parametrize(("name", "folder", "pad"), [
    (name, folder, pad) for name, folders in TOKENIZERS.items() for folder, pad in folders.items()
])  # fmt: skip
def test_a_tokenizer_fills_up_with_the_token_that_its_encoder_was_trained_with(
    name: str, folder: str, pad: str
) -> None:
    found = whole(name)
    special = {"bos_token": START, "eos_token": END, "pad_token": pad, "unk_token": END}
    settings = found[f"{folder}/tokenizer_config.json"]
    assert found[f"{folder}/special_tokens_map.json"] == special
    assert {key: settings[key] for key in special} == special
    assert (settings["model_max_length"], settings["tokenizer_class"]) == (77, "CLIPTokenizer")
    assert {token["content"] for token in settings["added_tokens_decoder"].values()} == {pad, START, END}
    assert all(
        token["special"] and found[f"{folder}/vocab.json"][token["content"]] == int(number)
        for number, token in settings["added_tokens_decoder"].items()
    )


def test_merges_and_vocabulary_are_the_files_that_openai_published() -> None:
    # merges.txt and vocab.json of openai/clip-vit-base-patch32, which the first tokenizer of SDXL is too
    files = tokenizer.files(END)
    vocabulary = json.dumps(files["vocab.json"], separators=(",", ":"), ensure_ascii=False)
    assert digest(files["merges.txt"]) == "9fd691f7c8039210e0fced15865466c65820d09b63988b0174bfe25de299051a"
    assert digest(vocabulary) == "5047b556ce86ccaf6aa22b3ffccfc52d391ea4accdab9c2f2407da5b742d4363"


@pytest.mark.parametrize(
    ("token", "number"),
    [("!", 0), ("~", 93), ("¡", 94), ("ÿ", 187), ("Ā", 188), ("Ń", 255), ("!</w>", 256), ("*</w>", 265),
     ("in", 512), ("cat</w>", 2368), (START, 49406), (END, 49407)],
)  # fmt: skip
def test_bytes_come_first_then_ends_of_words_then_merges_in_their_order(token: str, number: int) -> None:
    assert tokenizer.vocabulary()[token] == number
    assert len(tokenizer.vocabulary()) == 49408


def test_the_licence_of_the_merges_lies_beside_them() -> None:
    text = (tokenizer.MERGES.parent / "LICENSE").read_text("utf-8")
    assert text.startswith("MIT License\n\nCopyright (c) 2021 OpenAI\n\nPermission is hereby granted")
    assert tokenizer.MERGES.stat().st_size < 250_000


def test_the_merges_are_made_from_openais_list_alone(tmp_path: Path) -> None:
    other = tmp_path / "bpe_simple_vocab_16e6.txt.gz"
    other.write_bytes(tokenizer.MERGES.read_bytes())
    with pytest.raises(SystemExit, match="has the SHA-256"):
        clip_merges.main([str(other)], tmp_path / "merges.txt.gz")
    assert not (tmp_path / "merges.txt.gz").exists()


def test_making_documents_imports_no_heavy_library() -> None:
    code = (
        "import sys; from adapterhub.architectures.pipeline import documents\n"
        "documents('sdxl', ['unet', 'vae', 'text_encoder', 'text_encoder_2'])\n"
        "print(sorted({'torch', 'numpy', 'pydantic', 'diffusers', 'transformers'} & sys.modules.keys()))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


def stored(folder: Path, **changes: bytes | None) -> Path:
    """A tokenizer on disk, small but whole; `changes` are contents by file name with `_` for the dot, None for none."""
    files = {
        "vocab.json": b'{"a": 0, "b</w>": 1}', "merges.txt": b"#version: 0.2\na b</w>\n", "README.md": b"not read",
        "tokenizer_config.json": b'{"tokenizer_class": "CLIPTokenizer"}',
    }  # fmt: skip
    files |= {".".join(name.rsplit("_", 1)): content for name, content in changes.items()}
    for name, content in files.items():
        if content is not None:
            (folder / name).write_bytes(content)
    return folder


def test_a_given_tokenizer_is_read_without_what_is_no_part_of_it(tmp_path: Path) -> None:
    assert tokenizer_from(stored(tmp_path)) == {
        "vocab.json": {"a": 0, "b</w>": 1},
        "merges.txt": "#version: 0.2\na b</w>\n",
        "tokenizer_config.json": {"tokenizer_class": "CLIPTokenizer"},
    }


def test_a_given_tokenizer_may_be_stored_in_one_file(tmp_path: Path) -> None:
    folder = stored(tmp_path, vocab_json=None, tokenizer_json=b'{"model": {}}')
    assert tokenizer_from(folder).keys() == {"tokenizer.json", "tokenizer_config.json"}


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"merges_txt": None}, "missing-file"),
        ({"vocab_json": b'{"a": 0, "a": 1}'}, "json"),
        ({"vocab_json": b'{"a": NaN}'}, "json"),
        ({"vocab_json": b"[" * 100_000}, "json"),
        ({"vocab_json": b"[]"}, "not-a-tokenizer"),
        ({"vocab_json": b'{"a": 0}' + b" " * 2000}, "json-too-large"),
        ({"merges_txt": b"\xff"}, "text-not-utf8"),
        ({"merges_txt": b" " * 2000}, "text-too-large"),
        ({"tokenizer_config_json": b'{"auto_map": {"AutoTokenizer": ["code.Tokenizer", null]}}'}, "custom-code"),
    ],
)
def test_a_broken_or_dangerous_tokenizer_is_refused(
    changes: dict[str, bytes | None], rule: str, tmp_path: Path
) -> None:
    limits = Limits(document=1000) if "large" in rule else Limits()
    with pytest.raises(MalformedFile) as refusal:
        tokenizer_from(stored(tmp_path, **changes), limits=limits)
    assert refusal.value.rule == rule


def test_a_tokenizer_that_is_a_link_out_of_its_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"{}")
    (tmp_path / "given").mkdir()
    stored(tmp_path / "given", vocab_json=None)
    (tmp_path / "given" / "vocab.json").symlink_to(tmp_path / "secret")
    with pytest.raises(MalformedFile) as refusal:
        tokenizer_from(tmp_path / "given")
    assert refusal.value.rule == "link-outside"


def test_a_given_tokenizer_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no folder"):
        tokenizer_from(stored(tmp_path) / "vocab.json")
