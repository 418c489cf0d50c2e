"""Small operators of signals and images: convolutions, transforms, stencils."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import lsqflow as lf


def _normal(seed, shape, dtype):
    generator = np.random.default_rng(seed)
    x = generator.standard_normal(shape)
    if np.issubdtype(dtype, np.complexfloating):
        x = x + 1j * generator.standard_normal(shape)
    return jnp.asarray(x.astype(dtype))


def _real(dtype):
    return np.finfo(dtype).dtype


def _is_complex(dtype):
    return np.issubdtype(dtype, np.complexfloating)


def _points(seed, shape, dtype):
    return jnp.asarray(
        np.random.default_rng(seed).uniform(-1.4, 4.4, shape).astype(_real(dtype))
    )


def _convolution(kernel, shape, **options):
    return lambda dtype: lf.Convolution(_normal(0, kernel, dtype), shape, **options)


def _padding(shape, widths, mode):
    return lambda dtype: lf.Padding(widths, jax.ShapeDtypeStruct(shape, dtype), mode)


def _stencil(make, *args, **options):
    return lambda dtype: make(*args, dtype=dtype, **options)


def _interpolation(points, shape, **options):
    return lambda dtype: lf.Interpolation(
        _points(1, points, dtype), shape, dtype=dtype, **options
    )


def _real_kernel(dtype):
    if not _is_complex(dtype):
        raise NotImplementedError
    kernel = _normal(0, (3,), _real(dtype))
    return lf.Convolution(kernel, 7, boundary="edge", dtype=dtype)


def _fft(dtype):
    if not _is_complex(dtype):
        raise NotImplementedError
    return lf.FFT((3, 2, 4), (0, 2), norm="backward", dtype=dtype)


def _real_fft(dtype):
    if _is_complex(dtype):
        raise NotImplementedError
    return lf.FFT((3, 6), real=True, dtype=dtype)


def _toeplitz(rows, columns):
    return lambda dtype: lf.Toeplitz(
        _normal(0, rows, dtype), _normal(1, columns, dtype)
    )


CASES: dict[str, Callable[[np.dtype], lf.AbstractOperator]] = {
    "convolution-direct": _convolution((3, 2), (4, 5), boundary="reflect"),
    "convolution-fft": _convolution((3, 2), (4, 5), boundary="edge", method="fft"),
    "convolution-periodic": _convolution((3, 2), (4, 5), boundary="wrap", method="fft"),
    "convolution-full": _convolution((3,), (2, 7), mode="full", method="fft"),
    "convolution-valid": _convolution((2, 2, 2), (3, 3, 4), mode="valid"),
    "convolution-real-kernel": _real_kernel,
    "padding-edge": _padding((3, 4), ((1, 2), (0, 1)), "edge"),
    "padding-wrap": _padding((3,), (4, 5), "wrap"),
    "fft": _fft,
    "fft-real": _real_fft,
    "circulant": lambda dtype: lf.Circulant(_normal(0, 7, dtype)),
    "toeplitz-tall": _toeplitz(8, 5),
    "toeplitz-wide": _toeplitz(4, 7),
    "difference": _stencil(lf.Difference, (3, 6), spacing=0.5),
    "difference-central": _stencil(
        lf.Difference, (6, 3), 0, order=3, kind="central", boundary="symmetric"
    ),
    "gradient": _stencil(lf.Gradient, (3, 4), spacing=(0.5, 2.0)),
    "laplacian": _stencil(lf.Laplacian, (4, 5), spacing=(0.5, 2.0)),
    "laplacian-inside": _stencil(lf.Laplacian, (4, 5), boundary="none"),
    "integration": _stencil(lf.Integration, (3, 6), 1, spacing=0.5),
    "integration-rectangle": _stencil(lf.Integration, (4, 3), 0, rule="rectangle"),
    "interpolation": _interpolation((9, 2), (4, 5)),
    "interpolation-zero": _interpolation((2, 4, 1), (3, 5), boundary="zero"),
    "interpolation-cubic": _interpolation(
        (7, 2), (4, 4), method="cubic", boundary="reflect"
    ),
    "resampling-up": _stencil(lf.Resampling, (3, 4), (5, 6), method="cubic"),
    "resampling-down": _stencil(lf.Resampling, (6, 5), (4, 5)),
}
