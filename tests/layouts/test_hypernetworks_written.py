"""Hypernetworks of every structure: what is written is read as what it was."""

from __future__ import annotations

import json

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import adapterhub.layouts as layouts
from adapterhub import files
from adapterhub.adapter import Adapter, Kind
from adapterhub.documents import HypernetworkStructure
from adapterhub.layouts.base import Form
from adapterhub.layouts.hypernetwork.structure import (
    ACTIVATIONS,
    STRUCTURE,
    expected,
    nets,
    structure_of,
    with_structure,
)
from adapterhub.tensors import from_bytes, length

structure = st.builds(
    lambda widths, inner, drops, **fields: HypernetworkStructure(
        widths=sorted(widths), layer_structure=[1, *inner, 1],
        dropout=[0.0, *(drops[i % len(drops)] for i in range(len(inner))), 0.0] if any(drops) and inner else None, **fields
    ),
    widths=st.lists(st.sampled_from([4, 5, 8, 320]), min_size=1, max_size=3, unique=True),
    inner=st.lists(st.sampled_from([0.5, 1, 1.5, 2]), max_size=3),
    drops=st.lists(st.sampled_from([0.0, 0.1, 0.3]), min_size=1, max_size=2),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    activate_output=st.booleans(), layer_norm=st.booleans(), weight_initialization=st.sampled_from([None, "KaimingNormal"]),
)  # fmt: skip
residual = st.builds(
    lambda structure, up: structure.model_copy(update={"skip_connection": True, "upsample_linear": up}),
    structure,
    st.booleans(),
)


def built(structure, fields):
    """A hypernetwork of that structure; every tensor holds another byte."""
    tensors = {}
    for net in nets(structure):
        for number, (key, (_, shape)) in enumerate(expected(structure, net).items()):
            tensors[key] = from_bytes("F32", shape, bytes([number]) * length("F32", shape))
    return Adapter(Kind.HYPERNETWORK, "", tensors, with_structure(fields, structure))


@pytest.mark.parametrize(("layout", "container"), [("a1111", "torch-zip"), ("safetensors", "safetensors")])
@given(
    structure=st.one_of(structure, residual), fields=st.fixed_dictionaries({"name": st.just("a"), "step": st.just("7")})
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_read_as_what_it_was(tmp_path, layout, container, structure, fields):
    if structure.activation == "prelu" and not any("activation" in key.module for key in built(structure, {}).tensors):
        structure = structure.model_copy(update={"activation": "linear"})  # nothing of it is there to be seen
    adapter = built(structure, {**fields, "colour": "red"})
    encoded = layouts.get(layout, Kind.HYPERNETWORK).encode(adapter, Form(container, "a"))
    path = tmp_path / next(iter(encoded.package.files))
    files.write(encoded.package, path, force=True)
    with files.read(path) as package:
        identity = layouts.identify(package)
        again = identity.decode(package)
        assert identity.layout.name == layout
        assert structure_of(again.adapter) == structure
        assert again.metadata == adapter.metadata
        assert {key: (t.shape, t.read()) for key, t in again.adapter.tensors.items()} == {
            key: (t.shape, t.read()) for key, t in adapter.tensors.items()
        }
        assert {key: again.places[key] for key in adapter.tensors} == encoded.places


def test_the_structure_in_the_metadata_is_what_the_schema_says(tmp_path, request):
    schema = json.loads((request.config.rootpath / "schemas" / "hypernetwork.schema.json").read_text("utf-8"))
    adapter = built(HypernetworkStructure(widths=[8], layer_structure=[1, 2, 1], activation="relu"), {})
    jsonschema.validate(json.loads(adapter.metadata[STRUCTURE]), schema)


def test_a_file_without_a_stem_takes_the_name_inside():
    adapter = built(HypernetworkStructure(widths=[8], layer_structure=[1, 1]), {"name": "style"})
    encoded = layouts.get("a1111", Kind.HYPERNETWORK).encode(adapter, Form("torch-zip", ""))
    assert list(encoded.package.files) == ["style.pt"]
