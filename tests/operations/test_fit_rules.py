"""The rules of the readers, each against a file that it is about. Sources stand beside the rules, in `readers.toml`."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import adapterhub
import adapterhub.layouts as layouts
from adapterhub import architectures
from adapterhub.adapter import Kind
from adapterhub.algorithms import ALGORITHMS
from adapterhub.operations.fit import rules
from adapterhub.operations.fit.marks import _MARKS
from tests.operations.a1111_nets import hypernetwork
from tests.operations.conftest import sound

FIXTURES = Path(__file__).parents[2] / "fixtures"
TE = "lora_te_text_model_encoder_layers_0_"
TE2 = "lora_te2_text_model_encoder_layers_0_"
Q = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
BLOCK = Q.removesuffix("attn1_to_q")
K2 = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
K2_XL = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"

# golden file, reader: status, modules by code
GOLDEN = [
    ("kohya/sd1-lora.safetensors", "a1111", "loads", {}),
    ("kohya/sd1-lora.safetensors", "diffusers", "misread", {"alpha-of-others": 2}),
    ("kohya/sd1-dora.safetensors", "a1111", "misread", {"dora-axis": 2}),
    ("kohya/sd1-dora.safetensors", "comfyui", "misread", {"dora-axis": 2}),
    ("kohya/sd1-dora.safetensors", "invokeai", "misread", {"dora-axis": 2}),
    ("kohya/sd1-dora.safetensors", "diffusers", "misread", {"magnitude-unread": 2}),
    ("kohya/sd1-dora-columns.safetensors", "a1111", "loads", {}),
    ("kohya/sd1-dora-columns.safetensors", "comfyui", "loads", {}),
    ("kohya/sd1-dora-columns.safetensors", "invokeai", "loads", {}),
    ("kohya/sd1-tucker.safetensors", "a1111", "loads", {}),
    ("kohya/sd1-tucker.safetensors", "diffusers", "refused", {"core": 2}),
    ("kohya/sd1-residual.safetensors", "a1111", "misread", {"residual-unread": 2}),
    ("kohya/sd1-residual.safetensors", "invokeai", "misread", {"residual-as-bias": 2}),
    ("kohya/sd1-residual.safetensors", "diffusers", "refused", {"residual": 2}),
    ("kohya/sd1-ia3.safetensors", "comfyui", "ignored", {"algorithm": 4}),
    ("kohya/sd1-ia3.safetensors", "a1111", "partly", {"ia3-kernel": 1}),
    ("kohya/sd1-ia3.safetensors", "invokeai", "refused", {"ia3-kernel": 1, "architecture-unseen": 3}),
    ("kohya/sd1-oft.safetensors", "a1111", "loads", {}),
    ("kohya/sd1-oft.safetensors", "comfyui", "misread", {"oft-constraint": 1, "rescale-unread": 2}),
    ("kohya/sd1-oft.safetensors", "forge", "ignored", {"algorithm": 3}),
    ("kohya/sd1-oft.safetensors", "invokeai", "refused", {"algorithm": 3}),
    ("kohya/sd1-oft-input.safetensors", "a1111", "refused", {"input-side": 2}),
    ("kohya/sd1-oft-input.safetensors", "comfyui", "ignored", {"input-side": 2}),
    ("kohya/sd1-boft.safetensors", "comfyui", "loads", {}),
    ("kohya/sd1-glora.safetensors", "a1111", "ignored", {"glora-shapes": 1}),
    ("kohya/sd1-glora.safetensors", "comfyui", "loads", {}),
    ("kohya/sd1-glora-old.safetensors", "a1111", "misread", {"alpha-unread": 1}),
    ("kohya/sd1-glora-old.safetensors", "invokeai", "refused", {"algorithm": 1}),
    ("kohya/sd1-lokr-tucker.safetensors", "comfyui", "partly", {"core": 2}),
    ("kohya/sd1-lokr-tucker.safetensors", "forge", "refused", {"core": 2}),
    ("kohya/sd1-lokr-tucker.safetensors", "a1111", "loads", {}),
    ("kohya/sd1-lokr-tucker.safetensors", "invokeai", "refused", {"architecture-unseen": 3}),
    ("kohya/sd1-loha.safetensors", "invokeai", "loads", {}),
    ("kohya/sd1-full.safetensors", "comfyui", "partly", {"text-encoder-names": 1}),
    ("kohya/sd1-full.safetensors", "a1111", "loads", {}),
    ("kohya/sd2-norm.safetensors", "a1111", "partly", {"text-encoder-names": 1, "diffusers-names": 1}),
    ("kohya/sdxl-norm.safetensors", "a1111", "partly", {"text-encoder-names": 1}),
    ("kohya/sdxl-lora.safetensors", "a1111", "partly", {"half-attention": 1}),
    ("kohya/sd1-token.safetensors", "a1111", "loads", {}),
    ("kohya/sd1-token.safetensors", "comfyui", "partly", {"bundled-embedding": 1}),
    ("kohya/sd1-token.safetensors", "diffusers", "refused", {"bundled-embedding": 1}),
    ("kohya/sdxl-refiner-lora.safetensors", "invokeai", "refused", {"refiner": 4}),
    ("kohya/sdxl-refiner-lora.safetensors", "diffusers", "refused", {"only-text-encoder": 1, "alpha-of-others": 2}),
    ("kohya/sdxl-refiner-lora.safetensors", "a1111", "partly", {"only-text-encoder": 1}),
    ("diffusers-attn-procs/sdxl-refiner-attention.safetensors", "comfyui", "partly", {"only-text-encoder": 1}),
    ("comfyui/sd1-lora.safetensors", "comfyui", "loads", {}),
    ("comfyui/sd1-lora.safetensors", "a1111", "refused", {"names-of-comfyui": 4}),
    ("comfyui/sd1-lora.safetensors", "forge", "partly", {"text-encoder-names": 1}),
    ("comfyui/sd1-lora.safetensors", "invokeai", "refused", {"layout": 4}),
    ("omi/sd1-lora.safetensors", "invokeai", "refused", {"omi-of-other-models": 4}),
    ("omi/sd1-lora.safetensors", "comfyui", "ignored", {"layout": 4}),
    ("diffusers/sd1-lora.safetensors", "comfyui", "partly", {"attention-names": 2, "alpha-unread": 2}),
    ("diffusers/sd1-lora.safetensors", "diffusers", "loads", {}),
    ("diffusers/sd1-lora.safetensors", "invokeai", "refused", {"layout": 4}),
    ("diffusers/sdxl-dora.safetensors", "forge", "partly", {"attention-names": 1, "alpha-unread": 1, "magnitude-unread": 1}),
    ("diffusers-attn-procs/sd1-attention.safetensors", "comfyui", "loads", {}),
    ("diffusers-attn-procs/sd1-attention.safetensors", "diffusers", "loads", {}),
    ("diffusers-attn-procs/sd1-attention.safetensors", "a1111", "ignored", {"layout": 4}),
    ("peft/sd1-lora", "peft", "loads", {}),
    ("peft/sd1-lora", "comfyui", "ignored", {"layout": 4}),
    ("cloneofsimo/sd1-text.safetensors", "comfyui", "ignored", {"layout": 49}),
    ("embedding/diffusers/sd1.bin", "invokeai", "refused", {"two-dimensions": 1}),
    ("embedding/diffusers/sd1-flat.bin", "invokeai", "loads", {}),
    ("embedding/diffusers/sd1-numbered.bin", "a1111", "refused", {"several-tokens": 3}),
    ("embedding/diffusers/sd1-numbered.bin", "comfyui", "partly", {"several-tokens": 2}),
    ("embedding/diffusers/sdxl", "a1111", "ignored", {"two-files": 2}),
    ("embedding/diffusers/sdxl", "comfyui", "partly", {"two-files": 1}),
    ("embedding/kohya/sd1.safetensors", "diffusers", "misread", {"token-unnamed": 1}),
    ("embedding/kohya/sdxl.safetensors", "diffusers", "refused", {"two-encoders": 2}),
    ("embedding/kohya/sdxl-out.safetensors", "comfyui", "partly", {"output-vectors": 2}),
    ("embedding/kohya/sd3.safetensors", "diffusers", "refused", {"third-encoder": 1, "token-unnamed": 2}),
]  # fmt: skip


def told(path: Path, reader: str, architecture: str | None = None):
    found = adapterhub.compatible(path, architecture=architecture)
    verdict = next(one for one in found.readers if one.reader == reader)
    counts: dict[str, int] = {}
    for reason in verdict.reasons:
        counts[reason.code] = counts.get(reason.code, 0) + reason.modules
    return verdict.status, counts


@pytest.mark.parametrize(("name", "reader", "status", "codes"), GOLDEN, ids=lambda value: str(value)[:50])
def test_a_golden_file(name, reader, status, codes):
    assert told(FIXTURES / name, reader) == (status, codes)


def pair(head: str, rows: int, columns: int, alpha: float | None = 2.0, rank: int = 2) -> dict[str, torch.Tensor]:
    made = {f"{head}.lora_down.weight": torch.ones(rank, columns), f"{head}.lora_up.weight": torch.ones(rows, rank)}
    return made if alpha is None else {**made, f"{head}.alpha": torch.tensor(alpha)}


CONTEXT = pair(K2, 320, 768)
CRAFTED = {
    "a bias beside a LoRA": (CONTEXT | {f"{TE}mlp_fc1.diff_b": torch.ones(3072)} | pair(f"{TE}mlp_fc1", 3072, 768), "sd1", {
        "a1111": ("misread", {"bias-unread": 1}), "invokeai": ("misread", {"bias-unread": 1}), "comfyui": ("loads", {}),
        "diffusers": ("refused", {"bias": 1})}),
    "a bias alone": (CONTEXT | {f"{TE}mlp_fc1.diff_b": torch.ones(3072)}, "sd1", {
        "a1111": ("refused", {"bias-alone": 1}), "invokeai": ("refused", {"bias-alone": 1}), "comfyui": ("loads", {})}),
    "a weight that is replaced": (CONTEXT | {f"{Q}.set_weight": torch.ones(320, 320)}, "sd1", {
        "a1111": ("refused", {"replacement": 1}), "comfyui": ("loads", {})}),
    "the weight of a norm": (CONTEXT | {f"{BLOCK}norm1.w_norm": torch.ones(320)}, "sd1", {
        "a1111": ("refused", {"norm-half": 1}), "comfyui": ("loads", {}), "invokeai": ("loads", {})}),
    "the bias of a norm": (CONTEXT | {f"{BLOCK}norm1.b_norm": torch.ones(320)}, "sd1", {
        "a1111": ("refused", {"norm-half": 1}), "comfyui": ("partly", {"norm-half": 1}), "invokeai": ("refused", {"norm-half": 1})}),
    "a scale of A1111": (CONTEXT | {f"{K2}.scale": torch.tensor(0.5)}, "sd1", {
        "a1111": ("loads", {}), "comfyui": ("misread", {"scale-unread": 1}), "invokeai": ("misread", {"scale-unread": 1})}),
    "a factor of old LyCORIS": (CONTEXT | {f"{K2}.scalar": torch.tensor(0.5)}, "sd1", {
        "a1111": ("misread", {"scalar-unread": 1}), "comfyui": ("misread", {"scalar-unread": 1})}),
    "alphas of some modules": (pair(K2, 320, 768, 1.0) | pair(Q, 320, 320, None), "sd1", {
        "diffusers": ("misread", {"alpha-of-others": 1}), "comfyui": ("loads", {})}),
    "self-attention alone": (pair(Q, 320, 320), "sd1", {"invokeai": ("refused", {"architecture-unseen": 1}), "a1111": ("loads", {})}),
    "one encoder of SDXL": (pair(f"{TE2}mlp_fc1", 5120, 1280) | pair(f"{TE2}self_attn_q_proj", 1280, 1280), "sdxl", {
        "invokeai": ("refused", {"architecture-unseen": 2}), "comfyui": ("loads", {})}),
    "both encoders of SDXL": (pair("lora_te1_text_model_encoder_layers_0_self_attn_q_proj", 768, 768)
                              | pair(f"{TE2}self_attn_q_proj", 1280, 1280), "sdxl", {"invokeai": ("loads", {})}),
    "DoRA of a LoHa": ({f"{K2}.hada_w{n}_{side}": torch.ones(*shape) for n in (1, 2) for side, shape in
                        (("a", (320, 2)), ("b", (2, 768)))} | {f"{K2}.dora_scale": torch.ones(1, 768), f"{K2}.alpha": torch.tensor(2.0)}, "sd1", {
        "invokeai": ("refused", {"dora-of-products": 1}), "a1111": ("loads", {})}),
    "BOFT without alpha": (CONTEXT | {f"{Q}.oft_blocks": torch.zeros(2, 80, 4, 4)}, "sd1", {
        "comfyui": ("partly", {"alpha-missing": 1}), "a1111": ("loads", {})}),
    "GLoRA without alpha": (CONTEXT | {f"{Q}.{part}.weight": torch.ones(*shape) for part, shape in
                                       (("a1", (2, 320)), ("a2", (320, 2)), ("b1", (2, 320)), ("b2", (320, 2)))}, "sd1", {
        "a1111": ("refused", {"alpha-missing": 1})}),
    "half of an attention of OpenCLIP": (pair(K2_XL, 640, 2048) | pair(f"{TE2}self_attn_q_proj", 1280, 1280), "sdxl", {
        "a1111": ("partly", {"half-attention": 1}), "comfyui": ("loads", {})}),
    "OFT of an attention of OpenCLIP": (pair(K2_XL, 640, 2048) | {
        f"{TE2}self_attn_{name}_proj.oft_blocks": torch.zeros(320, 4, 4) for name in ("q", "k", "v", "out")}, "sdxl", {
        "a1111": ("partly", {"fused-attention": 4}), "comfyui": ("loads", {})}),
    "the first upsampler in diffusers' names": (
        pair("lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k", 640, 2048)
        | {f"lora_unet_up_blocks_0_upsamplers_0_conv.lora_{part}.weight": torch.ones(*shape) for part, shape in
           (("down", (2, 1280, 3, 3)), ("up", (1280, 2, 1, 1)))}
        | pair("lora_unet_add_embedding_linear_1", 1280, 2816), "sdxl", {
        "a1111": ("partly", {"diffusers-names": 2}), "diffusers": ("partly", {"size-embedding-names": 1, "alpha-of-others": 0}),
        "comfyui": ("loads", {})}),
    "the last norm in diffusers' names": (CONTEXT | {f"lora_unet_conv_norm_out.{part}": torch.ones(320) for part in ("w_norm", "b_norm")}, "sd1", {
        "a1111": ("partly", {"diffusers-names": 1}), "comfyui": ("loads", {})}),
    "the prefix of the LyCORIS wrapper": ({name.replace("lora_unet", "lycoris"): tensor for name, tensor in CONTEXT.items()}, "sd1", {
        "comfyui": ("loads", {}), "forge": ("loads", {}), "a1111": ("ignored", {"odd-spelling": 1}), "diffusers": ("refused", {"odd-spelling": 1})}),
}  # fmt: skip


@pytest.mark.parametrize(
    ("case", "reader"), [(case, reader) for case, (_, _, readers) in CRAFTED.items() for reader in readers]
)
def test_a_crafted_file(case, reader, tmp_path):
    tensors, architecture, expected = CRAFTED[case]
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, tmp_path / "crafted.safetensors")
    status, codes = expected[reader]
    found = told(tmp_path / "crafted.safetensors", reader, architecture)
    assert found == (status, {code: number for code, number in codes.items() if number})


def test_forge_loads_nothing_of_a_file_with_more_than_a_dozen_unknown_keys(tmp_path):
    for unknown, status in ((12, "partly"), (13, "refused")):
        path = tmp_path / f"{unknown}.safetensors"
        save_file(sound(15) | {f"nobody.knows.{number}": torch.zeros(1) for number in range(unknown)}, path)
        assert told(path, "forge", "sd1")[0] == status


def test_omi_for_sdxl_is_known_to_invokeai_by_its_metadata(tmp_path):
    tensors = load_file(FIXTURES / "omi/sdxl-lora.safetensors")
    told_of = {"ot_branch": "omi_format", "modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}
    for metadata, status in ((told_of, "refused"), (told_of | {"modelspec.sai_model_spec": "1.0.0"}, "loads")):
        save_file(tensors, tmp_path / "omi.safetensors", metadata)
        assert told(tmp_path / "omi.safetensors", "invokeai")[0] == status


@pytest.mark.parametrize(
    ("options", "status", "codes"),
    [
        ({}, "loads", {}),
        ({"activation": "gelu"}, "ignored", {"activation": 4}),
        ({"dropout": [0, 0.3, 0]}, "misread", {"dropout-active": 4}),
    ],
)
def test_hypernetworks_in_comfyui(options, status, codes, tmp_path):
    hypernetwork(tmp_path / "net.pt", [768, 320], [1, 2, 1], **options)
    assert told(tmp_path / "net.pt", "comfyui") == (status, codes)
    assert told(tmp_path / "net.pt", "a1111") == ("loads", {})
    assert told(tmp_path / "net.pt", "forge") == ("ignored", {"kind": 4})


# The table itself

ROWS = tomllib.loads(rules._FILE.read_text("utf-8"))["rules"]
TABLE = rules.table()
OF_FILES = {"both-encoders", "alpha-inherited", "rare-alpha", "lone-projection", "config-missing", "modelspec-lora", "renamed", "several-tokens",
            "later-token", "matrix", "output", "rare-activation", "dropout", "skip-connection"}  # fmt: skip
KNOWN = {
    "readers": {reader.name for reader in TABLE.readers},
    "layouts": {layout.name for layout in layouts.every()},
    "architectures": set(architectures.NAMES),
    "algorithms": {row.name for row in ALGORITHMS} | {"embedding", "unknown"},
    "components": {"unet", "text_encoder", "text_encoder_2", "text_encoder_3"},
    "marks": {*_MARKS, *OF_FILES},
    "lacks": {*_MARKS, *OF_FILES},
}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['readers']}-{row['code']}".replace(" ", "+"))
def test_a_rule_uses_known_words_and_names_its_source(row):
    for field, known in KNOWN.items():
        assert set(row.get(field, "").split()) <= known, field
    assert row["mend"] in {"", *TABLE.mends}
    assert row["kind"] in set(Kind)
    assert row["source"]
    assert row["message"]
    assert not row["message"].endswith(".")


def test_every_reader_is_a_tool_that_convert_knows():
    for reader in TABLE.readers:
        assert reader.name in layouts.TOOLS[Kind.LORA]
        for kind, names in reader.layouts.items():
            assert names <= {layout.name for layout in layouts.every(Kind(kind))}
            assert kind == "hypernetwork" or reader.name in layouts.TOOLS[Kind(kind)]


def test_what_convert_writes_for_a_reader_is_a_layout_that_it_knows():
    for reader in TABLE.readers:
        for kind, names in reader.layouts.items():
            assert set(layouts.TOOLS[Kind(kind)].get(reader.name, ())) <= names


def test_values_are_not_looked_at(tmp_path):
    path = tmp_path / "broken.safetensors"
    save_file(pair(K2, 320, 768) | {f"{K2}.dora_scale": torch.from_numpy(np.full((320, 1), np.nan, "f4"))}, path)
    assert told(path, "a1111", "sd1") == ("misread", {"dora-axis": 1})
