"""Which architecture a file fits: every rule of formats/lora.md §5.2 on files of a single module, and §5.5 for text encoders."""

import pytest

import adapterhub
import adapterhub.architectures as architectures
import adapterhub.layouts as layouts

BLOCK = "lora_unet_{}_attentions_0_transformer_blocks_{}"


def verdicts(identity) -> set[str]:
    return {identity.fit.architecture, *identity.also}


def targets(architecture: str) -> list[str]:
    """The modules that Kohya trains by default: everything in the attentions but norms."""
    return [
        path
        for path in architectures.get(architecture).weights["unet"]
        if ".attentions." in path and "norm" not in path
    ]


@pytest.mark.parametrize(("architecture", "count", "undecidable"), [
    ("sd1", 192, 40), ("sd2", 192, 50), ("sdxl", 722, 50), ("sdxl-refiner", 462, 0),
])  # fmt: skip
@pytest.mark.parametrize("layout", ["kohya-diffusers-names", "comfyui"])
def test_no_single_module_is_taken_for_another_family(layout, architecture, count, undecidable, identified):
    """Rules 1 to 9 decide all but 50 modules of each, which SD and SDXL share, and rule 11 another 10 of SD 1, whose
    projections are convolutions there alone. The refiner is always told.
    """
    weights = architectures.get(architecture).weights["unet"]
    heads = {
        module.module: head
        for head, module in layouts.get(layout).table(architecture).items()
        if module.component == "unet"
    }
    found = {path: verdicts(identified({heads[path]: weights[path]})) for path in targets(architecture)}
    assert len(found) == count
    assert all(architecture in verdict for verdict in found.values())
    families = [{"sd" if name in ("sd1", "sd2") else name for name in verdict} for verdict in found.values()]
    assert sum(1 for verdict in families if len(verdict) > 1) == undecidable


@pytest.mark.parametrize(("head", "weight", "architecture"), [
    # 1: the width of the text in cross attention
    (BLOCK.format("down_blocks_1", 0) + "_attn2_to_k", (640, 768), "sd1"),
    (BLOCK.format("down_blocks_1", 0) + "_attn2_to_v", (640, 1024), "sd2"),
    (BLOCK.format("down_blocks_1", 0) + "_attn2_to_k", (640, 2048), "sdxl"),
    (BLOCK.format("down_blocks_1", 0) + "_attn2_to_v", (768, 1280), "sdxl-refiner"),
    # 2: embeddings of sizes, of time, and the first convolution
    ("lora_unet_add_embedding_linear_1", (1280, 2816), "sdxl"),
    ("lora_unet_add_embedding_linear_1", (1536, 2560), "sdxl-refiner"),
    ("lora_unet_label_emb_0_0", (1280, 2816), "sdxl"),
    ("lora_unet_label_emb_0_0", (1536, 2560), "sdxl-refiner"),
    ("lora_unet_down_blocks_0_resnets_0_time_emb_proj", (384, 1536), "sdxl-refiner"),
    ("lora_unet_conv_in", (384, 4, 3, 3), "sdxl-refiner"),
    # 3: the refiner's widths
    (BLOCK.format("down_blocks_1", 0) + "_attn1_to_q", (768, 768), "sdxl-refiner"),
    (BLOCK.format("mid_block", 0) + "_attn1_to_q", (1536, 1536), "sdxl-refiner"),
    # 4 to 7: where there is attention, and how wide
    (BLOCK.format("down_blocks_0", 0) + "_attn1_to_q", (320, 320), "sd1"),
    (BLOCK.format("up_blocks_3", 0) + "_attn1_to_q", (320, 320), "sd1"),
    (BLOCK.format("up_blocks_0", 0) + "_attn1_to_q", (1280, 1280), "sdxl"),
    (BLOCK.format("up_blocks_1", 0) + "_attn1_to_q", (1280, 1280), "sd1"),
    (BLOCK.format("up_blocks_1", 0) + "_attn1_to_q", (640, 640), "sdxl"),
    (BLOCK.format("up_blocks_2", 0) + "_attn1_to_q", (640, 640), "sd1"),
    # 8: a second block in one place
    (BLOCK.format("down_blocks_1", 1) + "_attn1_to_q", (640, 640), "sdxl"),
    (BLOCK.format("mid_block", 9) + "_attn1_to_q", (1280, 1280), "sdxl"),
    # 9: blocks that SDXL lacks
    ("lora_unet_down_blocks_3_resnets_0_conv1", (1280, 1280, 3, 3), "sd1"),
    ("lora_unet_up_blocks_3_resnets_0_conv1", (320, 960, 3, 3), "sd1"),
    ("lora_unet_input_blocks_7_1_transformer_blocks_9_attn1_to_q", (1280, 1280), "sdxl"),
])  # fmt: skip
def test_a_single_module_tells_the_architecture(head, weight, architecture, identified):
    identity = identified({head: weight})
    assert identity.fit.architecture == architecture
    assert {*identity.also} <= ({"sd2"} if architecture == "sd1" else set())
    assert identity.fit.misfits == ()


@pytest.mark.parametrize(("proj", "weight", "architecture"), [
    ("proj_in", (320, 320, 1, 1), "sd1"), ("proj_out", (320, 320, 1, 1), "sd1"),
    ("proj_in", (320, 320), "sd2"), ("proj_out", (320, 320), "sd2"),
])  # fmt: skip
def test_rule_11_a_projection_by_convolution_is_sd1_and_a_linear_one_sd2(proj, weight, architecture, identified):
    identity = identified({f"lora_unet_down_blocks_0_attentions_0_{proj}": weight})
    assert (identity.fit.architecture, identity.also) == (architecture, ())


def test_rule_11_all_else_of_sd_is_taken_for_sd1_and_said_to_be_uncertain(identified):
    identity = identified({BLOCK.format("down_blocks_0", 0) + "_attn1_to_q": (320, 320)})
    assert (identity.fit.architecture, identity.also) == ("sd1", ("sd2",))


def test_rule_12_what_shapes_cannot_tell_is_said_to_be_uncertain(identified):
    identity = identified({BLOCK.format("mid_block", 0) + "_attn1_to_q": (1280, 1280)})
    assert verdicts(identity) == {"sd1", "sd2", "sdxl"}
    assert identity.also


@pytest.mark.parametrize(("head", "width", "verdict"), [
    ("lora_te", 768, {"sd1"}), ("lora_te", 1024, {"sd2"}), ("lora_te", 1280, {"sdxl-refiner"}),
    ("lora_te1", 768, {"sdxl"}), ("lora_te2", 1280, {"sdxl"}),
    ("text_encoders.clip_l.transformer.", 768, {"sd1", "sdxl"}), ("text_encoders.clip_h.transformer.", 1024, {"sd2"}),
    ("text_encoders.clip_g.transformer.", 1280, {"sdxl", "sdxl-refiner"}),
])  # fmt: skip
def test_a_text_encoder_alone_is_told_by_its_prefix_and_width(head, width, verdict, identified):
    """Rule 10 and §5.5."""
    dotted = "text_model.encoder.layers.0.self_attn.q_proj"
    name = f"{head}{dotted}" if head.endswith(".") else f"{head}_{dotted.replace('.', '_')}"
    assert verdicts(identified({name: (width, width)})) == verdict


def test_an_open_clip_layer_beyond_clip_l_is_sd2(identified):
    identity = identified({"lora_te_text_model_encoder_layers_22_self_attn_q_proj": (1024, 1024)})
    assert (identity.fit.architecture, identity.also) == ("sd2", ())


@pytest.mark.parametrize(("channels", "variant"), [(4, None), (9, "inpainting"), (8, "instruct-pix2pix")])
def test_the_input_convolution_tells_the_variant(channels, variant, identified):
    weights = {"lora_unet_conv_in": (320, channels, 3, 3), BLOCK.format("down_blocks_0", 0) + "_attn2_to_k": (320, 768)}
    identity = identified(weights)
    assert (identity.fit.architecture, identity.fit.variant, identity.fit.misfits) == ("sd1", variant, ())


def test_a_distilled_sdxl_with_fewer_blocks_is_sdxl(identified):
    """SSD-1B lacks blocks and keeps the names and widths of the others."""
    weights = {BLOCK.format("down_blocks_2", number) + "_attn2_to_k": (1280, 2048) for number in range(4)}
    assert verdicts(identified(weights)) == {"sdxl"}


def test_a_tiny_model_is_told_by_its_names_with_a_note(lora):
    heads = [BLOCK.format(block, 0) + "_attn1_to_q" for block in ("down_blocks_0", "down_blocks_1", "up_blocks_3")]
    found = adapterhub.inspect(lora(dict.fromkeys(heads, (32, 32))))
    assert (found.kind, found.layout, found.architecture) == ("lora", "kohya", "sd1")
    assert "other-widths" in {problem.code for problem in found.problems}
    assert "shape-mismatch" not in {problem.code for problem in found.problems}


def test_evidence_names_the_width_that_decided(identified):
    identity = identified({BLOCK.format("down_blocks_1", 0) + "_attn2_to_k": (640, 2048)})
    assert identity.evidence == ("attn2.to_k input width 2048",)


@pytest.mark.parametrize("architecture", ["sd1", "sd2", "sdxl"])
def test_an_architecture_that_is_asked_for_is_taken_where_shapes_allow_it(architecture, lora, tmp_path):
    path = lora({BLOCK.format("mid_block", 0) + "_attn1_to_q": (1280, 1280)})
    adapterhub.convert(path, tmp_path / "out.safetensors", to="kohya", architecture=architecture)
    told = adapterhub.inspect(tmp_path / "out.safetensors").metadata["modelspec.architecture"]
    assert told == f"{architectures.get(architecture).modelspec}/lora"


def test_sd1_in_original_names_is_not_taken_for_an_sdxl_of_wrong_shapes(identified):
    """`input_blocks_4_1` is a name of SDXL in Kohya's layout, and the widths are those of SD 1."""
    identity = identified({"lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k": (640, 768)})
    assert (identity.fit.architecture, identity.fit.misfits) == ("sd1", ())
