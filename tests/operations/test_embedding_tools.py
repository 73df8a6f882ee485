"""Embeddings merged, scaled and trimmed. Expected values are float64 formulas."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

import adapterhub
from adapterhub import embeddings
from adapterhub.errors import LossyConversion, OutputExists, RefusedInput, UsageError

WIDTHS = {"clip_l": 768, "clip_g": 1280}


def normal(rows: int, width: int = 768, seed: int = 0, dtype: type = np.float32) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((rows, width)) / 50).astype(dtype)


def embedding(path: Path, rows: int = 2, seed: int = 0, dtype: type = np.float32) -> Path:
    save_file({"emb_params": normal(rows, seed=seed, dtype=dtype)}, path)
    return path


def of_two(path: Path, rows: int = 2, of_second: int | None = None) -> Path:
    save_file(
        {name: normal(of_second or rows if name == "clip_g" else rows, width) for name, width in WIDTHS.items()}, path
    )
    return path


def vectors(path: Path, name: str = "emb_params") -> np.ndarray:
    return load_file(path)[name]


@pytest.fixture
def three(tmp_path: Path) -> Path:
    return embedding(tmp_path / "three.safetensors", 3, seed=3)


@pytest.fixture
def two(tmp_path: Path) -> Path:
    return embedding(tmp_path / "two.safetensors", 2, seed=2)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "made.safetensors"


def test_a_sum_is_computed_in_float64_with_zeros_for_missing_rows_and_rounded_once(three, two, target):
    done = embeddings.merge([(three, 0.3), (two, -1.7)], target)
    exact = 0.3 * normal(3, seed=3).astype("f8")
    exact[:2] += -1.7 * normal(2, seed=2).astype("f8")
    np.testing.assert_array_equal(vectors(target), exact.astype("f4"))
    error = np.abs(exact.astype("f4").astype("f8") - exact).max() / np.abs(exact).max()
    assert done.max_error == pytest.approx(error, rel=1e-12)
    assert (done.command, done.exactness, done.modules) == ("embedding merge", "exact", 1)
    (entry,) = done.entries
    assert {*entry.source} == {f"{three}:emb_params", f"{two}:emb_params"}
    assert (entry.target, entry.action) == (["emb_params"], "compute")
    assert entry.reason == (
        "0.3 · three.safetensors + -1.7 · two.safetensors; two.safetensors has 2 of 3 rows, and zeros follow"
    )


def test_every_input_is_told_with_its_digest_and_the_first_is_the_source(three, two, target):
    done = embeddings.merge([three, two], target)
    assert [source.path for source in done.inputs] == [str(three), str(two)]
    assert [source.sha256 for source in done.inputs] == [
        adapterhub.inspect(path, hash=True).hashes.sha256 for path in (three, two)
    ]
    assert done.source == done.inputs[0]


def test_the_result_is_called_as_its_file_and_keeps_only_fields_that_all_inputs_share(tmp_path, target):
    for name, author in (("a", "me"), ("b", "me"), ("c", "you")):
        fields = {"modelspec.author": author, "modelspec.license": "CC0", "modelspec.title": "old", "name": "old"}
        save_file({"emb_params": normal(1)}, tmp_path / f"{name}.safetensors", fields)
    embeddings.merge([tmp_path / f"{name}.safetensors" for name in "abc"], target)
    found = adapterhub.inspect(target)
    assert [token.token for token in found.tokens] == ["made"]
    told = {name: found.metadata.get(f"modelspec.{name}") for name in ("title", "author", "license", "merged_from")}
    assert told == {"title": "made", "author": None, "license": "CC0", "merged_from": "a, b, c"}
    assert "name" not in found.metadata


@pytest.mark.parametrize(("dtypes", "expected"), [
    (("f2", "f4"), "f4"), (("f2", "f2"), "f2"), (("f4", "f8"), "f8"), (("f8", "f8"), "f8"),
])  # fmt: skip
def test_the_result_has_the_widest_dtype(tmp_path, target, dtypes, expected):
    paths = [embedding(tmp_path / f"{seed}.safetensors", seed=seed, dtype=np.dtype(dtype).type)
             for seed, dtype in enumerate(dtypes)]  # fmt: skip
    embeddings.merge([(path, 0.7) for path in paths], target)
    exact = sum(0.7 * vectors(path).astype("f8") for path in paths)
    assert vectors(target).dtype == expected
    np.testing.assert_array_equal(vectors(target), exact.astype(expected))


def test_bfloat16_and_float16_meet_in_float32_and_bfloat16_alone_is_rounded_once(tmp_path, target):
    from safetensors.torch import load_file as load
    from safetensors.torch import save_file as save

    wide = torch.tensor(normal(1)).to(torch.bfloat16)
    save({"emb_params": wide}, tmp_path / "b.safetensors")
    embedding(tmp_path / "f.safetensors", 1, dtype=np.float16)
    embeddings.merge([tmp_path / "b.safetensors", tmp_path / "f.safetensors"], target)
    assert vectors(target).dtype == np.float32
    embeddings.scale(tmp_path / "b.safetensors", target, 1 / 3, force=True)
    assert torch.equal(load(target)["emb_params"], (wide.double() / 3).to(torch.bfloat16))


def test_a_narrower_dtype_is_approximate_and_measured(three, target):
    done = embeddings.merge([(three, 0.3)], target, dtype="fp16")
    exact = 0.3 * normal(3, seed=3).astype("f8")
    np.testing.assert_array_equal(vectors(target), exact.astype("f2"))
    error = np.abs(exact.astype("f2").astype("f8") - exact).max() / np.abs(exact).max()
    assert done.exactness == "approximate"
    assert done.max_error == pytest.approx(error, rel=1e-12)


def test_concatenation_joins_bytes(three, two, target):
    done = embeddings.merge([three, two], target, method="concat")
    assert vectors(target).tobytes() == vectors(three).tobytes() + vectors(two).tobytes()
    assert (done.exactness, done.max_error) == ("bit-exact", 0.0)
    assert [(entry.action, entry.reason) for entry in done.entries] == [
        ("join", "rows: 3 of three.safetensors, 2 of two.safetensors")
    ]


def test_concatenation_multiplies_by_weights(three, two, target):
    done = embeddings.merge([three, (two, 0.1)], target, method="concat")
    expected = np.concatenate([vectors(three), (0.1 * vectors(two).astype("f8")).astype("f4")])
    np.testing.assert_array_equal(vectors(target), expected)
    assert done.exactness == "exact"


def test_both_text_encoders_of_sdxl_are_merged(tmp_path, target):
    of_two(tmp_path / "a.safetensors")
    embeddings.merge([(tmp_path / "a.safetensors", 0.5)] * 2, target)
    for name, width in WIDTHS.items():
        np.testing.assert_array_equal(vectors(target, name), normal(2, width))


@pytest.mark.parametrize("factor", [2.0, 0.25, -1.0])
def test_a_power_of_two_is_exact(three, target, factor):
    done = embeddings.scale(three, target, factor)
    np.testing.assert_array_equal(vectors(target), vectors(three) * np.float32(factor))
    assert (done.exactness, done.max_error) == ("bit-exact", 0.0)


def test_a_factor_is_rounded_once_and_the_rest_stays_what_it_was(tmp_path, target):
    source = tmp_path / "style.safetensors"
    save_file({"emb_params": normal(2, dtype=np.float16)}, source, {"modelspec.author": "me"})
    done = embeddings.scale(source, target, 1 / 3, to="diffusers", token="<style>")
    np.testing.assert_array_equal(
        vectors(target, "<style>"), (normal(2, dtype=np.float16).astype("f8") / 3).astype("f2")
    )
    assert done.exactness == "exact"
    assert adapterhub.inspect(target).metadata["modelspec.author"] == "me"


def test_every_vector_gets_the_length_that_is_asked_for(three, target):
    embeddings.scale(three, target, to_norm=0.4)
    exact = vectors(three).astype("f8")
    exact *= 0.4 / np.linalg.norm(exact, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors(target), exact, rtol=1e-7)


@pytest.mark.parametrize(
    ("wanted", "rows"), [(2, slice(0, 2)), ((2, 3), slice(1, 3)), ((3, 3), slice(2, 3)), (3, slice(0, 3))]
)
def test_trimming_keeps_bytes(three, target, wanted, rows):
    done = embeddings.trim(three, target, wanted)
    assert vectors(target).tobytes() == vectors(three)[rows].tobytes()
    assert (done.exactness, done.max_error) == ("bit-exact", 0.0)


def test_trimming_mends_what_every_other_command_refuses(tmp_path, target):
    uneven = of_two(tmp_path / "uneven.safetensors", 3, of_second=1)
    with pytest.raises(RefusedInput, match="trim"):
        embeddings.scale(uneven, target, 2.0)
    done = embeddings.trim(uneven, target, 1)
    assert {entry.target[0]: entry.action for entry in done.entries} == {"clip_l": "split", "clip_g": "copy"}
    assert {name: value.shape for name, value in load_file(target).items()} == {n: (1, w) for n, w in WIDTHS.items()}


@pytest.mark.parametrize(("name", "layout"), [
    ("made.pt", "a1111"), ("made.safetensors", "kohya"), ("made.png", "a1111-image"), ("made.bin", "diffusers"),
])  # fmt: skip
def test_any_layout_is_written_and_read_back(three, tmp_path, name, layout):
    done = embeddings.scale(three, tmp_path / name, 3.0, to=layout)
    again = embeddings.scale(tmp_path / name, tmp_path / "again.safetensors", 1.0, to="kohya")
    np.testing.assert_array_equal(
        vectors(tmp_path / "again.safetensors"), (3 * vectors(three).astype("f8")).astype("f4")
    )
    assert (done.target.layout, again.exactness) == (layout, "bit-exact")


@pytest.mark.parametrize(("name", "layout"), [("b.pt", "a1111"), ("b.safetensors", "kohya")])
def test_without_a_layout_the_sources_own_is_written_if_the_name_allows_it(three, tmp_path, name, layout):
    adapterhub.convert(three, tmp_path / "a.pt", to="a1111")
    assert embeddings.scale(tmp_path / "a.pt", tmp_path / name, 2.0).target.layout == layout


def test_every_tensor_of_the_papers_pickle_stands_in_one_entry(tmp_path, target):
    tree = {"string_to_token": {"*": torch.tensor(265)}, "string_to_param": {"*": torch.tensor(normal(1))}}
    for name in "ab":
        torch.save(tree, tmp_path / f"{name}.pt")
    alone = embeddings.scale(tmp_path / "a.pt", target, 2.0)
    assert sorted(entry.source[0] for entry in alone.entries) == ["string_to_param.*", "string_to_token.*"]
    both = embeddings.merge([tmp_path / "a.pt", tmp_path / "b.pt"], target, force=True)
    assert sorted(place for entry in both.entries for place in entry.source) == sorted(
        f"{tmp_path / name}.pt:string_to_{what}.*" for name in "ab" for what in ("param", "token")
    )


def test_a_dry_run_tells_everything_and_writes_nothing(three, target):
    done = embeddings.scale(three, target, 0.1, dry_run=True)
    assert (done.dry_run, done.max_error, [entry.reason for entry in done.entries]) == (True, None, ["times 0.1"])
    assert not target.exists()


def test_numbered_tokens_of_unlike_dtypes_become_one_where_the_result_is_alike(tmp_path, target):
    save_file({"<a>": normal(1), "<a>_1": normal(1, seed=1, dtype=np.float16)}, tmp_path / "a.safetensors")
    done = embeddings.scale(tmp_path / "a.safetensors", target, 2.0, dtype="fp32", to="diffusers")
    expected = np.concatenate([normal(1), normal(1, seed=1, dtype=np.float16).astype("f4")]) * 2
    np.testing.assert_array_equal(vectors(target, "<a>"), expected)
    assert [sorted(entry.source) for entry in done.entries] == [["<a>", "<a>_1"]]


def several(path: Path) -> Path:
    save_file({"<a>": normal(1), "<b>": normal(1)}, path)
    return path


def zero(path: Path) -> Path:
    save_file({"emb_params": np.zeros((1, 768), np.float32)}, path)
    return path


REFUSALS = {
    "text encoders that differ": (
        lambda f: embeddings.merge([embedding(f / "a.safetensors"), of_two(f / "b.safetensors")], f / "out.safetensors"),
        RefusedInput, r"text_encoder \(768\).*text_encoder_2 \(1280\)"),
    "several tokens": (
        lambda f: embeddings.merge([several(f / "a.safetensors")], f / "out.safetensors"), RefusedInput, "convert --to kohya"),
    "a number too large": (
        lambda f: embeddings.scale(embedding(f / "a.safetensors", dtype=np.float16), f / "out.safetensors", 1e7),
        RefusedInput, "too large for F16"),
    "no direction": (
        lambda f: embeddings.scale(zero(f / "a.safetensors"), f / "out.safetensors", to_norm=1.0), RefusedInput, "direction"),
    "fewer vectors": (
        lambda f: embeddings.trim(embedding(f / "a.safetensors"), f / "out.safetensors", 3), UsageError, "has 2 vectors"),
    "vectors counted backwards": (
        lambda f: embeddings.trim(embedding(f / "a.safetensors"), f / "out.safetensors", (2, 1)), UsageError, "2 to 1"),
    "no vectors at all": (
        lambda f: embeddings.trim(embedding(f / "a.safetensors"), f / "out.safetensors", 0), UsageError, "1 to 0"),
    "a factor and a length": (
        lambda f: embeddings.scale(embedding(f / "a.safetensors"), f / "out.safetensors", 2.0, to_norm=1.0),
        UsageError, "either"),
    "no number": (
        lambda f: embeddings.scale(embedding(f / "a.safetensors"), f / "out.safetensors", float("nan")), UsageError, "finite"),
    "an infinite weight": (
        lambda f: embeddings.merge([(embedding(f / "a.safetensors"), float("inf"))], f / "out.safetensors"),
        UsageError, "finite"),
    "nothing to merge": (lambda f: embeddings.merge([], f / "out.safetensors"), UsageError, "one embedding"),
    "a layout without a place": (
        lambda f: embeddings.merge([of_two(f / "a.safetensors")], f / "out.pt", to="a1111"), LossyConversion, "a1111"),
    "an unknown method": (
        lambda f: embeddings.merge([embedding(f / "a.safetensors")], f / "out.safetensors", method="mean"),
        UsageError, "sum, concat"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_leaves_nothing_behind(tmp_path, name):
    call, error, message = REFUSALS[name]
    with pytest.raises(error, match=message):
        call(tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.stem.lstrip(".").startswith("out")] == []


def test_no_input_is_overwritten_not_even_with_force(three, two):
    before = two.read_bytes()
    with pytest.raises(OutputExists):
        embeddings.merge([three, two], two)
    with pytest.raises(UsageError):
        embeddings.merge([three, two], two, force=True)
    assert two.read_bytes() == before


def test_a_lora_is_no_embedding(style, target):
    for call in (lambda: embeddings.scale(style, target, 2.0), lambda: embeddings.trim(style, target, 1)):
        with pytest.raises(RefusedInput, match="a LoRA, and not an embedding"):
            call()
