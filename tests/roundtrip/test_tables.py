"""Every layout is a bijection: no two keys share a place, and every place is read back as the key that was written there."""

from collections.abc import Iterator

import pytest

import adapterhub.architectures as architectures
import adapterhub.layouts as layouts
from adapterhub.adapter import Key, Kind, Role
from adapterhub.files import File, Package
from adapterhub.layouts.lora.spelled import EMBEDDING, split
from adapterhub.tensors import LazyTensor

LORA_LAYOUTS = [layout for layout in layouts.every() if layout.kind is Kind.LORA]
CASES = [
    pytest.param(layout, architectures.get(name), id=f"{layout.name}-{name}")
    for layout in LORA_LAYOUTS
    for name in architectures.NAMES
    if not (layout.name == "cloneofsimo" and name.startswith("sdxl"))
]
IN_A_CONFIG = {Role.OFT_TERMS}
ONE = LazyTensor("F16", (1, 1, 1, 1), lambda: (b"\0\0",))


def places(layout: layouts.Layout, architecture: architectures.Architecture) -> Iterator[tuple[Key, str]]:
    """Every key that the layout has a place for as a tensor, and that place."""
    for component, modules in architecture.weights.items():
        for role in layout.roles(component).keys() - IN_A_CONFIG:
            for module in modules:
                key = Key(component, module, role)
                place = layout.place(key, architecture.name)
                if place is not None:
                    yield key, place


def package_of(named: Iterator[str]) -> Package:
    """A package with a tensor at each place; `file:name` where a layout writes several files."""
    files: dict[str, dict[str, LazyTensor]] = {}
    for place in named:
        file, colon, name = place.partition("safetensors:")
        files.setdefault(f"{file}safetensors" if colon else "lora.safetensors", {})[name if colon else place] = ONE
    return Package.new({file: File(tensors) for file, tensors in files.items()})


@pytest.mark.parametrize(("layout", "architecture"), CASES)
def test_every_key_has_its_own_place_and_is_read_back_from_it(layout, architecture):
    written = dict(places(layout, architecture))
    assert len({*written.values()}) == len(written)
    package = package_of(iter(written.values()))
    spelled = {name: split(file.tensors) for name, file in package.files.items()}
    fit = layout.explains(package, spelled, architecture)
    assert (fit.unplaced, fit.doubles, fit.mended) == ((), (), {})
    assert layout.decode(package, fit).places == written


@pytest.mark.parametrize(("layout", "architecture"), CASES)
def test_every_attention_of_the_unet_and_the_text_encoders_has_a_place_for_lora(layout, architecture):
    for component in architecture.weights.keys() - {"vae"}:
        for module in architecture.weights[component]:
            if ".self_attn." in module or module.endswith((".to_q", ".to_k", ".to_v", ".to_out.0")):
                for role in (Role.DOWN, Role.UP):
                    assert layout.place(Key(component, module, role), architecture.name)


@pytest.mark.parametrize(("layout", "architecture"), CASES)
def test_the_vae_has_no_place_anywhere(layout, architecture):
    for role in layout.roles("vae"):
        assert layout.place(Key("vae", "decoder.conv_in", role), architecture.name) is None


@pytest.mark.parametrize("layout", ["kohya", "kohya-diffusers-names", "omi"])
@pytest.mark.parametrize("token", ["crane.string_to_param.*", "a.b.clip_l", "<s1>.clip_g", "lora_down.weight.clip_l"])
def test_a_token_that_travels_along_is_read_back(layout, token):
    key = Key(EMBEDDING, token, Role.VECTORS)
    place = layouts.get(layout).place(key, "sdxl")
    assert place == f"bundle_emb.{token}"
    assert split({place: ONE}).bundled == {place: key}


def test_a_flat_diffusers_name_means_one_module_whatever_the_architecture():
    """formats/lora.md §3.3: the union of all flat tables has no conflicts."""
    meant: dict[str, set[str]] = {}
    for name in architectures.NAMES:
        for head, module in layouts.get("kohya-diffusers-names").table(name).items():
            meant.setdefault(head, set()).add(module.module)
    assert {len(modules) for modules in meant.values()} == {1}


@pytest.mark.parametrize(("architecture", "component", "targets"), [
    ("sd1", "unet", 192), ("sd2", "unet", 192), ("sdxl", "unet", 722), ("sdxl-refiner", "unet", 462),
    ("sd1", "text_encoder", 72), ("sd2", "text_encoder", 138), ("sdxl", "text_encoder", 72), ("sdxl", "text_encoder_2", 192),
])  # fmt: skip
def test_the_table_holds_as_many_of_kohyas_default_targets_as_its_files_do(architecture, component, targets):
    """formats/lora.md §3.1: all linear layers and projections of the attentions, of a text encoder's layers all of them."""
    table = layouts.get("kohya").table(architecture)
    inside = ".attentions." if component == "unet" else ".layers."
    modules = [module.module for module in table.values() if module.component == component and inside in module.module]
    assert sum(1 for module in modules if "norm" not in module.rpartition(".")[2]) == targets
