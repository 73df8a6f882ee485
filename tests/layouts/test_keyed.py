"""The engine of layouts that are tables: what it takes for granted holds for every row of every layout."""

import pytest

from adapterhub import architectures, layouts
from adapterhub.layouts.lora import keyed

KEYED = [layout for layout in layouts.lora() if isinstance(layout, keyed.KeyedLayout)]


@pytest.mark.parametrize("architecture", architectures.NAMES)
@pytest.mark.parametrize("layout", KEYED, ids=lambda layout: layout.name)
def test_every_head_begins_as_its_layout_says(layout: keyed.KeyedLayout, architecture: str) -> None:
    if architecture not in layout.prefixes:
        pytest.skip("it has no names for this architecture")
    prefixes = keyed._prefixes(layout, architecture)
    assert [head for head in keyed._read(layout, architecture) if not head.startswith(prefixes)] == []
