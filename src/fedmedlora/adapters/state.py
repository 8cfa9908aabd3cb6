"""LoRA adapters as immutable values. Knows tensors; knows no model, no peft and no files."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

import torch

from fedmedlora.core.errors import AdapterMismatchError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Set

Factor = Literal["A", "B"]
FACTORS: frozenset[Factor] = frozenset(get_args(Factor))

DTypeName = Literal["float32", "bfloat16", "float16"]
TORCH_DTYPES: dict[DTypeName, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass(frozen=True, slots=True)
class AdapterSpec:
    """What must be equal before two adapters may be added.

    Attributes:
        base_model: Name of the base model, as its catalogue, hub or path gives it.
        revision: Revision or content hash of the base model; empty if unknown.
        rank: Rows of every `A`, columns of every `B`.
        alpha: LoRA's numerator; see `scaling`.
        target_modules: Names or dotted name endings of the adapted modules; kept sorted.
        rslora: Whether the scale is `alpha / sqrt(rank)`.
        dtype: Type of the tensors as they are held (on the wire the codec decides).

    Raises:
        AdapterMismatchError: Rank, alpha, targets or dtype cannot be those of an adapter.
    """

    base_model: str
    revision: str
    rank: int
    alpha: float
    target_modules: tuple[str, ...]
    rslora: bool = False
    dtype: DTypeName = "float32"

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise AdapterMismatchError(f"adapter spec: expected rank >= 1, got {self.rank}.")
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise AdapterMismatchError(f"adapter spec: expected alpha > 0, got {self.alpha}.")
        if not self.target_modules:
            raise AdapterMismatchError("adapter spec: expected target modules, got none.")
        if self.dtype not in TORCH_DTYPES:
            raise AdapterMismatchError(
                f"adapter spec: expected dtype in {sorted(TORCH_DTYPES)}, got {self.dtype!r}."
            )
        object.__setattr__(self, "alpha", float(self.alpha))
        object.__setattr__(self, "target_modules", tuple(sorted(set(self.target_modules))))

    @property
    def scaling(self) -> float:
        """The factor before `B @ A`: alpha / rank, or alpha / sqrt(rank) with rsLoRA."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    @property
    def torch_dtype(self) -> torch.dtype:
        """`dtype` as torch names it."""
        return TORCH_DTYPES[self.dtype]

    def with_dtype(self, dtype: DTypeName) -> AdapterSpec:
        """The same spec for tensors of another dtype."""
        return replace(self, dtype=dtype)

    def targets(self, module: str) -> bool:
        """Whether `target_modules` name this module, in full or by the end of its dotted name."""
        return any(module == t or module.endswith(f".{t}") for t in self.target_modules)


@dataclass(frozen=True, slots=True, eq=False)
class LoRAPair:
    """The two factors of one module: `A` is `(rank, d_in)`, `B` is `(d_out, rank)`.

    A factor that was not sent is empty: `A` of shape `(rank, 0)`, `B` of shape `(0, rank)`.

    Raises:
        AdapterMismatchError: The factors are not matrices of one rank and dtype, or still belong
            to a training graph.
    """

    A: torch.Tensor
    B: torch.Tensor

    def __post_init__(self) -> None:
        if self.A.ndim != 2 or self.B.ndim != 2 or self.A.shape[0] != self.B.shape[1]:
            raise AdapterMismatchError(
                "LoRA pair: expected A (rank, d_in) and B (d_out, rank), got "
                f"A {tuple(self.A.shape)} and B {tuple(self.B.shape)}."
            )
        if self.A.dtype != self.B.dtype:
            raise AdapterMismatchError(
                f"LoRA pair: expected one dtype, got A {self.A.dtype} and B {self.B.dtype}."
            )
        if self.A.requires_grad or self.B.requires_grad:
            raise AdapterMismatchError(
                "LoRA pair: expected plain values, got tensors that require gradients. "
                "Pass `parameter.detach().clone()`."
            )

    @property
    def rank(self) -> int:
        """Rows of `A`."""
        return self.A.shape[0]

    def factor(self, factor: Factor) -> torch.Tensor:
        """`A` or `B`, by name."""
        return self.A if factor == "A" else self.B


@dataclass(frozen=True, slots=True, eq=False)
class AdapterState:
    """One adapter: its spec and a pair for each module, by full dotted name, in name order.

    Two states are equal if their specs are and every tensor holds the same bits. A mapping in name
    order that is no `dict` is kept as it is: it may read a pair from a file whenever it is asked.

    Raises:
        AdapterMismatchError: There is no pair, or a pair contradicts the spec.
    """

    spec: AdapterSpec
    pairs: Mapping[str, LoRAPair]

    def __post_init__(self) -> None:
        if not self.pairs:
            raise AdapterMismatchError("adapter: expected at least one module, got none.")
        for module, pair in self.pairs.items():
            if pair.rank != self.spec.rank or pair.A.dtype != self.spec.torch_dtype:
                raise AdapterMismatchError(
                    f"adapter, module {module}: expected rank {self.spec.rank} and "
                    f"{self.spec.dtype}, got rank {pair.rank} and {pair.A.dtype}."
                )
            if not self.spec.targets(module):
                raise AdapterMismatchError(
                    f"adapter, module {module}: not among the spec's target modules "
                    f"{list(self.spec.target_modules)}."
                )
        if isinstance(self.pairs, dict) or list(self.pairs) != sorted(self.pairs):
            object.__setattr__(self, "pairs", dict(sorted(self.pairs.items())))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, AdapterState):
            return NotImplemented
        return self.spec == other.spec and self.digest() == other.digest()

    __hash__ = None  # type: ignore[assignment]  # holds tensors, like a list

    def tensors(self) -> Iterator[tuple[str, Factor, torch.Tensor]]:
        """Module, factor and tensor of everything held, in name order."""
        for module, pair in self.pairs.items():
            yield module, "A", pair.A
            yield module, "B", pair.B

    @property
    def factors(self) -> frozenset[Factor]:
        """The factors that some module holds; both, unless the rest was not sent."""
        return frozenset(factor for _, factor, tensor in self.tensors() if tensor.numel())

    @property
    def num_parameters(self) -> int:
        """Numbers held."""
        return sum(tensor.numel() for _, _, tensor in self.tensors())

    @property
    def num_bytes(self) -> int:
        """Bytes of the tensors in `spec.dtype`."""
        return sum(tensor.nbytes for _, _, tensor in self.tensors())

    def digest(self) -> str:
        """SHA-256 over module names, shapes, dtype and the tensors' bits; equal only if all are."""
        digest = hashlib.sha256(self.spec.dtype.encode())
        for module, factor, tensor in self.tensors():
            digest.update(f"\0{module}\0{factor}\0{tuple(tensor.shape)}\0".encode())
            digest.update(tensor.contiguous().cpu().view(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def is_finite(self) -> bool:
        """Whether no number is NaN or infinite."""
        return all(bool(torch.isfinite(tensor).all()) for _, _, tensor in self.tensors())

    def only(self, factors: Set[Factor]) -> AdapterState:
        """The same adapter with every other factor emptied: what a site may send."""
        return AdapterState(
            self.spec,
            {
                module: LoRAPair(
                    A=pair.A if "A" in factors else pair.A[:, :0],
                    B=pair.B if "B" in factors else pair.B[:0],
                )
                for module, pair in self.pairs.items()
            },
        )

    def filled_from(self, other: AdapterState) -> AdapterState:
        """The same adapter with every empty factor taken from `other`.

        Raises:
            AdapterMismatchError: The modules differ, or what is held does not fit `other`.
        """
        if self.pairs.keys() != other.pairs.keys():
            other.check_compatible(self, "filling an adapter")
        filled = AdapterState(
            self.spec,
            {
                module: LoRAPair(
                    A=pair.A if pair.A.numel() else other.pairs[module].A,
                    B=pair.B if pair.B.numel() else other.pairs[module].B,
                )
                for module, pair in self.pairs.items()
            },
        )
        other.check_compatible(filled, "filling an adapter")
        return filled

    def check_compatible(self, other: AdapterState, where: str) -> None:
        """Nothing, if `other` may be added to this adapter; `where` opens the error message.

        Raises:
            AdapterMismatchError: Specs, modules or shapes differ.
        """
        for name in (
            "base_model",
            "revision",
            "rank",
            "alpha",
            "rslora",
            "target_modules",
            "dtype",
        ):
            expected, got = getattr(self.spec, name), getattr(other.spec, name)
            if expected != got:
                raise AdapterMismatchError(
                    f"{where}: {name} differs; expected {expected!r}, got {got!r}."
                )
        if self.pairs.keys() != other.pairs.keys():
            missing = sorted(self.pairs.keys() - other.pairs.keys())
            extra = sorted(other.pairs.keys() - self.pairs.keys())
            raise AdapterMismatchError(
                f"{where}: modules differ; {len(missing)} missing ({', '.join(missing[:3])}), "
                f"{len(extra)} unexpected ({', '.join(extra[:3])})."
            )
        for (module, factor, tensor), (_, _, theirs) in zip(
            self.tensors(), other.tensors(), strict=True
        ):
            if theirs.shape != tensor.shape:
                raise AdapterMismatchError(
                    f"{where}: {module}.{factor} has another shape; "
                    f"expected {tuple(tensor.shape)}, got {tuple(theirs.shape)}."
                )
