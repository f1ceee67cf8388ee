"""What is known of N windows, row by row: tensors on the device where they are small, arrays in a file where not."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.large import let_go, mapping_of

Column = Tensor | NDArray[Any]
"""N rows: a tensor, or a large array (``shared.large``), which stays in its file."""


def column(array: NDArray[Any]) -> Column:
    """Return an array as a column."""
    return torch.from_numpy(array) if mapping_of(array) is None else array


def placed(values: Column, device: torch.device) -> Column:
    """Return a column on a device, if it is a tensor."""
    return values.to(device) if isinstance(values, Tensor) else values


def taken(values: Column, rows: Tensor) -> Tensor:
    """Return some rows of a column, on the device that the numbers of the rows, int64 (B,), are on."""
    if isinstance(values, Tensor):
        return values[rows]
    found = values[rows.numpy(force=True)]
    let_go(values)
    return torch.from_numpy(np.asarray(found)).to(rows.device)
