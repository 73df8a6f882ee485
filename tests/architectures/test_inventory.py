"""What the inventories hold: counts that are published or follow from the models' papers, and the rules of the data."""

import json
import math
import subprocess
import sys

import pytest

from adapterhub import architectures
from adapterhub.architectures.inventory import FOLDER
from adapterhub.errors import UnknownName

# Parameters of the published weights; the text encoder of SD 2 by the formula below.
PARAMETERS = [
    ("sd1", "unet", 859_520_964),
    ("sd2", "unet", 865_910_724),
    ("sdxl", "unet", 2_567_463_684),
    ("sdxl-refiner", "unet", 2_259_526_660),
    ("sd1", "text_encoder", 123_060_480),
    ("sdxl", "text_encoder", 123_060_480),
    ("sdxl", "text_encoder_2", 694_659_840),
    ("sdxl-refiner", "text_encoder_2", 694_659_840),
    *((name, "vae", 83_653_863) for name in ("sd1", "sd2", "sdxl", "sdxl-refiner")),
]
# linear, convolution, in transformers (Kohya's targets), those and in residual blocks and samplers (with conv_dim)
UNET_MODULES = [
    ("sd1", 184, 98, 192, 278),
    ("sd2", 216, 66, 192, 278),
    ("sdxl", 743, 51, 722, 788),
    ("sdxl-refiner", 488, 66, 462, 548),
]
CROSS_ATTENTION = [
    ("sd1", {(320, 768): 5, (640, 768): 5, (1280, 768): 6}),
    ("sd2", {(320, 1024): 5, (640, 1024): 5, (1280, 1024): 6}),
    ("sdxl", {(640, 2048): 10, (1280, 2048): 60}),
    ("sdxl-refiner", {(768, 1280): 20, (1536, 1280): 24}),
]
# layers, width, attention projections, feed-forward layers
TEXT_ENCODERS = [
    ("sd1", "text_encoder", 12, 768),
    ("sd2", "text_encoder", 23, 1024),
    ("sdxl", "text_encoder", 12, 768),
    ("sdxl", "text_encoder_2", 32, 1280),
    ("sdxl-refiner", "text_encoder_2", 32, 1280),
]


def parameters(name: str, component: str) -> int:
    return sum(math.prod(shape) for _, _, shape in architectures.get(name).tensors(component))


def test_there_are_four_architectures_in_order_of_preference() -> None:
    assert architectures.NAMES == ("sd1", "sd2", "sdxl", "sdxl-refiner")


@pytest.mark.parametrize("name", ["sd15", "SDXL", "", "../sd1"])
def test_an_unknown_architecture_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(UnknownName) as refusal:
        architectures.get(name)
    assert (refusal.value.kind, refusal.value.known) == ("architecture", architectures.NAMES)


@pytest.mark.parametrize(
    ("name", "title", "modelspec", "components"),
    [
        ("sd1", "Stable Diffusion 1.x", "stable-diffusion-v1", ["unet", "text_encoder", "vae"]),
        ("sd2", "Stable Diffusion 2.x", "stable-diffusion-v2-512", ["unet", "text_encoder", "vae"]),
        ("sdxl", "Stable Diffusion XL 1.0 base", "stable-diffusion-xl-v1-base",
         ["unet", "text_encoder", "text_encoder_2", "vae"]),
        ("sdxl-refiner", "Stable Diffusion XL 1.0 refiner", "stable-diffusion-xl-v1-refiner",
         ["unet", "text_encoder_2", "vae"]),
    ],
)  # fmt: skip
def test_an_architecture_says_what_it_is(name: str, title: str, modelspec: str, components: list[str]) -> None:
    model = architectures.get(name)
    assert (model.name, model.title, model.modelspec) == (name, title, modelspec)
    assert list(model.weights) == list(model.biased) == components
    assert model.parts.keys() == model.weights.keys()


@pytest.mark.parametrize(("name", "component", "count"), PARAMETERS)
def test_parameters_are_as_many_as_published(name: str, component: str, count: int) -> None:
    assert parameters(name, component) == count


@pytest.mark.parametrize(("name", "component", "layers", "width"), TEXT_ENCODERS)
def test_a_text_encoder_is_as_large_as_its_depth_and_width_say(
    name: str, component: str, layers: int, width: int
) -> None:
    layer = 4 * (width + 1) * width + (width + 1) * 4 * width + (4 * width + 1) * width + 4 * width
    projection = width * width if component == "text_encoder_2" else 0
    assert parameters(name, component) == (49408 + 77) * width + layers * layer + 2 * width + projection


@pytest.mark.parametrize(("name", "component", "layers", "width"), TEXT_ENCODERS)
def test_a_text_encoder_layer_has_six_adaptable_modules(name: str, component: str, layers: int, width: int) -> None:
    modules = [path for path in architectures.get(name).weights[component] if ".self_attn." in path or ".mlp." in path]
    assert len(modules) == 6 * layers
    assert sum(".mlp." in path for path in modules) == 2 * layers
    assert f"text_model.encoder.layers.{layers - 1}.mlp.fc2" in modules


@pytest.mark.parametrize(("name", "linear", "convolutions", "transformers", "with_convolutions"), UNET_MODULES)
def test_unet_modules_are_as_many_as_trainers_target(
    name: str, linear: int, convolutions: int, transformers: int, with_convolutions: int
) -> None:
    shapes = {path: shape for path, shape in architectures.get(name).weights["unet"].items() if len(shape) > 1}
    blocks = (".attentions.", ".resnets.", ".downsamplers.", ".upsamplers.")
    assert sum(len(shape) == 2 for shape in shapes.values()) == linear
    assert sum(len(shape) == 4 for shape in shapes.values()) == convolutions
    assert sum(".attentions." in path for path in shapes) == transformers
    assert sum(any(block in path for block in blocks) for path in shapes) == with_convolutions


@pytest.mark.parametrize(("name", "expected"), CROSS_ATTENTION)
def test_cross_attention_reads_the_width_of_the_text_encoder(name: str, expected: dict[tuple[int, int], int]) -> None:
    shapes = [shape for path, shape in architectures.get(name).weights["unet"].items() if path.endswith("attn2.to_k")]
    assert {shape: shapes.count(shape) for shape in shapes} == expected


@pytest.mark.parametrize(
    ("name", "component", "path", "shape", "biased"),
    [
        ("sd1", "unet", "down_blocks.0.attentions.0.proj_in", (320, 320, 1, 1), True),
        ("sd2", "unet", "down_blocks.0.attentions.0.proj_in", (320, 320), True),
        ("sdxl", "unet", "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q", (640, 640), False),
        ("sdxl", "unet", "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0", (640, 640), True),
        ("sdxl", "unet", "add_embedding.linear_1", (1280, 2816), True),
        ("sdxl-refiner", "unet", "add_embedding.linear_1", (1536, 2560), True),
        ("sdxl", "unet", "conv_norm_out", (320,), True),
        ("sdxl", "text_encoder_2", "text_projection", (1280, 1280), False),
        ("sd2", "text_encoder", "text_model.embeddings.position_embedding", (77, 1024), False),
        ("sd1", "vae", "encoder.mid_block.attentions.0.to_q", (512, 512), True),
        ("sd1", "vae", "post_quant_conv", (4, 4, 1, 1), True),
    ],
)
def test_a_module_has_its_shape_and_its_bias(
    name: str, component: str, path: str, shape: tuple[int, ...], biased: bool
) -> None:
    model = architectures.get(name)
    assert model.weights[component][path] == shape
    assert (path in model.biased[component]) is biased


def test_tensors_are_listed_weight_before_bias_and_a_bias_runs_along_the_rows() -> None:
    tensors = list(architectures.get("sdxl").tensors("unet"))
    assert tensors[:3] == [
        ("conv_in", "weight", (320, 4, 3, 3)), ("conv_in", "bias", (320,)),
        ("time_embedding.linear_1", "weight", (1280, 320)),
    ]  # fmt: skip
    assert len(tensors) == 1680


@pytest.mark.parametrize("name", architectures.NAMES)
def test_an_inventory_has_one_line_a_module(name: str) -> None:
    lines = (FOLDER / f"{name}.json").read_text("utf-8").splitlines()
    modules = sum(map(len, architectures.get(name).weights.values()))
    assert sum(line.startswith(('"unet.', '"text_encoder.', '"text_encoder_2.', '"vae.')) for line in lines) == modules


@pytest.mark.parametrize("name", architectures.NAMES)
def test_a_configuration_names_the_class_of_each_component(name: str) -> None:
    configs = json.loads((FOLDER / "configs" / f"{name}.json").read_text("utf-8"))
    assert list(configs) == list(architectures.get(name).weights)
    assert all(("_class_name" in config) != ("architectures" in config) for config in configs.values())


def test_every_configuration_has_an_inventory() -> None:
    assert {path.stem for path in (FOLDER / "configs").glob("*.json")} == set(architectures.NAMES)


def test_an_architecture_is_read_once() -> None:
    assert architectures.get("sdxl") is architectures.get("sdxl")
    assert architectures.get("sdxl").single_file() is architectures.get("sdxl").single_file()


def test_reading_every_architecture_imports_no_heavy_library() -> None:
    code = (
        "import sys; from adapterhub import architectures\n"
        "for name in architectures.NAMES: architectures.get(name).single_file()\n"
        "print(sorted({'torch', 'numpy', 'pydantic', 'diffusers', 'transformers'} & sys.modules.keys()))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
