"""Files that look like adapters and are none: named by `inspect`, refused by `convert`, and nothing is written."""

import pytest

import adapterhub
from adapterhub.errors import NotAnAdapter

ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0"
LDM = "input_blocks.4.1.transformer_blocks.0"
FOREIGN = {
    "a diffusers model": ("checkpoint", {"conv_in.weight": (320, 4, 3, 3), f"{ATTENTION}.attn1.to_q.weight": (320, 320)}),
    "a ControlNet-LLLite": ("unknown", {
        f"lllite_unet_{LDM.replace('.', '_')}_attn1_to_q.conditioning1.0.weight": (32, 3, 4, 4),
        f"lllite_unet_{LDM.replace('.', '_')}_attn1_to_q.down.0.weight": (16, 640),
        f"lllite_unet_{LDM.replace('.', '_')}_attn1_to_q.up.0.weight": (640, 16),
    }),
    "a control-LoRA (a ControlNet)": ("unknown", {
        "lora_controlnet": (0,), "input_hint_block.0.weight": (16, 3, 3, 3), f"{LDM}.attn1.to_q.up": (640, 8), f"{LDM}.attn1.to_q.down": (8, 640),
    }),
    "an IP-Adapter": ("unknown", {"image_proj.proj.weight": (3072, 1024), "ip_adapter.1.to_k_ip.weight": (320, 768)}),
    "an IP-Adapter, with a LoRA": ("unknown", {"image_proj.latents": (1, 16, 1280), "ip_adapter.0.to_q_lora.down.weight": (8, 320)}),
    "a Custom Diffusion file": ("unknown", {
        f"{ATTENTION}.attn2.processor.to_k_custom_diffusion.weight": (320, 768), f"{ATTENTION}.attn2.processor.to_v_custom_diffusion.weight": (320, 768),
    }),
    "a ControlNet": ("unknown", {"controlnet_cond_embedding.conv_in.weight": (16, 3, 3, 3), "controlnet_down_blocks.0.weight": (320, 320, 1, 1)}),
    "a ControlNet, for Flux": ("unknown", {"controlnet_blocks.0.weight": (3072, 3072), "double_blocks.0.img_attn.qkv.weight": (9216, 3072)}),
    "a ControlNet, in original names": ("unknown", {"control_model.input_hint_block.0.weight": (16, 3, 3, 3)}),
}  # fmt: skip
UNEXPLAINED = {
    "a LoRA for Flux": {"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": (4, 3072),
                        "lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight": (9216, 4)},
    "a LoRA of Black Forest Labs' controls": {"double_blocks.0.img_attn.qkv.lora_A.weight": (4, 3072), "double_blocks.0.img_attn.qkv.lora_B.bias": (9216,),
                                              "double_blocks.0.img_attn.norm.key_norm.scale": (128,)},
    "a rotation for Flux": {"double_blocks.0.img_attn.qkv.oft_R.weight": (24, 8128), "double_blocks.0.img_attn.proj.dora_scale": (1, 3072)},
    "a rotation for SD 3": {"joint_blocks.0.x_block.attn.qkv.oft_R.weight": (12, 8128)},
    "names of nothing": {"a": (2,), "b.weight": (2,)},
    "no tensors": {},
    "alphas of nothing": {"somewhere.alpha": ()},
}  # fmt: skip


@pytest.mark.parametrize(
    ("title", "kind", "shapes"), [(title, *told) for title, told in FOREIGN.items()], ids=FOREIGN.keys()
)
def test_a_foreign_file_is_named_and_refused(title, kind, shapes, written, tmp_path):
    name = title.partition(",")[0]
    path = written(shapes)
    found = adapterhub.inspect(path)
    assert (found.kind, found.algorithms) == (kind, {})
    assert f"keys of {name}" in found.evidence
    for layout, target in (("kohya", "out.safetensors"), ("peft", "out")):
        with pytest.raises(NotAnAdapter, match=name.replace("(", r"\(").replace(")", r"\)")):
            adapterhub.convert(path, tmp_path / target, to=layout, allow_loss=True)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("shapes", UNEXPLAINED.values(), ids=UNEXPLAINED.keys())
def test_what_no_layout_explains_is_unknown_and_refused(shapes, written, tmp_path):
    path = written(shapes)
    found = adapterhub.inspect(path)
    assert (found.kind, found.layout, found.architecture) == ("unknown", None, None)
    with pytest.raises(NotAnAdapter, match="no layout explains its keys"):
        adapterhub.convert(path, tmp_path / "out.safetensors", to="kohya", allow_loss=True)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_one_key_of_a_checkpoint_in_an_adapter_is_an_unknown_key_of_an_adapter(lora):
    path = lora(
        {"lora_unet_conv_in": (320, 4, 3, 3), "lora_te_text_model_encoder_layers_0_mlp_fc1": (3072, 768)},
        **{"somewhere.weight": (2, 2)},
    )
    found = adapterhub.inspect(path)
    assert (found.kind, found.architecture) == ("lora", "sd1")
    assert [(problem.code, problem.where) for problem in found.problems if problem.severity == "error"] == [
        ("unknown-key", "somewhere.weight")
    ]
