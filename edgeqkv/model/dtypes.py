"""The types of numbers that edgeqkv stores and computes with, by the names that it uses everywhere."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    import torch

__all__ = ["Dtype"]


class Dtype(StrEnum):
    """A type of number. It is its name: ``Dtype("fp16") == "fp16"``."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"
    UINT8 = "uint8"
    INT32 = "int32"
    INT64 = "int64"
    BOOL = "bool"

    @property
    def bytes(self) -> int:
        """Bytes of one number."""
        return self.numpy.itemsize

    @property
    def numpy(self) -> np.dtype[Any]:
        """The same type of numpy's."""
        return np.dtype(_NAMES.get(self, self.value))

    @property
    def torch(self) -> torch.dtype:
        """The same type of torch's, which is imported when this is asked for."""
        import torch

        dtype: torch.dtype = getattr(torch, _NAMES.get(self, self.value))
        return dtype


_NAMES: Final = {Dtype.FP32: "float32", Dtype.FP16: "float16"}
