"""What `validate` finds in what files say of themselves: hashes, ranks, architectures, PEFT's configuration, private paths."""

import hashlib
import json

import pytest
import torch
from safetensors.torch import save, save_file

import adapterhub
from adapterhub.operations.validate import validate

NOTHING = hashlib.sha256(b"").hexdigest()
QUERY = "text_model.encoder.layers.0.self_attn.q_proj"
KEY = "text_model.encoder.layers.0.self_attn.k_proj"


def found(validation):
    return [(problem.severity, problem.code, problem.where) for problem in validation.problems]


def data_hash(tensors):
    """The digest of the data section as safetensors itself writes it."""
    stored = save(tensors)
    return hashlib.sha256(stored[8 + int.from_bytes(stored[:8], "little") :]).hexdigest()


def hash_by_name(tensors):
    """OneTrainer's: the bytes of all tensors by name."""
    return hashlib.sha256(b"".join(tensors[name].numpy().tobytes() for name in sorted(tensors))).hexdigest()


@pytest.mark.parametrize("field", ["sshs_model_hash", "modelspec.hash_sha256"])
@pytest.mark.parametrize(("template", "true"), [("{}", True), ("{}", False)])
def test_a_stored_hash_must_be_that_of_the_tensors(checked, modules, field, template, true):
    tensors = modules(3)
    digest = data_hash(tensors) if true else data_hash(modules(2))
    expected = [] if true else [("warning", "untrue-hash", field)]
    assert found(checked(tensors, {field: template.format(digest)})) == expected


@pytest.mark.parametrize(("digest", "problem"), [
    (lambda tensors: "0x" + data_hash(tensors), False),
    (lambda tensors: data_hash(tensors).upper(), False),
    (lambda tensors: "0x" + hash_by_name(tensors), False),
    (lambda tensors: "0x" + "1" * 64, True),
    (lambda tensors: "0x" + NOTHING, True),
    (lambda tensors: "unknown", True),
])  # fmt: skip
def test_modelspecs_hash_may_be_by_position_or_by_name(checked, modules, digest, problem):
    """F32 stands before F16 in the data, whatever the names are, so that the two differ."""
    tensors = {name: tensor.half() if "lora_down" in name else tensor for name, tensor in modules(3).items()}
    assert data_hash(tensors) != hash_by_name(tensors)
    validation = checked(tensors, {"modelspec.hash_sha256": digest(tensors)})
    assert found(validation) == ([("warning", "untrue-hash", "modelspec.hash_sha256")] if problem else [])


@pytest.mark.parametrize(("stored", "message"), [
    ("0x" + "1" * 64, None),  # LyCORIS: in the order of a state dict, which no file tells
    ("1" * 64, "111111111111… is not the hash of the tensors"),
    (NOTHING, "e3b0c44298fc… is not the hash of the tensors, but that of no bytes at all"),
    ("e3b0c442", "is no SHA-256: e3b0c442"),
])  # fmt: skip
def test_kohyas_hash_is_checked_where_it_can_be(checked, modules, stored, message):
    assert [problem.message for problem in checked(modules(3), {"sshs_model_hash": stored}).problems] == (
        [message] if message else []
    )


CONTRADICTIONS = {
    "a rank": ({"ss_network_dim": "32"}, "ss_network_dim"),
    "the true rank": ({"ss_network_dim": "4"}, None),
    "a rank that changes": ({"ss_network_dim": "Dynamic", "ss_network_alpha": "Dynamic"}, None),
    "an alpha": ({"ss_network_alpha": "16"}, "ss_network_alpha"),
    "the true alpha": ({"ss_network_alpha": "4.0"}, None),
    "an alpha that was rounded": ({"ss_network_alpha": "4.01"}, None),
    "an alpha of 0, which is the rank": ({"ss_network_alpha": "0"}, None),
    "another known model": ({"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}, "metadata"),
    "another unknown model": ({"modelspec.architecture": "flux-1-dev/lora"}, "modelspec.architecture"),
    "its own model": ({"modelspec.architecture": "stable-diffusion-v1/lora"}, None),
    "Kohya's other model": ({"ss_base_model_version": "sdxl_base_v1-0"}, "metadata"),
}


@pytest.mark.parametrize(("metadata", "where"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_metadata_that_contradicts_tensors_is_a_warning(checked, modules, metadata, where):
    assert found(checked(modules(3), metadata)) == ([("warning", "metadata-contradicts", where)] if where else [])


def test_the_rank_of_a_lokr_whose_factors_are_whole_contradicts_nothing(checked, heads):
    """LyCORIS leaves factors whole where the rank asked for is too large for them."""
    tensors = {f"{heads[0]}.lokr_w1": torch.ones(4, 4), f"{heads[0]}.lokr_w2": torch.ones(80, 192)}
    tensors |= {f"{heads[1]}.lokr_w1": torch.ones(4, 4), f"{heads[1]}.lokr_w2_a": torch.ones(80, 8)}
    tensors |= {f"{heads[1]}.lokr_w2_b": torch.ones(8, 192), f"{heads[1]}.alpha": torch.tensor(8.0)}
    assert checked(tensors, {"ss_network_dim": "100000", "ss_network_alpha": "1"}).problems == []


@pytest.mark.parametrize(
    "field", ["ss_network_args", "ss_tag_frequency", "ss_datasets", "ss_dataset_dirs", "ss_bucket_info", "ot_config"]
)
@pytest.mark.parametrize(
    ("text", "problem"),
    [('{"a": 1', True), ("[" * 100_000, True), ('{"a": NaN}', False), ("None", False), ("", False), ("{}", False)],
)
def test_fields_of_json_must_hold_json(checked, modules, field, text, problem):
    assert found(checked(modules(1), {field: text})) == ([("warning", "metadata-json", field)] if problem else [])


@pytest.mark.parametrize(("text", "path"), [
    ("/home/me/models/base.safetensors", "/home/me/models/base.safetensors"),
    ('{"a": "C:\\\\Users\\\\me\\\\train", "b": 1}', "C:\\\\Users\\\\me\\\\train"),
    ("D:/train", "D:/train"), ("\\\\nas\\loras\\me", "\\\\nas\\loras\\me"), ("at /Users/me/x, or", "/Users/me/x"),
    ("https://huggingface.co/home/me", None), ("http://a/b", None), ("smart falcon \\\\(umamusume\\\\)", None),
    ("one/home/two", None), ("either/or", None), ("resized: a\\nb\\nc", None), ("data:image/png;base64,AAAA/tmp/BBBB", None),
])  # fmt: skip
def test_folders_of_somebodys_machine_are_a_warning(checked, modules, text, path):
    problems = checked(modules(1), {"ss_note": text}).problems
    assert [(problem.code, problem.where) for problem in problems] == ([("private-path", "ss_note")] if path else [])
    assert not path or problems[0].message.endswith(f": {path}")


def diffusers_file(folder, config):
    path = folder / "pytorch_lora_weights.safetensors"
    heads = [f"unet.down_blocks.0.attentions.{number}.transformer_blocks.0.attn2.to_k" for number in range(2)]
    tensors = {f"{head}.lora_A.weight": torch.ones(4, 768) for head in heads}
    tensors |= {f"{head}.lora_B.weight": torch.ones(320, 4) for head in heads}
    save_file(tensors, path, {"lora_adapter_metadata": config if isinstance(config, str) else json.dumps(config)})
    return path


def peft_folder(folder, config):
    tensors = {}
    for name in (QUERY, KEY):
        tensors[f"base_model.model.{name}.lora_A.weight"] = torch.ones(4, 768)
        tensors[f"base_model.model.{name}.lora_B.weight"] = torch.ones(768, 4)
    metadata = {"ss_base_model_version": "sd_v1"}  # the first text encoder is SDXL's too
    (folder / "text_encoder").mkdir()
    save_file(tensors, folder / "text_encoder/adapter_model.safetensors", metadata)
    (folder / "text_encoder/adapter_config.json").write_text(json.dumps(config))
    return folder


SOUND = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "k_proj"]}
CONFIGURATIONS = {
    "sound": ({}, []),
    "full paths as targets": ({"target_modules": [QUERY, KEY.removeprefix("text_model.")]}, []),
    "a regular expression as targets": ({"target_modules": ".*_proj"}, []),
    "another rank": ({"r": 16}, ["r is 16, and the ranks are 4"]),
    "the rank by a pattern": ({"r": 16, "rank_pattern": {"q_proj": 4, "k_proj": 4}}, []),
    "a pattern of another rank": ({"r": 16, "rank_pattern": {"q_proj": 8}}, ["r is 8, 16, and the ranks are 4"]),
    "a target that is not there": (
        {"target_modules": ["q_proj", "k_proj", "v_proj"]}, ["names modules that the file does not change: v_proj"],
    ),
    "a pattern for what is not there": ({"alpha_pattern": {"fc1": 2}}, ["names modules that the file does not change: fc1"]),
    "a module that no target names": (
        {"target_modules": ["q_proj"]}, [f"target_modules leaves out, and PEFT with it, modules that the file changes: {KEY}"],
    ),
    "no alpha": ({"lora_alpha": None}, ["without lora_alpha: PEFT takes 8, adapterhub strength 1"]),
    "patterns that are none": ({"rank_pattern": [4], "target_modules": None}, []),
    "a private base": (
        {"base_model_name_or_path": "C:\\Users\\me\\sd15"}, ["names a folder of somebody's machine: C:\\Users\\me\\sd15"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "messages"), CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_pefts_configuration_must_agree_with_the_tensors(tmp_path, changes, messages):
    validation = validate(peft_folder(tmp_path, {**SOUND, **changes}))
    assert [(problem.severity, problem.message) for problem in validation.problems] == [
        ("warning", text) for text in messages
    ]
    assert {problem.where for problem in validation.problems} <= {"text_encoder/adapter_config.json"}


@pytest.mark.parametrize(("config", "code", "messages"), [
    ({"unet.r": 4, "unet.lora_alpha": 8, "unet.target_modules": ["to_k"]}, None, []),
    ({"unet.r": 8, "unet.lora_alpha": 8}, "metadata-contradicts", ["r is 8, and the ranks are 4"]),
    ({"r": 8, "lora_alpha": 8}, "metadata-contradicts", ["r is 8, and the ranks are 4"]),
    ({"unet.r": 4, "unet.lora_alpha": 8, "unet.target_modules": ["to_k", "to_q"]}, "metadata-contradicts",
     ["names modules that the file does not change: to_q"]),
    ({"text_encoder.r": 8, "text_encoder.lora_alpha": 8, "unet.r": 4, "unet.lora_alpha": 4}, None, []),
])  # fmt: skip
def test_diffusers_metadata_must_agree_with_the_tensors(tmp_path, config, code, messages):
    problems = validate(diffusers_file(tmp_path, config)).problems
    assert [problem.message for problem in problems] == messages
    assert {(problem.code, problem.where) for problem in problems} == (
        {(code, "lora_adapter_metadata")} if code else set()
    )


@pytest.mark.parametrize("text", ["", "{", "[1]", "7"])
def test_alpha_that_cannot_be_read_is_an_error(tmp_path, text):
    validation = validate(diffusers_file(tmp_path, text))
    assert (validation.valid, found(validation)) == (False, [("error", "configuration", "lora_adapter_metadata")])
    assert (validation.kind, validation.layout) == ("lora", "diffusers")


def test_weights_of_peft_without_their_configuration_have_an_unknown_alpha(tmp_path):
    folder = peft_folder(tmp_path, SOUND)
    assert found(validate(folder / "text_encoder/adapter_model.safetensors")) == [
        ("warning", "missing-alpha", "adapter_config.json")
    ]


def test_a_configuration_without_alpha_is_told_wherever_the_strength_depends_on_it(tmp_path):
    folder = peft_folder(tmp_path, {name: value for name, value in SOUND.items() if name != "lora_alpha"})
    (told,) = [one for one in validate(folder).problems if one.code == "missing-alpha"]
    assert (told.severity, told.message) == ("warning", "without lora_alpha: PEFT takes 8, adapterhub strength 1")
    assert told in adapterhub.inspect(folder).problems
    assert told in adapterhub.convert(folder, tmp_path / "out.safetensors", to="kohya").problems
    assert told in adapterhub.scale(folder, f"{tmp_path}/scaled/", 0.5).problems
