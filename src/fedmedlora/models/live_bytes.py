"""What a computation would hold in memory at its peak, found without that memory.

A ghost of a model has its shapes and number types but no numbers: torch calls the device `meta`.
Every operation runs on it as it would, and every tensor that it makes is counted until it goes.
"""

from __future__ import annotations

import copy
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from fedmedlora.models.kernels import onednn_takes_bfloat16

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmedlora.models.load import BaseModel

_META = torch.device("meta")
# Of Linux: what is larger is mapped apart and leaves no hole when it goes.
_HEAP_BYTES = 32 << 20


def ghost(base: BaseModel) -> BaseModel:
    """The same model without numbers. Its layers compute with the kernels of the model's own."""
    tensors = [*base.model.parameters(), *base.model.buffers()]
    return replace(base, model=copy.deepcopy(base.model, {id(t): _ghost_of(t) for t in tensors}))


def _ghost_of(tensor: torch.Tensor) -> torch.Tensor:
    empty = torch.empty_like(tensor, device=_META)
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(empty, requires_grad=tensor.requires_grad)
    return empty


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the tensors that are made while it is open.

    Attributes:
        now: Bytes of those that still exist.
        peak: The most that `now` has been.
        largest: Bytes of the largest tensor that a C library takes from its heap.
        products: The shapes of all matrix products so far that oneDNN computes on a CPU.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.peak = 0
        self.largest = 0
        self.products: set[tuple[object, ...]] = set()
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = (args, kwargs or {})
        tensors = [leaf for leaf in tree_leaves(given) if isinstance(leaf, torch.Tensor)]
        if any(tensor.device == _META for tensor in tensors):
            # Small ones, as positions and indices, may be real.
            given = tree_map_only(torch.Tensor, lambda tensor: tensor.to(_META), given)
        if _is_onednn(func, tensors):
            self.products.add((func, *(tuple(tensor.shape) for tensor in tensors)))
        for tensor in tensors:  # those that were there before, as weights
            self._note(tensor, is_new=False)
        found = _made(func, given)
        for leaf in tree_leaves(found):
            if isinstance(leaf, torch.Tensor):
                self._note(leaf, is_new=True)
        return found

    def _note(self, tensor: torch.Tensor, *, is_new: bool) -> None:
        storage = tensor.untyped_storage()
        key = id(storage)
        if key in self._known and self._known[key]() is storage:
            return
        size = storage.nbytes() if is_new else 0

        def gone(_: object) -> None:
            self.now -= size
            self._known.pop(key, None)

        self._known[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)
        if size <= _HEAP_BYTES:
            self.largest = max(self.largest, size)


def _made(func: Any, given: tuple[Any, Any]) -> Any:
    if func.overloadpacket == torch.ops.mkldnn._linear_pointwise and given[0][0].device == _META:
        # torch cannot do these without numbers.
        x, weight = (given[0][0], given[0][1 if func._overloadname == "default" else 2])
        return x.new_empty(*x.shape[:-1], weight.shape[0])
    return func(*given[0], **given[1])


def _is_onednn(func: Any, tensors: Sequence[torch.Tensor]) -> bool:
    if func.overloadpacket == torch.ops.mkldnn._linear_pointwise:
        return True
    if func.overloadpacket not in _PRODUCTS or tensors[0].dtype != torch.bfloat16:
        return False
    return onednn_takes_bfloat16()


_PRODUCTS = {
    torch.ops.aten.mm,
    torch.ops.aten.bmm,
    torch.ops.aten.baddbmm,
    torch.ops.aten.addmm,
    torch.ops.aten.addmm_,
    torch.ops.aten.linear,
}
