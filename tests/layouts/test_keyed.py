"""The engine of layouts that are tables: what it takes for granted holds for every row of every layout."""

import pytest

from adapterhub import layouts
from adapterhub.layouts.lora import keyed

TABLES = [
    (layout, architecture)
    for layout in layouts.lora()
    if isinstance(layout, keyed.KeyedLayout)
    for architecture in layout.prefixes
]


@pytest.mark.parametrize(("layout", "architecture"), TABLES, ids=lambda one: getattr(one, "name", one))
def test_every_head_begins_as_its_layout_says(layout: keyed.KeyedLayout, architecture: str) -> None:
    prefixes = keyed._prefixes(layout, architecture)
    heads = keyed._read(layout, architecture)
    assert heads
    assert [head for head in heads if not head.startswith(prefixes)] == []
