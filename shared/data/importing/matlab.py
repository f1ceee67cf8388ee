"""A MATLAB file on standard input becomes an .npz on standard output, or one line on standard error and exit code 1.

This is a program of its own, run by ``shared.data.importing.reading``: damaged bytes can crash SciPy's reader, and with
it the process that it is in. It imports nothing of this project, so that it starts fast.
"""

import io
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat


def flat(values: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Return the arrays of variables; those in a structure are called ``structure.field``."""
    arrays: dict[str, NDArray[Any]] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            arrays |= flat({f"{name}.{field}": inner for field, inner in value.items()})
        else:
            arrays[name] = np.asarray(value)
    return arrays


def main() -> None:
    """Convert standard input."""
    try:
        values = loadmat(io.BytesIO(sys.stdin.buffer.read()), simplify_cells=True)
        arrays = flat({name: value for name, value in values.items() if not name.startswith("__")})
        np.savez(sys.stdout.buffer, allow_pickle=False, **arrays)
    except NotImplementedError:  # what SciPy raises for the later format, which is HDF5
        sys.exit("it is of version 7.3: save it with -v7")
    except Exception as error:  # on odd bytes SciPy raises whatever its parsers do
        sys.exit((str(error).splitlines() or [type(error).__name__])[0])


if __name__ == "__main__":
    main()
