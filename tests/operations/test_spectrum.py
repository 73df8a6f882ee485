"""`inspect --spectrum` against a singular value decomposition of the whole ΔW by numpy, and values written by hand."""

import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import adapterhub
from adapterhub import architectures
from adapterhub.adapter import Module
from adapterhub.errors import UsageError
from adapterhub.operations.lora.spectrum import block_of, effective_rank, held_rank, kind_of
from tests.operations import made_loras, merge_files
from tests.operations.made_loras import ADDITIVE, CONV, LINEAR, POINT, SHAPES, TEXT, change, saved


def spectrum(path, base=None):
    return adapterhub.inspect(path, spectrum=True, base=base).spectrum


@pytest.mark.parametrize(
    ("sizes", "rank"),
    [([3.0, 3.0, 3.0], 3.0), ([5.0], 1.0), ([2.0, 0.0], 1.0), ([0.0, 0.0], 0.0),
     ([2.0, 1.0, 1.0], 2**1.5)],  # shares 1/2, 1/4, 1/4: entropy 1.5 bits
)  # fmt: skip
def test_the_effective_rank_is_the_exponential_of_the_entropy(sizes, rank):
    assert effective_rank(torch.tensor(sizes, dtype=torch.float64)) == pytest.approx(rank, rel=1e-15)


@pytest.mark.parametrize(
    ("sizes", "rank"), [([10.0, 1.0], 1), ([9.0, 1.0], 2), ([1.0, 1.0, 1.0, 1.0], 4), ([0.0, 0.0], 0)]
)
def test_99_percent_of_the_energy_are_held_by_the_fewest_largest(sizes, rank):
    assert held_rank(torch.tensor(sizes, dtype=torch.float64)) == rank


@pytest.mark.parametrize(
    ("algorithm", "module"),
    [(name, module) for name in ADDITIVE for module in (LINEAR, CONV) if (name, module) != ("tucker", LINEAR)],
)
def test_every_algorithm_has_the_spectrum_of_its_whole_change(algorithm, module, tmp_path):
    held = ADDITIVE[algorithm](SHAPES[module])
    (found,) = spectrum(saved(tmp_path / "a.safetensors", {module: held})).modules
    sizes = np.linalg.svd(change(held), compute_uv=False)
    shares = sizes[sizes > 1e-12 * sizes[0]] / sizes.sum()
    assert found.norm == pytest.approx(np.linalg.norm(change(held)), rel=1e-12)
    assert found.largest == pytest.approx(sizes[0], rel=1e-12)
    assert found.effective_rank == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-9)
    assert found.rank_99 == np.searchsorted(np.cumsum(sizes**2), 0.99 * (sizes**2).sum()) + 1


def test_energy_is_shared_out_among_blocks_and_components(tmp_path):
    modules = {module: made_loras.lora(SHAPES[module]) for module in SHAPES} | {TEXT: made_loras.lora((768, 768))}
    found = spectrum(saved(tmp_path / "a.safetensors", modules))
    energy = {module: np.linalg.norm(change(held)) ** 2 for module, held in modules.items()}
    whole = sum(energy.values())
    assert {part.name: part.share for part in found.blocks} == pytest.approx(
        {"IN01": (energy[LINEAR] + energy[POINT]) / whole, "IN03": energy[CONV] / whole, "TE1 00": energy[TEXT] / whole}
    )
    assert {part.name: part.modules for part in found.components} == {"text_encoder": 1, "unet": 3}
    assert sum(part.share for part in found.components) == pytest.approx(1)


def test_a_module_of_zeros_is_dead_and_one_that_moves_a_bias_is_not(modules, lora_file, heads, places):
    tensors = modules(3)
    for head in heads[:2]:
        tensors[f"{head}.lora_up.weight"].zero_()
    tensors[f"{heads[1]}.diff_b"] = torch.ones(320)
    found = spectrum(lora_file(tensors))
    assert found.dead == places[:1]
    assert [one.effective_rank for one in found.modules] == pytest.approx([0, 0, 1])


@pytest.mark.parametrize(("factor", "flagged"), [(5.5, True), (4.5, False)])
def test_more_than_five_times_the_median_of_its_kind_is_over_scaled(modules, lora_file, heads, places, factor, flagged):
    tensors = modules(5)
    tensors[f"{heads[2]}.lora_up.weight"] *= factor
    found = spectrum(lora_file(tensors))
    assert found.over_scaled == ([places[2]] if flagged else [])
    assert [one.excess for one in found.modules] == pytest.approx([1, 1, factor, 1, 1])


def test_a_base_gives_the_share_of_the_weight(tmp_path):
    base = merge_files.base(tmp_path / "base.safetensors", torch.float32)
    weights = load_file(base)
    found = spectrum(merge_files.lora(tmp_path / "a.safetensors"), base)
    assert len(found.modules) == 6
    for one in found.modules:
        weight = weights[merge_files.place(one.component, one.module)].double().norm()
        moved = np.linalg.norm(merge_files.change(tmp_path / "a.safetensors", one.component, one.module))
        assert one.relative == pytest.approx(moved / float(weight), rel=1e-12)
    assert "‖ΔW‖ / ‖W‖" in found.rule


def test_what_depends_on_the_weight_is_measured_on_the_base(tmp_path):
    base = merge_files.base(tmp_path / "base.safetensors", torch.float32)
    lora = merge_files.lora(tmp_path / "a.safetensors", modules={"unet": (merge_files.Q,)})
    head = merge_files.head("unet", merge_files.Q)
    save_file({**load_file(lora), f"{head}.dora_scale": torch.tensor([[3.0], [5.0]])}, lora)
    (found,) = spectrum(lora, base).modules
    weight = load_file(base)[merge_files.place("unet", merge_files.Q)].double().numpy()
    turned = weight + merge_files.change(lora, "unet", merge_files.Q)
    moved = np.array([[3.0], [5.0]]) * turned / np.linalg.norm(turned, axis=1, keepdims=True) - weight
    assert found.algorithm == "lora+dora"
    assert found.norm == pytest.approx(np.linalg.norm(moved), rel=1e-12)
    assert found.largest == pytest.approx(np.linalg.norm(moved, 2), rel=1e-12)


def test_a_change_that_does_not_fit_the_base_is_listed(style, tmp_path):
    found = spectrum(style, merge_files.base(tmp_path / "base.safetensors"))
    assert not found.modules
    assert [one.reason for one in found.unmeasured] == ["it does not fit the base's weight, [2, 2]"]


def test_what_cannot_be_measured_is_listed_with_the_reason(modules, lora_file, heads, places):
    tensors = modules(4)
    tensors[f"{heads[1]}.lora_down.weight"][0, 0] = torch.nan
    del tensors[f"{heads[2]}.lora_up.weight"]
    tensors[f"{heads[3]}.dora_scale"] = torch.ones(320, 1)
    found = spectrum(lora_file(tensors))
    assert [f"{one.component}.{one.module}" for one in found.modules] == places[:1]
    assert {f"{one.component}.{one.module}": one.reason for one in found.unmeasured} == {
        places[1]: "values are not finite",
        places[2]: "a lora module without lora_up",
        places[3]: "the change that dora makes depends on the base weights",
    }


@pytest.mark.parametrize(
    ("module", "block", "kind"),
    [
        (("unet", LINEAR), "IN01", "attn2.to_k"),
        (("unet", CONV), "IN03", "conv"),
        (("unet", "mid_block.resnets.1.conv2"), "M00", "conv2"),
        (("unet", "up_blocks.3.attentions.2.transformer_blocks.0.ff.net.2"), "OUT11", "ff.net.2"),
        (("unet", "time_embedding.linear_1"), "time_embedding", "time_embedding.linear_1"),
        (("text_encoder", TEXT), "TE1 00", "self_attn.q_proj"),
        (("vae", "decoder.up_blocks.1.resnets.0.conv1"), "vae decoder.up_blocks.1", "conv1"),
    ],
)
def test_a_module_has_a_block_and_a_kind(module, block, kind):
    assert (block_of(Module(*module), "sd1"), kind_of(Module(*module))) == (block, kind)


def test_blocks_sort_in_the_order_of_the_model():
    model = architectures.get("sdxl").weights
    names = {block_of(Module(component, path), "sdxl") for component in model for path in model[component]}
    order = ("IN00 IN01 IN02 IN03 IN04 IN05 IN06 IN07 IN08 M00 "
             "OUT00 OUT01 OUT02 OUT03 OUT04 OUT05 OUT06 OUT07 OUT08").split()  # fmt: skip
    layers = [f"TE1 {n:02}" for n in range(12)], [f"TE2 {n:02}" for n in range(32)]
    ranked = [name for name in sorted(names) if name in {*order, *layers[0], *layers[1]}]
    assert ranked == [*order, *layers[0], *layers[1]]


def test_a_pair_of_rank_0_is_dead(modules, lora_file, heads, places):
    tensors = modules(2)
    tensors[f"{heads[0]}.lora_down.weight"] = torch.zeros(0, 768)
    tensors[f"{heads[0]}.lora_up.weight"] = torch.zeros(320, 0)
    found = spectrum(lora_file(tensors))
    assert found.dead == places[:1]
    assert (found.modules[0].rank, found.modules[0].rank_99, found.modules[0].largest) == (0, 0, 0)


def test_people_see_the_ten_that_stand_out_and_programs_everything(cli, modules, lora_file, heads, places):
    tensors = modules(15)
    tensors[f"{heads[14]}.lora_up.weight"] *= 9
    path = lora_file(tensors)
    lines = cli("inspect", path, "--spectrum").out.splitlines()
    (start,) = [number for number, line in enumerate(lines) if line.startswith("  module")]
    assert lines[start + 1].split()[0] == places[14]
    assert lines[start + 11].startswith("1 over-scaled, 0 dead of 15")
    assert len(json.loads(cli("inspect", path, "--spectrum", "--json").out)["spectrum"]["modules"]) == 15


def test_a_spectrum_is_measured_only_where_that_is_asked_for(style, tmp_path):
    assert adapterhub.inspect(style).spectrum is None
    with pytest.raises(UsageError, match="Add --spectrum"):
        adapterhub.inspect(style, base=tmp_path)


@pytest.mark.parametrize(("role", "value", "reason"), [
    ("alpha", torch.zeros(0), r"alpha is F32 \[0\], and must be one number"),
    ("lora_up.weight", torch.zeros(2, 1, 1, 1, 1, 1), "which no lora_up is"),
])  # fmt: skip
def test_a_tensor_that_no_formula_takes_is_a_reason_too(modules, lora_file, heads, places, role, value, reason):
    found = spectrum(lora_file({**modules(2), f"{heads[0]}.{role}": value}))
    assert [f"{one.component}.{one.module}" for one in found.modules] == places[1:2]
    assert [re.search(reason, one.reason) is not None for one in found.unmeasured] == [True]


def test_what_has_no_spectrum_is_told(tmp_path):
    found = adapterhub.inspect(merge_files.base(tmp_path / "base.safetensors"), spectrum=True)
    assert "a spectrum is measured of LoRAs, and this is a checkpoint" in [told.message for told in found.problems]
