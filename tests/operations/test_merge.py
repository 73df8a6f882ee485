"""A merge is W + Σ strength·ΔW in float64, rounded once, in the base's own layout."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from adapterhub import convert, merge
from tests.operations.merge_files import (
    CONV,
    K2,
    MODULES,
    OUT,
    PROJ,
    TEXT,
    Q,
    base,
    change,
    content,
    expected,
    head,
    lora,
    place,
    shape,
)

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float8_e4m3fn, torch.float8_e5m2)


def plus(adapters: dict[Path, tuple[float, float]], component: str, module: str, weight: np.ndarray) -> np.ndarray:
    strengths = {path: unet if component == "unet" else text for path, (unet, text) in adapters.items()}
    total = sum(strength * change(path, component, module) for path, strength in strengths.items())
    return weight + total.reshape(weight.shape)


def sums(adapters: dict[Path, tuple[float, float]], modules: dict[str, tuple[str, ...]] = MODULES) -> dict:
    return {place(component, module): partial(plus, adapters, component, module)
            for component, paths in modules.items() for module in paths}  # fmt: skip


def merged(model: Path, *adapters: object, **options: object) -> Path:
    out = model.with_name("out.safetensors")
    merge(model, adapters, out, architecture="sd1", force=True, **options)
    return out


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_number_is_the_sum_in_float64_rounded_once(tmp_path: Path, dtype: torch.dtype) -> None:
    model = base(tmp_path / "base.safetensors", dtype)
    a, b = lora(tmp_path / "a.safetensors"), lora(tmp_path / "b.safetensors", 1, rank=3, alpha=2.0, dtype=torch.float32)
    out = merged(model, (a, 0.7, 0.3), (b, -0.4))
    assert content(out) == expected(model, sums({a: (0.7, 0.3), b: (-0.4, -0.4)}))


def test_order_and_metadata_of_the_base_stay_and_what_it_is_made_of_is_told(tmp_path: Path) -> None:
    model = base(tmp_path / "base.safetensors", **{"modelspec.title": "A title", "modelspec.hash_sha256": "0x1"})
    a = lora(tmp_path / "a.safetensors")
    turned = tmp_path / "turned.safetensors"
    with safe_open(model, "pt") as file:
        fields = file.metadata()
    rows = json.loads(model.read_bytes()[8:][: int.from_bytes(model.read_bytes()[:8], "little")])
    _write_reversed(turned, load_file(model), fields)
    out = merged(turned, (a, 0.5))
    assert _names(out) == _names(turned) == list(reversed([name for name in rows if name != "__metadata__"]))
    told = _metadata(out)
    assert told["modelspec.title"] == "A title"
    assert "modelspec.hash_sha256" not in told
    assert told["modelspec.merged_from"] == "turned, a"
    recipe = json.loads(told["adapterhub.recipe"])
    assert recipe["parameters"]["adapters"] == [[{"input": 1}, 0.5, 0.5]]
    assert [one["name"] for one in recipe["inputs"]] == ["turned.safetensors", "a.safetensors"]
    assert len(recipe["inputs"][1]["fingerprint"]) == len(recipe["inputs"][0]["sha256"]) == 64


def _names(path: Path) -> list[str]:
    raw = path.read_bytes()
    header = json.loads(raw[8:][: int.from_bytes(raw[:8], "little")])
    return sorted((name for name in header if name != "__metadata__"), key=lambda name: header[name]["data_offsets"])


def _metadata(path: Path) -> dict[str, str] | None:
    with safe_open(path, "pt") as file:
        return file.metadata()


def _write_reversed(path: Path, tensors: dict[str, torch.Tensor], fields: dict[str, str]) -> None:
    """As a tool of its own would: tensors in another order than safetensors' own."""
    header: dict[str, object] = {"__metadata__": fields}
    data = b""
    names = {torch.float16: "F16", torch.int64: "I64"}
    saved = path.with_name("sorted.safetensors")
    save_file(tensors, saved)
    for name in reversed(_names(saved)):
        raw = tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        header[name] = {"dtype": names[tensors[name].dtype], "shape": list(tensors[name].shape),
                        "data_offsets": [len(data), len(data) + len(raw)]}  # fmt: skip
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_strength_is_linear(tmp_path: Path) -> None:
    model, a = base(tmp_path / "base.safetensors", torch.float32), lora(tmp_path / "a.safetensors")
    zero = tmp_path / "zero.safetensors"
    save_file({name: torch.zeros_like(value) for name, value in load_file(model).items()}, zero)
    once, twice, back = (load_file(merged(zero, (a, strength))) for strength in (1.0, 2.0, -0.5))
    for name in sums({a: (1.0, 1.0)}):
        assert once[name].any()
        assert torch.equal(2 * once[name], twice[name])
        assert torch.equal(-0.5 * once[name], back[name])


def test_what_only_adds_has_no_order(tmp_path: Path) -> None:
    model = base(tmp_path / "base.safetensors", torch.float32)
    given = [(lora(tmp_path / f"{seed}.safetensors", seed), 0.1 * (seed + 1)) for seed in range(4)]
    assert content(merged(model, *given)) == content(merged(model, *reversed(given)))


@pytest.mark.parametrize("architecture", ["sd1", "sdxl"])
def test_it_commutes_with_the_conversion_of_the_base(tmp_path: Path, architecture: str) -> None:
    model = base(tmp_path / "base.safetensors", architecture=architecture)
    a = _for_every_crossing(tmp_path / "a.safetensors", architecture)
    folder, through = tmp_path / "folder", tmp_path / "through"
    convert(model, folder, to="diffusers")
    direct = merge(folder, [(a, 0.6)], tmp_path / "merged", architecture=architecture)
    assert direct.exactness == "exact"
    merge(model, [(a, 0.6)], tmp_path / "merged.safetensors", architecture=architecture)
    convert(tmp_path / "merged.safetensors", through, to="diffusers")
    for part in ("unet", "text_encoder", "vae", *(["text_encoder_2"] if architecture == "sdxl" else [])):
        (mine,), (theirs,) = (list((root / part).glob("*.safetensors")) for root in (tmp_path / "merged", through))
        assert content(mine) == content(theirs)
    assert content(tmp_path / "merged.safetensors") != content(model)
    assert (tmp_path / "merged" / "model_index.json").read_text() == (folder / "model_index.json").read_text()


def _for_every_crossing(path: Path, architecture: str) -> Path:
    """Weights that a single file stacks, transposes, reshapes and leaves as they are."""
    modules = {"unet": (Q, CONV, PROJ), "text_encoder": (TEXT,)}
    if architecture == "sd1":
        return lora(path, modules=modules)
    random = torch.Generator().manual_seed(3)
    heads = [f"lora_te2_{TEXT.replace('.', '_')}", f"lora_te2_{TEXT.replace('.', '_').replace('q_proj', 'v_proj')}",
             "lora_te2_text_projection", "lora_te1_" + TEXT.replace(".", "_")]  # fmt: skip
    tensors = {}
    for name in heads:
        tensors[f"{name}.lora_down.weight"] = torch.randn(2, 2, generator=random)
        tensors[f"{name}.lora_up.weight"] = torch.randn(2, 2, generator=random)
        tensors[f"{name}.alpha"] = torch.tensor(2.0)
    save_file(tensors, path)
    return path


def test_it_commutes_with_the_conversion_of_the_adapter(tmp_path: Path) -> None:
    model, a = base(tmp_path / "base.safetensors"), lora(tmp_path / "a.safetensors")
    convert(a, tmp_path / "b.safetensors", to="diffusers", architecture="sd1")
    assert content(merged(model, (a, 0.3))) == content(merged(model, (tmp_path / "b.safetensors", 0.3)))


def test_biases_norms_and_full_differences_are_added(tmp_path: Path) -> None:
    model = base(tmp_path / "base.safetensors")
    norm, out = "down_blocks.0.resnets.0.norm1", head("unet", OUT)
    given = {f"{out}.diff": torch.full(shape("unet", OUT), 0.25), f"{out}.diff_b": torch.tensor([0.5, -0.5]),
             f"{head('unet', norm)}.w_norm": torch.tensor([0.125, 0.25]),
             f"{head('unet', norm)}.b_norm": torch.tensor([1.0, 2.0])}  # fmt: skip
    save_file(given, tmp_path / "a.safetensors")
    changes = {
        place("unet", OUT): lambda w: w + 0.5 * 0.25,
        place("unet", OUT, "bias"): lambda w: w + 0.5 * np.array([0.5, -0.5]),
        place("unet", norm): lambda w: w + 0.5 * np.array([0.125, 0.25]),
        place("unet", norm, "bias"): lambda w: w + 0.5 * np.array([1.0, 2.0]),
    }
    assert content(merged(model, (tmp_path / "a.safetensors", 0.5))) == expected(model, changes)


def test_dtype_casts_all_and_sums_are_rounded_once_to_it(tmp_path: Path) -> None:
    model, a = base(tmp_path / "base.safetensors", torch.float32), lora(tmp_path / "a.safetensors")
    out = load_file(merged(model, (a, 0.7), dtype="fp16"))
    before = load_file(model)
    for name, make in sums({a: (0.7, 0.7)}).items():
        assert np.array_equal(out.pop(name).numpy(), make(before[name].double().numpy()).astype("f2"))
    for name, value in out.items():
        assert torch.equal(value, before[name].half() if before[name].is_floating_point() else before[name])


def test_rounding_by_chance_hits_a_neighbour_follows_its_seed_and_is_right_in_the_mean(tmp_path: Path) -> None:
    model, a = base(tmp_path / "base.safetensors", torch.bfloat16), lora(tmp_path / "a.safetensors")
    runs = [load_file(merged(model, (a, 0.7), rounding="stochastic", seed=seed)) for seed in range(40)]
    again = load_file(merged(model, (a, 0.7), rounding="stochastic", seed=7))
    assert all(torch.equal(again[name], value) for name, value in runs[7].items())
    before = load_file(model)
    for name, make in sums({a: (0.7, 0.7)}).items():
        exact = make(before[name].double().numpy())
        found = np.stack([run[name].double().numpy() for run in runs])
        unit = 2.0 ** (np.floor(np.log2(np.abs(exact))) - 7)
        assert (np.abs(found - exact) < unit).all()
        assert (np.abs(found.mean(0) - exact) < unit / 2).all()
    assert any(not torch.equal(runs[0][name], runs[1][name]) for name in sums({a: (1, 1)}))


def test_what_is_not_wanted_need_not_fit(tmp_path: Path) -> None:
    model, a = base(tmp_path / "base.safetensors"), lora(tmp_path / "a.safetensors")
    tensors = load_file(model)
    del tensors[place("text_encoder", TEXT)], tensors[place("unet", Q)]
    save_file(tensors, model)
    wanted = sums({a: (0.5, 0.0)}, {"unet": (K2, OUT, CONV, PROJ)})
    assert content(merged(model, (a, 0.5, 0.0), exclude=[f"unet.{Q}"])) == expected(model, wanted)


def test_a_pair_of_rank_0_changes_nothing(tmp_path: Path) -> None:
    model, a = base(tmp_path / "base.safetensors"), lora(tmp_path / "a.safetensors")
    wanted = sums({a: (1.0, 1.0)}, {"unet": (K2, OUT, CONV, PROJ), "text_encoder": (TEXT,)})
    changed = expected(model, wanted)
    tensors = load_file(a)
    tensors |= {
        f"{head('unet', Q)}.lora_down.weight": torch.ones(0, 2),
        f"{head('unet', Q)}.lora_up.weight": torch.ones(2, 0),
    }
    save_file(tensors, a)
    assert content(merged(model, a)) == changed


def test_the_ledger_has_every_tensor_once_and_the_size_is_known_before(tmp_path: Path) -> None:
    model, a = base(tmp_path / "base.safetensors"), lora(tmp_path / "a.safetensors")
    out = tmp_path / "out.safetensors"
    dry = merge(model, [a], out, architecture="sd1", dry_run=True)
    assert not out.exists()
    done = merge(model, [a], out, architecture="sd1")
    assert dry.size == done.size == out.stat().st_size
    assert dry.entries == done.entries
    sources = [place for entry in done.entries for place in entry.source]
    assert sorted(sources) == sorted(
        [f"{model}:{name}" for name in load_file(model)] + [f"{a}:{name}" for name in load_file(a)]
    )
    assert (done.command, done.exactness, done.modules, done.summary["compute"]) == ("merge", "exact", 6, 6 + 18)


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        ({"include": ["text_encoder.*"]}, [("text_encoder", TEXT, 1)]),
        ({"exclude": ["unet.*"]}, [("text_encoder", TEXT, 1)]),
        ({"include": ["*.attn1.*", "*.attn2.*"], "exclude": ["*.to_k"]}, [("unet", Q, 1), ("unet", OUT, 1)]),
        ({"blocks": "OUTALL"}, [("text_encoder", TEXT, 1), ("unet", OUT, 1)]),
        ({"blocks": "0,0.5" + ",0" * 15}, [("unet", Q, 0.5), ("unet", PROJ, 0.5), ("unet", CONV, 0.5)]),
        ({"blocks": "0,0,0.5" + ",0" * 23}, [("unet", Q, 0.5), ("unet", PROJ, 0.5), ("unet", CONV, 0.5)]),
        ({"blocks": ",".join("1" if number == 13 else "0" for number in range(26))}, [("unet", K2, 1)]),
    ],
)  # fmt: skip
def test_blocks_and_patterns_say_which_modules_are_merged(tmp_path: Path, options: dict, changed: list) -> None:
    model, a = base(tmp_path / "base.safetensors"), lora(tmp_path / "a.safetensors")
    wanted = {place(component, module): partial(plus, {a: (factor, factor)}, component, module)
              for component, module, factor in changed}  # fmt: skip
    assert content(merged(model, a, **options)) == expected(model, wanted)


def test_a_checkpoint_of_torch_becomes_a_safetensors_file_of_the_same_names(tmp_path: Path) -> None:
    model, a = base(tmp_path / "base.safetensors"), lora(tmp_path / "a.safetensors")
    torch.save({"state_dict": load_file(model), "global_step": 3}, tmp_path / "base.ckpt")
    merge(tmp_path / "base.ckpt", [a], tmp_path / "out.safetensors", architecture="sd1")
    assert content(tmp_path / "out.safetensors") == expected(model, sums({a: (1.0, 1.0)}))


def test_shards_and_documents_of_a_folder_are_carried_over(tmp_path: Path) -> None:
    model, a = base(tmp_path / "base.safetensors"), lora(tmp_path / "a.safetensors")
    convert(model, tmp_path / "folder", to="diffusers", architecture="sd1")
    unet = tmp_path / "folder" / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(unet)
    names = list(tensors)
    parts = {"diffusion_pytorch_model-00001-of-00002.safetensors": names[:300],
             "diffusion_pytorch_model-00002-of-00002.safetensors": names[300:]}  # fmt: skip
    for name, held in parts.items():
        save_file({one: tensors[one] for one in held}, unet.parent / name)
    unet.unlink()
    index = {"metadata": {}, "weight_map": {one: name for name, held in parts.items() for one in held}}
    (unet.parent / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    merge(tmp_path / "folder", [a], tmp_path / "out", architecture="sd1")
    convert(tmp_path / "out", tmp_path / "out.safetensors", to="single-file", architecture="sd1")
    merge(model, [a], tmp_path / "direct.safetensors", architecture="sd1")
    names = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert {"model_index.json", "unet/config.json", "tokenizer/merges.txt"} < names
    told = [json.loads(fields["adapterhub.recipe"]) for fields in map(_metadata, sorted((tmp_path / "out").rglob("*.safetensors")))
            if fields and "adapterhub.recipe" in fields]  # fmt: skip
    assert [one["command"] for one in told] == ["merge"]
    again = merge(None, [], tmp_path / "again", recipe=tmp_path / "out")
    assert again.summary == merge(tmp_path / "folder", [a], tmp_path / "o", architecture="sd1", dry_run=True).summary
    assert not any("index.json" in name for name in names - {"model_index.json"})
    found, wanted = content(tmp_path / "out.safetensors"), content(tmp_path / "direct.safetensors")
    assert {name: held for name, held in found.items() if "position_ids" not in name} == {
        name: held for name, held in wanted.items() if "position_ids" not in name
    }
