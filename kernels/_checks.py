"""Checks of tensor arguments in Python, with the words that csrc/checks.h has for the same."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def check_dtype(op: str, name: str, tensor: Tensor, dtypes: Collection[torch.dtype]) -> None:
    """Raises RuntimeError unless the tensor is of one of these types."""
    torch._check(
        tensor.dtype in dtypes,
        lambda: f"{op}: {name} must be {_either(dtypes)}, it is {_short(tensor.dtype)}",
    )


def check_rows(op: str, name: str, tensor: Tensor) -> None:
    """Raises RuntimeError unless the tensor is [rows, size] with the elements of a row adjacent."""
    _check_dim(op, name, tensor, 2)
    torch._check(
        tensor.size(1) <= 1 or tensor.stride(1) == 1,
        lambda: f"{op}: the elements of a row of {name} must be adjacent, their stride is {tensor.stride(1)}",
    )


def check_vector(op: str, name: str, tensor: Tensor) -> None:
    """Raises RuntimeError unless the tensor has one dimension and its elements are adjacent."""
    _check_dim(op, name, tensor, 1)
    torch._check(
        tensor.is_contiguous(),
        lambda: f"{op}: {name} must be contiguous, its stride is {tensor.stride(0)}",
    )


def check_size(op: str, name: str, tensor: Tensor, dim: int, size: int) -> None:
    """Raises RuntimeError unless the tensor has this size in that dimension."""
    torch._check(
        tensor.size(dim) == size,
        lambda: f"{op}: {name} must have size {size} in dimension {dim}, it has {tensor.size(dim)}",
    )


def _check_dim(op: str, name: str, tensor: Tensor, dim: int) -> None:
    torch._check(
        tensor.dim() == dim, lambda: f"{op}: {name} must have {dim} dimension(s), it has {tensor.dim()}"
    )


def _either(dtypes: Collection[torch.dtype]) -> str:
    *first, last = map(_short, dtypes)
    return f"{', '.join(first)} or {last}" if first else last


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
