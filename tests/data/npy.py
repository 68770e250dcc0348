"""Writes the .npy files that tests/suite/datasets.rs reads: `python3 tests/data/npy.py`, with NumPy."""

from pathlib import Path

import numpy as np
from numpy.lib import format

here = Path(__file__).parent
i, j, k = np.ogrid[:4, :2, :3]
cube = 100 * i + 10 * j + k - 0.25

np.save(here / "f4.npy", cube.astype("<f4").reshape(4, 6))
np.save(here / "f8_big_fortran.npy", np.asfortranarray(cube.astype(">f8")))
np.save(here / "i8.npy", np.array([2, 0, 1, 2], "<i8"))
with open(here / "bool_version_3.npy", "wb") as file:
    format.write_array(file, np.asfortranarray(cube.reshape(4, 6)[:, ::2] > 150), version=(3, 0))
