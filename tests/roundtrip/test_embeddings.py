"""Any chain of conversions keeps the vectors, the file's first name, the name inside and the token of an embedding."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

import adapterhub
from adapterhub.adapter import Adapter, Key, Kind, Role
from adapterhub.files import SAFETENSORS
from adapterhub.layouts import get
from adapterhub.layouts.base import Form
from adapterhub.layouts.embedding.layout import file_name
from adapterhub.tensors import from_bytes

CHAIN = [("a1111", ".pt"), ("a1111-image", ".png"), ("a1111-image", ".webp"), ("diffusers", ".safetensors"),
         ("kohya", ".safetensors")]  # fmt: skip
"""What has room for every field; `.bin` and Kohya's `.pt` say what they lose."""
TOKENS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
NAMES = st.text("abcXYZ019._- ", min_size=1, max_size=12).filter(lambda text: text.strip(" .") == text)


@settings(max_examples=25, deadline=None)
@given(
    hops=st.lists(st.tuples(st.sampled_from(CHAIN), NAMES), min_size=1, max_size=4),
    token=TOKENS,
    inside=TOKENS,
    values=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=3, max_size=3),
)
def test_names_tokens_and_vectors_survive_every_chain(hops, token, inside, values):
    vectors = torch.zeros(2, 768)
    vectors[0, :3] = torch.tensor(values)
    fields = {"name": inside, "step": 2799, "sd_checkpoint": "6ce0161689", "sd_checkpoint_name": "v1-5"}
    tree = {"string_to_token": {"*": 265}, "string_to_param": {"*": vectors}, **fields}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "first file-500.pt"
        torch.save(tree, path)
        asked: str | None = token  # the token is given once, on the first way
        for number, ((layout, suffix), name) in enumerate(hops):
            out = Path(folder) / str(number) / (name + suffix)
            done = adapterhub.convert(path, out, to=layout, token=asked)
            assert (done.exactness, done.max_error) == ("bit-exact", 0.0)
            path, asked = out, None
        adapterhub.convert(path, Path(folder) / "last.safetensors", to="diffusers")
        adapterhub.convert(path, Path(folder) / "last.pt", to="a1111")
        ((found, tensor),) = load_file(Path(folder) / "last.safetensors").items()
        last = torch.load(Path(folder) / "last.pt", weights_only=True)
        told = adapterhub.inspect(Path(folder) / "last.safetensors").metadata
    assert found == token
    assert torch.equal(tensor, vectors)
    assert torch.equal(last["string_to_param"]["*"], vectors)
    assert {field: last[field] for field in fields} == fields
    assert (told["name"], told["adapterhub.stem"]) == (inside, "first file-500")


@given(st.lists(st.text(max_size=12), min_size=2, max_size=6, unique=True))
def test_the_files_of_several_tokens_have_names_that_differ_everywhere(names):
    tensor = from_bytes("F32", (1, 768), bytes(4 * 768))
    tensors = {Key("text_encoder", name, Role.VECTORS): tensor for name in names}
    package = (
        get("kohya", Kind.EMBEDDING).encode(Adapter(Kind.EMBEDDING, "sd1", tensors), Form(SAFETENSORS, "")).package
    )
    assert len(package.files) == len({name.lower() for name in package.files}) == len(names)
    assert all(
        set(Path(name).stem) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.- ")
        for name in package.files
    )
    assert all(not name.startswith((".", " ", "/")) for name in package.files)


def test_a_name_is_cleaned_as_a1111_cleans_it():
    cases = {
        "<birb-style>": "birb-style",
        "a/b\\c": "abc",
        "..": "embedding",
        "  x. ": "x",
        "日本": "embedding",
        "a b": "a b",
    }
    assert {token: file_name(token) for token in cases} == cases
