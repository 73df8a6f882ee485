"""What is written is read back, for any names, dtypes and shapes; and the reference reads the same from it."""

import hashlib
import math
import tempfile
from pathlib import Path

import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st

from adapterhub import files
from adapterhub.files import File, Package
from adapterhub.tensors import DTYPE_BITS, from_bytes, length

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=20).filter(lambda name: name != "__metadata__")
SHAPES = st.lists(st.integers(0, 5), max_size=4).map(tuple)


@st.composite
def tensors(draw: st.DrawFn):
    dtype = draw(st.sampled_from(sorted(DTYPE_BITS)))
    shape = draw(SHAPES)
    if math.prod(shape) * DTYPE_BITS[dtype] % 8:
        shape = (*shape, 4)
    size = length(dtype, shape)
    return from_bytes(dtype, shape, draw(st.binary(min_size=size, max_size=size)))


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(NAMES, tensors(), max_size=6), st.dictionaries(NAMES | st.just("__metadata__"), NAMES, max_size=4)
)
def test_names_dtypes_shapes_bytes_and_metadata_survive(made: dict, metadata: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.safetensors")
        digest = files.write(Package.new({"x": File(made, metadata)}), path)
        content = path.read_bytes()
        assert digest == {"x.safetensors": hashlib.sha256(content).hexdigest()}
        with files.read(path) as back:
            assert back.only.metadata == metadata
            found = {name: (t.dtype, t.shape, t.read()) for name, t in back.only.tensors.items()}
        assert found == {name: (t.dtype, t.shape, t.read()) for name, t in made.items()}
        reference = {name: (tuple(t["shape"]), bytes(t["data"])) for name, t in safetensors.deserialize(content)}
        assert reference == {name: (t.shape, t.read()) for name, t in made.items()}
