"""Reading a GGUF file once and fast, while transformers reads it.

transformers opens the file anew for the configuration, the weights and the tokenizer, looks at each
of a hundred thousand vocabulary entries through a memory map, and makes the same table of names for
every module of the model. On a slow machine that is a minute; here it is done once.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def read_once() -> Iterator[None]:
    """While it lasts, `gguf` gives the same reader for the same file, and the same tables."""
    import gguf

    class PlainReader(gguf.GGUFReader):  # type: ignore[misc]  # gguf has no types
        """Slices of a plain array cost a fraction of those of a memory map."""

        def _get(
            self, offset: int, dtype: Any, count: int = 1, override_order: Any = None
        ) -> np.ndarray[Any, Any]:
            if type(self.data) is not np.ndarray:
                self.data = self.data.view(np.ndarray)
            found: np.ndarray[Any, Any] = super()._get(offset, dtype, count, override_order)
            return found

    before = gguf.GGUFReader, gguf.get_tensor_name_map
    gguf.GGUFReader, gguf.get_tensor_name_map = cache(PlainReader), cache(before[1])
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = before
