"""The products of one module side by side: `left @ right` of stacked factors, in float64.

All that is done with a product `B @ A` here goes through `k x k` matrices, with `k` the stacked
ranks; a matrix of `d_out x d_in` numbers is never formed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fedmedlora.core.errors import AggregationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmedlora.adapters.state import LoRAPair

# Columns of a Gram matrix computed at once: a matrix product knows nothing of symmetry, and blocks
# above the diagonal are half of the work. Narrower ones are slower by themselves.
_BLOCK = 64

# Eigenvalues of a Gram matrix in float64 are noise below this share of the largest one.
_NOISE = 1e-13


def stack(pairs: Sequence[LoRAPair]) -> tuple[torch.Tensor, torch.Tensor]:
    """Every `B` as columns of one matrix `(d_out, k)`, every `A` as rows of one `(k, d_in)`."""
    left = torch.cat([pair.B for pair in pairs], dim=1).to(torch.float64)
    right = torch.cat([pair.A for pair in pairs], dim=0).to(torch.float64)
    return left, right


def inner_products(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """`(k, k)`: the inner product of `left[:, i] @ right[i]` and `left[:, j] @ right[j]`."""
    return gram(left) * gram(right.T)


def gram(columns: torch.Tensor) -> torch.Tensor:
    """Inner products of the columns, `(k, k)`."""
    size = columns.shape[1]
    found = columns.new_empty(size, size)
    for start in range(0, size, _BLOCK):
        end = min(start + _BLOCK, size)
        block = columns[:, start:end].T @ columns[:, start:]
        found[start:end, start:] = block
        found[end:, start:end] = block[:, end - start :].T
    return found


@dataclass(frozen=True, slots=True)
class Components:
    """The largest singular triples of a product, largest first.

    Attributes:
        scaled_left: Left singular vectors times their singular values, `(d_out, n)`.
        right: Right singular vectors, `(n, d_in)`.
        sigmas: The singular values of these, `(n,)`; all are above the noise.
        energy: The squared Frobenius norm of the whole product.
    """

    scaled_left: torch.Tensor
    right: torch.Tensor
    sigmas: torch.Tensor
    energy: float


def largest_components(left: torch.Tensor, right: torch.Tensor, rank: int) -> Components:
    """The best approximation of rank `rank` to `left @ right`: at most `rank` components.

    Two symmetric eigenproblems of size `k`: the rows of the right factor are made orthonormal by
    the root of their Gram matrix, and what then stands on the left has the product's singular
    values. Each column is first made as long as its row, so that a pair whose length lies all in
    one factor does not drown the others.

    Raises:
        AggregationError: A number is not finite.
    """
    left_gram, right_gram = gram(left), gram(right.T)
    left_lengths, right_lengths = left_gram.diagonal().sqrt(), right_gram.diagonal().sqrt()
    if not bool(torch.isfinite(left_lengths.sum() + right_lengths.sum())):
        raise AggregationError(
            "product of factors: expected finite numbers, got some that are not. Screen first."
        )
    used = (left_lengths > 0) & (right_lengths > 0)
    scale = torch.where(used, (right_lengths / left_lengths).sqrt(), 0.0)
    unscale = torch.where(used, (left_lengths / right_lengths).sqrt(), 0.0)
    values, vectors = torch.linalg.eigh(right_gram * unscale * unscale[:, None])
    kept = values > _NOISE * values[-1]
    roots = values[kept].sqrt()
    root, inverse = vectors[:, kept] * roots, vectors[:, kept] / roots
    squares, turns = torch.linalg.eigh(root.T @ (left_gram * scale * scale[:, None]) @ root)
    squares, turns = squares.flip(0).clamp(min=0), turns.flip(1)
    largest = float(squares[0]) if squares.numel() else 0.0
    count = int((squares[:rank] > _NOISE * largest).sum())
    turns = turns[:, :count]
    return Components(
        # As a wide product, not a tall one: half the time.
        scaled_left=((scale[:, None] * (root @ turns)).T @ left.T).T,
        right=(unscale[:, None] * (inverse @ turns)).T @ right,
        sigmas=squares[:count].sqrt(),
        energy=float(squares.sum()),
    )


def rows_beside(rows: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    """`count` unit rows, random by `seed`, orthogonal to the orthonormal `rows` and to each other.

    More than `d_in` rows cannot be orthogonal; those beyond are merely random.
    """
    num_rows, width = rows.shape
    generator = torch.Generator().manual_seed(seed)
    found = torch.randn(count, width, generator=generator, dtype=torch.float64)
    room = max(0, min(count, width - num_rows))
    for _ in range(2):  # once leaves a rest of rounding errors
        found[:room] -= found[:room] @ rows.T @ rows
    found[:room] = torch.linalg.qr(found[:room].T).Q.T
    lengths: torch.Tensor = found.norm(dim=1, keepdim=True)
    return found / lengths
