"""How far two changes are apart is the same by rows as by the whole matrices, whatever each of them is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adapterhub.operations.lora import effect
from adapterhub.operations.lora.effect import Product, Weight, added, apart


def product(rng: np.random.Generator, rows: int, columns: int, rank: int) -> Product:
    return Product(
        torch.from_numpy(rng.standard_normal((rows, rank))), torch.from_numpy(rng.standard_normal((rank, columns)))
    )


def dense(weight: Weight) -> np.ndarray:
    return (weight.up @ weight.down if isinstance(weight, Product) else weight).numpy().ravel()


@given(
    st.integers(0, 9), st.integers(1, 9), st.integers(0, 3), st.sampled_from([1, 5, 20, 1 << 18]),
    st.tuples(st.booleans(), st.booleans()), st.integers(0, 99),
)  # fmt: skip
def test_by_rows_it_is_what_the_matrices_say(
    rows: int, columns: int, rank: int, at_once: int, whole: tuple[bool, bool], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    a, b = (product(rng, rows, columns, rank) for _ in range(2))
    given_a, given_b = (one.flatten() if flat else one for one, flat in zip((a, b), whole, strict=True))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(effect, "_AT_ONCE", at_once)
        found = apart(given_a, given_b)
    x, y = dense(a), dense(b)
    wanted = (
        np.abs(x).max(initial=0),
        np.abs(y - x).max(initial=0),
        (x * x).sum(),
        (y * y).sum(),
        ((y - x) ** 2).sum(),
    )
    assert np.allclose(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("which", [0, 1])
def test_a_number_that_is_none_shows_in_the_squares(bad: float, which: int) -> None:
    pair = [torch.zeros(1000, dtype=torch.float64) for _ in range(2)]
    pair[which][700] = bad
    found = apart(*pair)
    assert not np.isfinite((found.whole, found.other)[which])
    assert np.isfinite((found.whole, found.other)[1 - which])


@given(st.lists(st.booleans(), min_size=1, max_size=4), st.integers(0, 99))
def test_a_sum_of_products_is_a_product(kinds: list[bool], seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = [product(rng, 4, 5, 2) for _ in kinds]
    mixed: list[Weight] = [one if keep else one.flatten() for one, keep in zip(parts, kinds, strict=True)]
    found = added(mixed)
    assert isinstance(found, Product) == all(kinds)
    assert np.allclose(dense(found), sum(map(dense, parts)))
    assert np.allclose(dense(parts[0].times(-2.5)), -2.5 * dense(parts[0]))
