"""Adapters that contradict themselves: `inspect` shows where, `convert` refuses, and leaves out what may go if it is told to."""

import pytest

import adapterhub
from adapterhub.errors import BrokenAdapter, LossyConversion

HEAD = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0"
Q, K = f"{HEAD}_attn1_to_q", f"{HEAD}_attn2_to_k"
MODULE = "unet.down_blocks.0.attentions.0.transformer_blocks.0"
WHOLE = {f"{Q}.lora_down.weight": (2, 320), f"{Q}.lora_up.weight": (320, 2), f"{Q}.alpha": (),
         f"{K}.lora_down.weight": (2, 768), f"{K}.lora_up.weight": (320, 2), f"{K}.alpha": ()}  # fmt: skip
TRUE_SDXL = "lora_unet_input_blocks_4_1_transformer_blocks_1_attn2_to_k"


def without(*suffixes: str) -> dict[str, tuple[int, ...]]:
    return {name: shape for name, shape in WHOLE.items() if name not in {f"{Q}{suffix}" for suffix in suffixes}}


# tensors, the code, where
DROPPABLE = {
    "no up": (without(".lora_up.weight"), "missing-pair", f"{MODULE}.attn1.to_q"),
    "no down": (without(".lora_down.weight"), "missing-pair", f"{MODULE}.attn1.to_q"),
    "only alpha": (without(".lora_up.weight", ".lora_down.weight"), "orphan-key", f"{MODULE}.attn1.to_q"),
    "a width of another model": ({**WHOLE, f"{Q}.lora_down.weight": (2, 321)}, "shape-mismatch", f"{MODULE}.attn1.to_q"),
    "two algorithms in one module": ({**WHOLE, f"{Q}.hada_w1_a": (320, 2)}, "orphan-key", f"{MODULE}.attn1.to_q"),
}  # fmt: skip
HOPELESS = {
    "ranks that differ": ({**WHOLE, f"{Q}.lora_up.weight": (320, 3)}, "rank-mismatch", f"{MODULE}.attn1.to_q"),
    "factors that are no matrices": ({**WHOLE, f"{Q}.lora_up.weight": (320,)}, "impossible-shape", f"{MODULE}.attn1.to_q"),
    "two spellings of one module": ({**WHOLE, f"{Q}_.lora_up.weight": (320, 2)}, "duplicate-module", None),
    "two layouts of one module": (
        {**WHOLE, f"{HEAD}_attn1_processor_to_q.lora_down.weight": (2, 320), f"{HEAD}_attn1_processor_to_q.lora_up.weight": (320, 2)},
        "duplicate-module", None,
    ),
    "two alphas": ({**WHOLE, f"{Q}.alpha": (2,)}, "alpha-shape", f"{MODULE}.attn1.to_q"),
}  # fmt: skip


def errors(document) -> list[tuple[str, str]]:
    return [(problem.code, problem.where) for problem in document.problems if problem.severity == "error"]


@pytest.mark.parametrize(("shapes", "code", "where"), DROPPABLE.values(), ids=DROPPABLE.keys())
def test_a_broken_module_is_shown_refused_and_left_out_if_that_is_allowed(shapes, code, where, written, tmp_path):
    path, out = written(shapes), tmp_path / "out.safetensors"
    assert errors(adapterhub.inspect(path)) == [(code, where)]
    with pytest.raises(BrokenAdapter) as refusal:
        adapterhub.convert(path, out, to="diffusers")
    assert refusal.value.places == (where,)
    assert not out.exists()
    done = adapterhub.convert(path, out, to="diffusers", allow_loss=True)
    dropped = [place for entry in done.entries if entry.action == "drop" for place in entry.source]
    assert sorted(dropped) == sorted(name for name in shapes if name.startswith(f"{Q}."))
    assert all(entry.reason for entry in done.entries if entry.action == "drop")
    assert (done.exactness, done.modules, adapterhub.inspect(out).components) == ("partial", 1, {"unet": 1})


@pytest.mark.parametrize(("shapes", "code", "where"), HOPELESS.values(), ids=HOPELESS.keys())
@pytest.mark.parametrize("allow_loss", [False, True])
def test_a_contradiction_is_shown_and_refused_whatever_is_allowed(shapes, code, where, allow_loss, written, tmp_path):
    path, out = written(shapes), tmp_path / "out.safetensors"
    found = errors(adapterhub.inspect(path))
    assert {each for each, _ in found} == {code}
    assert where is None or found == [(code, where)]
    with pytest.raises(BrokenAdapter) as refusal:
        adapterhub.convert(path, out, to="diffusers", allow_loss=allow_loss)
    assert refusal.value.places == tuple(place for _, place in found)
    assert not out.exists()


@pytest.mark.parametrize(
    "names", [("kept.weight",), ("a.alpha", "b.lora_up.weight"), ("lora_unet_nowhere.lora_down.weight",)]
)
def test_a_key_that_no_module_has_is_lost_only_if_that_is_allowed(names, written, tmp_path):
    path, out = written({**WHOLE, **dict.fromkeys(names, (2, 2))}), tmp_path / "out.safetensors"
    found = adapterhub.inspect(path)
    assert errors(found) == [("unknown-key", name) for name in sorted(names)]
    assert (found.kind, found.layout, found.architecture, found.algorithms) == ("lora", None, "sd1", {"lora": 2})
    with pytest.raises(LossyConversion) as refusal:
        adapterhub.convert(path, out, to="comfyui")
    assert sorted(name for name, _ in refusal.value.losses) == sorted(names)
    assert not out.exists()
    done = adapterhub.convert(path, out, to="comfyui", allow_loss=True)
    assert sorted(entry.source[0] for entry in done.entries if entry.action == "drop") == sorted(names)
    assert adapterhub.inspect(out).algorithms == {"lora": 2}


MIXED = {
    "Kohya": {**WHOLE, f"{TRUE_SDXL}.lora_down.weight": (2, 2048), f"{TRUE_SDXL}.lora_up.weight": (640, 2)},
    "Kohya, by text encoders": {**WHOLE, "lora_te2_text_model_encoder_layers_31_mlp_fc1.lora_down.weight": (2, 1280),
                                "lora_te2_text_model_encoder_layers_31_mlp_fc1.lora_up.weight": (5120, 2)},
    "diffusers": {
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight": (2, 768),
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.lora_B.weight": (320, 2),
        "unet.down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_k.lora_A.weight": (2, 2048),
        "unet.down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_k.lora_B.weight": (640, 2),
    },
}  # fmt: skip


@pytest.mark.parametrize("shapes", MIXED.values(), ids=MIXED.keys())
@pytest.mark.parametrize("allow_loss", [False, True])
def test_sd1_and_sdxl_in_one_file_are_shown_and_refused(shapes, allow_loss, written, tmp_path):
    path, out = written(shapes), tmp_path / "out.safetensors"
    found = adapterhub.inspect(path)
    assert (found.kind, found.architecture) == ("lora", None)
    (mixed,) = [problem for problem in found.problems if problem.code == "mixed-architectures"]
    assert (mixed.severity, {"sd1", "sdxl"} <= {*mixed.message.split()}) == ("error", True)
    with pytest.raises(BrokenAdapter, match="stand side by side"):
        adapterhub.convert(path, out, to="kohya", allow_loss=allow_loss)
    assert not out.exists()
