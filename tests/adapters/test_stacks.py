"""The reduction of stacked factors, against the QR road and a dense SVD in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedmedlora.adapters.stacks import gram, inner_products, largest_components, rows_beside

Array = NDArray[np.float64]


def by_qr(left: Array, right: Array, rank: int) -> Array:
    """QR of both stacks and an SVD of the small core: the textbook's way, in numpy."""
    q1, r1 = np.linalg.qr(left)
    q2, r2 = np.linalg.qr(right.T)
    u, s, vt = np.linalg.svd(r1 @ r2.T, full_matrices=False)
    return (q1 @ u[:, :rank] * s[:rank]) @ (vt[:rank] @ q2.T)


@st.composite
def stacks(draw: st.DrawFn) -> tuple[Array, Array]:
    """Tall, wide and tiny ones; columns of very different lengths, and some that depend."""
    d_out, d_in, k = draw(st.tuples(*(st.integers(1, 12) for _ in range(3))))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    left, right = rng.normal(size=(d_out, k)), rng.normal(size=(k, d_in))
    lengths = 10.0 ** rng.uniform(-draw(st.integers(0, 3)), 0, size=k)
    left *= lengths
    right *= (10.0 ** rng.uniform(-1, 1, size=k))[:, None]
    if k > 1 and draw(st.booleans()):
        left[:, -1], right[-1] = left[:, 0], 2 * right[0]
    return left, right


@settings(max_examples=80, deadline=None)
@given(made=stacks(), rank=st.integers(1, 12))
def test_the_gram_road_the_qr_road_and_the_dense_one_come_to_the_same_place(
    made: tuple[Array, Array], rank: int
) -> None:
    left, right = made
    found = largest_components(torch.tensor(left), torch.tensor(right), rank)
    ours = (found.scaled_left @ found.right).numpy()
    product = left @ right
    u, s, vt = np.linalg.svd(product, full_matrices=False)
    dense = (u[:, :rank] * s[:rank]) @ vt[:rank]
    qr = by_qr(left, right, rank)

    whole = float(np.linalg.norm(product))
    best = float(np.linalg.norm(product - dense))
    # Distances to the product: where singular values are equal, the cut is not unique.
    assert np.linalg.norm(product - ours) == pytest.approx(best, abs=1e-6 * whole)
    assert np.linalg.norm(product - qr) == pytest.approx(best, abs=1e-10 * whole)
    assert found.energy == pytest.approx(whole**2, rel=1e-9)
    number = len(found.sigmas)
    assert found.sigmas.numpy() == pytest.approx(s[:number], abs=1e-6 * whole)
    if best == 0 or rank >= min(product.shape):
        assert np.linalg.norm(ours - product) <= 1e-6 * whole


@pytest.mark.parametrize("seed", range(5))
def test_well_conditioned_stacks_are_reduced_to_twelve_digits(seed: int) -> None:
    rng = np.random.default_rng(seed)
    left, right = rng.normal(size=(30, 6)), rng.normal(size=(6, 25))

    found = largest_components(torch.tensor(left), torch.tensor(right), 6)

    product = left @ right
    gap = np.linalg.norm((found.scaled_left @ found.right).numpy() - product)
    assert gap <= 1e-12 * np.linalg.norm(product)


@pytest.mark.parametrize("size", [1, 63, 64, 65, 130])
def test_inner_products_of_blocks_are_those_of_the_whole(size: int) -> None:
    rng = np.random.default_rng(size)
    left, right = rng.normal(size=(7, size)), rng.normal(size=(size, 5))

    found = inner_products(torch.tensor(left), torch.tensor(right)).numpy()

    parts = np.stack([np.outer(left[:, i], right[i]).ravel() for i in range(size)])
    assert found == pytest.approx(parts @ parts.T)
    assert gram(torch.tensor(left)).numpy() == pytest.approx(left.T @ left)
    assert np.linalg.eigvalsh(found).min() >= -1e-9 * np.linalg.eigvalsh(found).max()


def test_rows_beside_others_are_of_length_one_and_at_right_angles() -> None:
    rows = torch.linalg.qr(torch.randn(8, 3, dtype=torch.float64)).Q.T

    found = rows_beside(rows, 4, seed=1)

    assert torch.allclose(found @ rows.T, torch.zeros(4, 3, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(found @ found.T, torch.eye(4, dtype=torch.float64), atol=1e-12)
    assert torch.equal(found, rows_beside(rows, 4, seed=1))
    assert len(rows_beside(rows, 9, seed=1)) == 9  # more than there is room for: merely random
