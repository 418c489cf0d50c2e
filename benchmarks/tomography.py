"""Tomography: products of the Radon transform, and reconstructions."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse.linalg
import skimage

import lsqflow as lf

from ._report import at_most, table
from ._timing import interleave

try:
    import pylops
except ImportError:
    pylops = None

NOISE = 0.01  # of the largest entry of the sinogram
STEPS = 30

SETTINGS = f"""
Images of scikit-image, float32, the circle inscribed; normal noise of {NOISE:g} of the
largest entry of the sinogram. Reconstructions run {STEPS} damped steps from zero;
SciPy and PyLops call the same compiled products, with float64 around them. FBP is
`skimage.transform.iradon` with a ramp filter. Errors are relative to the image."""


def load(name: str, size: int) -> Any:
    """An image of scikit-image, nothing but zeros outside of the inscribed circle."""
    image = skimage.util.img_as_float(getattr(skimage.data, name)())
    image = image if image.ndim == 2 else skimage.color.rgb2gray(image)
    image = skimage.transform.resize(image, (size, size), anti_aliasing=True)
    y, x = np.mgrid[:size, :size] - size // 2
    return (image * (x**2 + y**2 < (size // 2 - 1) ** 2)).astype(np.float32)


def error(got: Any, want: Any) -> float:
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


def setup(name: str, size: int, num_angles: int) -> tuple[Any, Any, Any, Any]:
    """Image, angles in degrees, operator, noisy sinogram."""
    image, degrees = load(name, size), np.linspace(0, 180, num_angles, endpoint=False)
    operator = lf.Radon(
        np.deg2rad(degrees), (size, size), num_detectors=size, dtype=np.float32
    )
    clean = np.asarray(operator.mv(jnp.asarray(image)))
    noise = np.random.default_rng(0).standard_normal(clean.shape)
    sinogram = clean + NOISE * clean.max() * noise
    return image, degrees, operator, sinogram.astype(np.float32)


def products(size: int, num_angles: int, rounds: int) -> None:
    """Both products and the gradient, against scikit-image's projection."""
    image, degrees, operator, sinogram = setup("camera", size, num_angles)
    x, b = jnp.asarray(image), jnp.asarray(sinogram)
    mv, rmv = (jax.jit(lambda o, v, p=p: getattr(o, p)(v)) for p in ("mv", "rmv"))
    gradient = jax.jit(
        jax.grad(lambda o, x, b: jnp.sum((o.mv(x) - b) ** 2), argnums=(0, 1))
    )
    calls = {
        "`mv`": lambda: mv(operator, x),
        "`rmv`": lambda: rmv(operator, b),
        "gradient to angles and image": lambda: gradient(operator, x, b),
        "`skimage.transform.radon`": lambda: skimage.transform.radon(image, degrees),
        "`skimage.transform.iradon`": lambda: skimage.transform.iradon(b.T, degrees),
    }
    theirs = calls["`skimage.transform.radon`"]().T
    print(f"\n### Products, {size}×{size}, {num_angles} angles\n")
    print(f"Difference from scikit-image: {error(calls['`mv`'](), theirs):.2g}")
    times = interleave(calls, rounds)
    reference = times["`skimage.transform.radon`"]
    rows = [[k, 1e3 * t.median, t.over(reference)] for k, t in times.items()]
    table(["", "median ms", "over skimage's radon"], rows)


def reconstructions(name: str, size: int, num_angles: int, rounds: int) -> None:
    """As many steps of LSQR by three libraries, and filtered back projection."""
    image, degrees, operator, sinogram = setup(name, size, num_angles)
    damp = 2.0
    b = jnp.asarray(sinogram)
    mv, rmv = (jax.jit(lambda o, v, p=p: getattr(o, p)(v)) for p in ("mv", "rmv"))
    settings = {"atol": 0, "btol": 0, "conlim": 0, "iter_lim": STEPS}

    def theirs(rows: Any) -> Any:
        return np.asarray(mv(operator, rows.reshape(image.shape).astype(np.float32)))

    def back(columns: Any) -> Any:
        shaped = columns.reshape(sinogram.shape).astype(np.float32)
        return np.asarray(rmv(operator, shaped)).ravel()

    shape = (sinogram.size, image.size)
    scipy_operator = scipy.sparse.linalg.LinearOperator(
        shape, matvec=lambda v: theirs(v).ravel(), rmatvec=back, dtype=np.float32
    )

    def ours(solver: Any) -> Any:
        return lf.lstsq(operator, b, solver, damp=damp, throw=False).value

    calls: dict[str, Any] = {
        "lsqflow LSQR": lambda: ours(lf.LSQR(rtol=0.0, max_steps=STEPS)),
        "lsqflow LSMR": lambda: ours(lf.LSMR(rtol=0.0, max_steps=STEPS)),
        "SciPy `lsqr`": lambda: scipy.sparse.linalg.lsqr(
            scipy_operator, sinogram.ravel(), damp=damp, **settings
        )[0].reshape(image.shape),
        "FBP": lambda: skimage.transform.iradon(sinogram.T, degrees),
    }
    if pylops is not None:
        calls["PyLops `lsqr`"] = lambda: pylops.lsqr(
            pylops.aslinearoperator(scipy_operator),
            sinogram.ravel(),
            damp=damp,
            niter=STEPS,
            atol=0,
            btol=0,
            conlim=0,
        )[0].reshape(image.shape)
    errors = {k: error(np.asarray(call()), image) for k, call in calls.items()}
    times = interleave(calls, rounds)
    print(f"\n### {name}, {size}×{size}, {num_angles} angles")
    rows = [
        [
            k,
            1e3 * t.median,
            errors[k],
            times["lsqflow LSQR"].over(t),
            at_most(times["lsqflow LSQR"].over(t), 1.0) if "`" in k else "",
        ]
        for k, t in times.items()
    ]
    table(["", "median ms", "error", "ours / it", "bar"], rows)


def main(*, quick: bool) -> None:
    print(SETTINGS)
    size, rounds = (64, 1) if quick else (256, 5)
    products(size, 60 if quick else 180, rounds)
    for name in ("shepp_logan_phantom", "camera"):
        reconstructions(name, size, 15 if quick else 60, rounds)
