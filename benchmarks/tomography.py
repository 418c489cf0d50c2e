"""Tomography: products of the Radon transform, and reconstructions."""

import importlib.util
from pathlib import Path
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
try:
    import h5py
except ImportError:
    h5py = None

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


def _tilt_series() -> tuple[Any, Any] | None:
    """Angles in degrees and projections `(slices, angles, detectors)`."""
    spec = importlib.util.find_spec("etspy")
    if spec is None or spec.origin is None or h5py is None:
        return None
    path = Path(spec.origin).parent / "tests" / "test_data" / "HAADF_Aligned.hspy"
    with h5py.File(path) as file:
        group = file["Experiments/__unnamed__"]
        data = np.asarray(group["data"], np.float32).transpose(2, 0, 1)
        degrees = np.asarray(group["metadata/Tomography/_sig_tilts/data"])[:, 0]
    return degrees, data


def tilt_series(rounds: int) -> None:
    """Slices of a real object, judged by projections that were held out."""
    print("\n### A real tilt series, 256×256, 77 angles from −76° to 76°")
    found = _tilt_series()
    if found is None:
        print("\nLeft out: `pip install --no-deps etspy==1.3.0 h5py` brings the data.")
        return
    degrees, data = found
    slices = data[96:160:16]
    slices -= np.percentile(slices, 2, axis=(1, 2), keepdims=True)
    held = np.arange(len(degrees)) % 7 == 3
    size = slices.shape[-1]
    shape = (len(slices), size, size)

    def radon(chosen: Any) -> Any:
        angles = np.deg2rad(degrees[chosen])
        return lf.Radon(angles, shape, num_detectors=size, dtype=np.float32)

    operator, b = radon(~held), jnp.asarray(slices[:, ~held])
    gradient = lf.Gradient(shape, (1, 2), dtype=np.float32)
    solver = lf.LSMR(rtol=1e-3, max_steps=500)

    def ours(strength: float) -> Any:
        smooth = lf.Tikhonov(gradient, strength)
        return lf.lstsq(operator, b, solver, regularizers=[smooth]).value

    def filtered(name: str) -> Any:
        angles = degrees[~held]
        return np.stack(
            [skimage.transform.iradon(x.T, angles, filter_name=name) for x in b]
        ).astype(np.float32)

    calls: dict[str, Any] = {
        "FBP, ramp": lambda: filtered("ramp"),
        "FBP, Hann": lambda: filtered("hann"),
        "least squares, smooth": lambda: ours(3.0),
        "least squares, smoother": lambda: ours(10.0),
    }
    hidden = slices[:, held]
    errors = {}
    for name, call in calls.items():
        guess = np.asarray(radon(held).mv(jnp.asarray(call())))
        # Filtered back projection of a limited range of angles has a scale of its own.
        errors[name] = error(guess * np.vdot(guess, hidden) / np.sum(guess**2), hidden)
    times = interleave(calls, rounds)
    rows = [[name, 1e3 * t.median, errors[name]] for name, t in times.items()]
    table([f"{len(slices)} slices", "median ms", "error of unseen projections"], rows)


def main(*, quick: bool) -> None:
    print(SETTINGS)
    size, rounds = (64, 1) if quick else (256, 5)
    products(size, 60 if quick else 180, rounds)
    for name in ("shepp_logan_phantom", "camera"):
        reconstructions(name, size, 15 if quick else 60, rounds)
    tilt_series(rounds)
