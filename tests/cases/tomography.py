"""Small Radon transforms: shapes, detectors, shifts and slices."""

import jax.numpy as jnp
import numpy as np

import lsqflow as lf

ANGLES = np.array([0.1, 0.7, 1.2, 2.0, 2.9])


def _make(shape, angles=ANGLES, **options):
    return lambda dtype: lf.Radon(jnp.asarray(angles), shape, dtype=dtype, **options)


CASES = {
    "radon": _make((5, 5)),
    "radon_oblong": _make(
        (3, 6),
        num_detectors=7,
        centre=(1.3, 2.2),
        shift=np.linspace(-1.0, 1.0, 5) / 3,
    ),
    "radon_slices": _make(
        (2, 4, 3), ANGLES[:3], num_detectors=5, spacing=0.8, shift=0.25
    ),
}
