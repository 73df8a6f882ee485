"""Kohya → X → Kohya and X → Kohya → X give the same tensors, byte for byte, wherever X can hold the file."""

import json
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import adapterhub
from adapterhub import files
from adapterhub.files import File, Package
from adapterhub.tensors import LazyTensor, from_bytes, scalar

FIXTURES = Path(__file__).parents[2] / "fixtures"
MANIFEST = json.loads((FIXTURES / "manifest.json").read_text("utf-8"))

WITH_ALPHA = ("comfyui", "kohya", "kohya-diffusers-names", "omi", "diffusers", "peft")
WITHOUT_ALPHA = ("diffusers-lora-linear", "diffusers-attn-procs")
DIRECTORIES = ("peft",)
BLOCK = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0"
MODULES = {f"{BLOCK}_attn1_to_q": (320, 320), f"{BLOCK}_attn2_to_k": (320, 768), f"{BLOCK}_attn1_to_out_0": (320, 320)}


class Alpha(NamedTuple):
    """How alpha is stored."""

    value: float
    dtype: str = "F16"
    shape: tuple[int, ...] = ()


def contents(path: Path) -> dict[str, dict[str, tuple[str, tuple[int, ...], bytes]]]:
    """Every tensor at a path: by file, by name."""
    with files.read(path) as package:
        return {
            name if len(package.files) > 1 else "": {key: (t.dtype, t.shape, t.read()) for key, t in file.tensors.items()}
            for name, file in package.files.items()
        }  # fmt: skip


def there_and_back(source: Path, folder: Path, there: str, back: str) -> Path:
    middle, out = folder / there, folder / back
    middle, out = (path if path.name in DIRECTORIES else path.with_suffix(".safetensors") for path in (middle, out))
    adapterhub.convert(source, middle, to=there)
    adapterhub.convert(middle, out := out.with_stem(f"{out.stem}-again"), to=back)
    return out


def kohya(path: Path, modules: dict[str, tuple[int, str, str, Alpha | None]]) -> Path:
    """A Kohya file of (rank, dtype of down, dtype of up, alpha) by module; its numbers bear being halved in float16."""
    noise = np.random.default_rng(0)
    tensors: dict[str, LazyTensor] = {}
    for name, (rank, down, up, alpha) in modules.items():
        rows, columns = MODULES[name]
        for suffix, dtype, shape in (
            (".lora_down.weight", down, (rank, columns)),
            (".lora_up.weight", up, (rows, rank)),
        ):
            size = rows * rank if suffix == ".lora_up.weight" else rank * columns
            tensors[name + suffix] = from_bytes(
                dtype, shape, stored(np.round(noise.standard_normal(size) * 128) / 4096, dtype)
            )
        if alpha is not None:
            tensors[f"{name}.alpha"] = scalar(alpha.value, alpha.dtype).reshape(*alpha.shape)
    files.write(Package.new({path.name: File(tensors)}), path)
    return path


def stored(values: np.ndarray, dtype: str) -> bytes:
    if dtype == "BF16":
        return (values.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    return values.astype({"F16": "<f2", "F32": "<f4", "F64": "<f8"}[dtype]).tobytes()


def everywhere(alpha: Alpha | None, rank: int = 2, dtype: str = "F16") -> dict[str, tuple[int, str, str, Alpha | None]]:
    return dict.fromkeys(MODULES, (rank, dtype, dtype, alpha))


def one_by_one(*alphas: Alpha | None) -> dict[str, tuple[int, str, str, Alpha | None]]:
    return {name: (2, "F16", "F16", alpha) for name, alpha in zip(MODULES, alphas, strict=True)}


ALPHAS = {
    "as the trainer stores it": everywhere(Alpha(1)),
    "in F32 beside F16 factors": everywhere(Alpha(1, "F32")),
    "of a value that F16 lacks": everywhere(Alpha(0.1, "F32")),
    "in F64": everywhere(Alpha(0.1, "F64")),
    "in BF16 beside F16 factors": everywhere(Alpha(3, "BF16")),
    "an integer, as diffusers' script writes it": everywhere(Alpha(2, "I64")),
    "of shape [1], as LyCORIS extracts it": everywhere(Alpha(2, "F16", (1,))),
    "of shape [1, 1]": everywhere(Alpha(1, "F32", (1, 1))),
    "absent": everywhere(None),
    "absent in one module": one_by_one(Alpha(1), None, Alpha(1)),
    "absent in two modules": one_by_one(None, Alpha(2), None),
    "0": everywhere(Alpha(0)),
    "0 in one module": one_by_one(Alpha(1), Alpha(0), Alpha(1)),
    "negative": everywhere(Alpha(-1)),
    "another in every module": one_by_one(Alpha(1), Alpha(2), Alpha(3)),
    "odd in every way": one_by_one(Alpha(1, "F32", (1,)), Alpha(4, "I64"), None),
}
FACTORS = {
    "ranks": {name: (rank, "F16", "F16", Alpha(1)) for name, rank in zip(MODULES, (1, 2, 3), strict=True)},
    "dtypes": {name: (2, dtype, dtype, Alpha(1, dtype)) for name, dtype in zip(MODULES, ("F16", "BF16", "F32"), strict=True)},
    "dtypes within a module": {name: (2, "F32", dtype, Alpha(1)) for name, dtype in zip(MODULES, ("F16", "BF16", "F32"), strict=True)},
    "rank above the rows": {name: (rank, "F16", "F16", Alpha(8)) for name, rank in zip(MODULES, (1, 400, 1), strict=True)},
}  # fmt: skip


@pytest.mark.parametrize("there", WITH_ALPHA)
@pytest.mark.parametrize("modules", ALPHAS.values(), ids=[f"alpha {name}" for name in ALPHAS])
def test_a_file_with_any_alpha_comes_back_the_same(modules, there, tmp_path):
    source = kohya(tmp_path / "source.safetensors", modules)
    assert contents(there_and_back(source, tmp_path, there, "kohya")) == contents(source)


@pytest.mark.parametrize("there", WITH_ALPHA)
@pytest.mark.parametrize("modules", FACTORS.values(), ids=[f"mixed {name}" for name in FACTORS])
def test_a_file_of_mixed_factors_comes_back_the_same(modules, there, tmp_path):
    source = kohya(tmp_path / "source.safetensors", modules)
    assert contents(there_and_back(source, tmp_path, there, "kohya")) == contents(source)


@pytest.mark.parametrize("there", WITHOUT_ALPHA)
@pytest.mark.parametrize("alpha", [
    Alpha(2), Alpha(2, "F32"), Alpha(2, "F32", (1,)), Alpha(2, "I64"), None,
], ids=str)  # fmt: skip
def test_a_layout_without_alpha_gives_back_one_that_scales_by_one(alpha, there, tmp_path):
    source = kohya(tmp_path / "source.safetensors", everywhere(alpha))
    assert contents(there_and_back(source, tmp_path, there, "kohya")) == contents(source)


@pytest.mark.parametrize("there", WITHOUT_ALPHA)
def test_a_layout_without_alpha_gives_back_what_the_file_did(there, tmp_path):
    source = kohya(tmp_path / "source.safetensors", one_by_one(Alpha(1), Alpha(4), Alpha(0.5)))
    again = there_and_back(source, tmp_path, there, "kohya")
    assert contents(again) != contents(source)
    assert adapterhub.diff(source, again).equal


ALPHA = st.one_of(
    st.none(),
    st.builds(
        Alpha,
        st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 16.0, 128.0, -2.0]),
        st.sampled_from(["F16", "BF16", "F32", "F64"]),
        st.sampled_from([(), (1,), (1, 1)]),
    ),
)
DTYPE = st.sampled_from(["F16", "BF16", "F32", "F64"])
MODULE = st.tuples(st.integers(1, 4), DTYPE, DTYPE, ALPHA)


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.sampled_from([*MODULES]), MODULE, min_size=1), st.sampled_from(WITH_ALPHA))
def test_whatever_a_kohya_file_holds_comes_back_the_same(modules, there):
    with tempfile.TemporaryDirectory() as folder:
        source = kohya(Path(folder, "source.safetensors"), modules)
        assert contents(there_and_back(source, Path(folder), there, "kohya")) == contents(source)


def held(name: str, there: str) -> bool:
    """Whether the layout `there` can hold a golden file: it reads Kohya's suffixes, or has a golden file of that name."""
    stem = name.partition("/")[2].removesuffix(".safetensors")
    return there.startswith(("kohya", "omi")) or not MANIFEST.keys().isdisjoint(
        {f"{there}/{stem}", f"{there}/{stem}.safetensors"}
    )


GOLDEN = [
    (name, there) for name in MANIFEST for there in WITH_ALPHA
    if name.startswith("kohya/") and held(name, there)
]  # fmt: skip


@pytest.mark.parametrize(("name", "there"), GOLDEN)
def test_every_algorithm_comes_back_to_kohya_the_same(name, there, tmp_path):
    source = FIXTURES / name
    assert contents(there_and_back(source, tmp_path, there, "kohya")) == contents(source)


# PEFT's AdaLoRA, the scale of its whole LoKr and its multipliers around 1 are said in other ways from then on.
SAID_OTHERWISE = ("adalora", "lokr-right", "ia3-multiplier")
NO_KOHYA = ("boft-input",)
OTHERS = [
    name
    for name in MANIFEST
    if not name.startswith(("demo", "kohya/")) and not name.endswith((*SAID_OTHERWISE, *NO_KOHYA))
]


@pytest.mark.parametrize("name", OTHERS)
def test_every_layout_comes_back_from_kohya_the_same(name, tmp_path):
    source = FIXTURES / name
    assert contents(there_and_back(source, tmp_path, "kohya", MANIFEST[name]["layout"])) == contents(source)


@pytest.mark.parametrize("name", [name for name in MANIFEST if name.endswith(SAID_OTHERWISE)])
def test_what_kohya_says_otherwise_still_does_the_same(name, tmp_path):
    source = FIXTURES / name
    assert adapterhub.diff(source, there_and_back(source, tmp_path, "kohya", "peft")).equal
