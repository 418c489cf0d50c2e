"""The Radon transform, beside its formula, scikit-image and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage

import lsqflow as lf

from .helpers import dtype_of, normal, relative_error, rng

EPS = float(np.finfo(dtype_of("real")).eps)
ANGLES = np.array([-0.3, 0.0, 0.6, np.pi / 4, np.pi / 2, 2.5, 4.0])
CASES = {
    "square": ((8, 8), {}),
    "wide": ((6, 9), {"num_detectors": 11, "centre": (2.3, 4.8), "shift": 0.4}),
    "tall": ((9, 5), {"spacing": 1.7, "shift": np.linspace(-1, 1, 7)}),
    "fine": ((5, 6), {"spacing": 0.45}),
}


def formula(operator, shape, spacing=1.0, centre=None, shift=0.0, num_detectors=None):
    """The matrix, entry by entry, in float64."""
    rows, columns = shape
    detectors = operator.out_structure().shape[-1]
    assert num_detectors in {None, detectors}
    cy, cx = (rows // 2, columns // 2) if centre is None else centre
    t = ((np.arange(detectors) - detectors // 2) * spacing)[:, None, None]
    y, x = np.arange(rows)[:, None] - cy, np.arange(columns) - cx
    blocks = []
    for angle, h in np.broadcast(np.asarray(operator.angles, float), shift):
        c = max(abs(np.cos(angle)), abs(np.sin(angle)))
        distance = abs(t - h - x * np.cos(angle) + y * np.sin(angle))
        blocks.append(np.maximum(0, 1 - distance / c).reshape(detectors, -1) / c)
    return np.concatenate(blocks)


@pytest.mark.float32
@pytest.mark.parametrize("name", CASES)
def test_both_products_are_the_formula(name):
    shape, options = CASES[name]
    operator = lf.Radon(ANGLES, shape, dtype=dtype_of("real"), **options)
    dense = formula(operator, shape, **options)
    assert dense.sum() > 0
    assert relative_error(operator.as_matrix(), dense) < 50 * EPS
    assert relative_error(operator.transpose().as_matrix(), dense.T) < 50 * EPS


@pytest.mark.float32
def test_slices_and_complex_images():
    dtype = dtype_of("complex")
    shape, out_shape = (2, 3, 5, 4), (2, 3, 7, 6)
    operator = lf.Radon(ANGLES, shape, num_detectors=6, dtype=dtype)
    assert operator.out_structure() == jax.ShapeDtypeStruct(out_shape, dtype)
    dense = formula(operator, shape[-2:])
    v, u = normal(rng(), shape, dtype), normal(rng(1), out_shape, dtype)
    want = np.einsum("ij,abj->abi", dense, v.reshape(2, 3, 20)).reshape(out_shape)
    assert relative_error(operator.mv(jnp.asarray(v)), want) < 50 * EPS
    want = np.einsum("ij,abi->abj", dense, u.reshape(2, 3, 42)).reshape(shape)
    assert relative_error(operator.rmv(jnp.asarray(u)), want) < 50 * EPS


def blobs(shape):
    """A smooth image without any symmetry, in the circle inscribed."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    size = min(shape)
    image = np.zeros(shape)
    for row, column, width in ((0.35, 0.4, 0.05), (0.6, 0.3, 0.08), (0.5, 0.7, 0.04)):
        squared = (y - row * shape[0]) ** 2 + (x - column * shape[1]) ** 2
        image += np.exp(-squared / (2 * (width * size) ** 2)) / width
    squared = (y - shape[0] // 2) ** 2 + (x - shape[1] // 2) ** 2
    return image * (squared < (size // 2 - 1) ** 2)


@pytest.mark.float32
@pytest.mark.parametrize("shape", [(48, 48), (49, 49), (40, 53), (51, 38)])
@pytest.mark.parametrize("circle", [False, True])
def test_geometry_is_that_of_scikit_image(shape, circle):
    if circle and shape[0] != shape[1]:
        pytest.skip("scikit-image crops")
    image, degrees = blobs(shape), np.array([0.0, 17.0, 45, 90, 133, 205, 301])
    want = skimage.transform.radon(image, degrees, circle=circle).T
    operator = lf.Radon(
        np.deg2rad(degrees),
        shape,
        num_detectors=shape[0] if circle else None,
        dtype=dtype_of("real"),
    )
    got = operator.mv(jnp.asarray(image, dtype_of("real")))
    assert relative_error(got, want) < 0.01
    # One pixel more or less would be seen.
    assert relative_error(np.roll(got, 1, axis=1), want) > 0.1


def test_converges_to_the_transform_of_an_ellipse():
    # Axes a and b, turned by φ, at (p, q), on a square of side 2: the chord at
    # distance s is 2 a b √(w² − s²) / w² with w² = a² cos² + b² sin² of θ − φ.
    a, b, phi, p, q = 0.6, 0.3, 0.4, 0.2, -0.1
    angles = np.linspace(0, np.pi, 9)
    errors = []
    for n in (32, 128):
        centre, fine = (n - 1) / 2, 8
        grid = ((np.arange(fine * n) + 0.5) / fine - 0.5 - centre) * 2 / n
        y, x = -grid[:, None] - q, grid[None, :] - p
        u = (x * np.cos(phi) + y * np.sin(phi)) / a
        v = (y * np.cos(phi) - x * np.sin(phi)) / b
        inside = (u**2 + v**2 <= 1).astype(float)
        image = inside.reshape(n, fine, n, fine).mean((1, 3))
        operator = lf.Radon(angles, (n, n), centre=(centre, centre))
        got = np.asarray(operator.mv(jnp.asarray(image))) * 2 / n
        detectors = got.shape[1]
        t = (np.arange(detectors) - detectors // 2) * 2 / n
        cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
        s = t - p * cos - q * sin
        w2 = (a * np.cos(angles - phi)) ** 2 + (b * np.sin(angles - phi)) ** 2
        w2 = w2[:, None]
        want = 2 * a * b * np.sqrt(np.maximum(w2 - s**2, 0)) / w2
        errors.append(relative_error(got, want))
    assert errors[0] < 0.05
    assert errors[1] < errors[0] / 3


SMOOTH = np.array([-0.35, 0.21, 0.83, 1.9, 2.77])


def posed(angles, shift):
    return lf.Radon(angles, (7, 9), num_detectors=8, shift=shift)


@pytest.mark.parametrize("product", ["mv", "rmv"])
def test_derivatives_with_respect_to_angles_and_shift(product):
    v, u = (
        jnp.asarray(normal(rng(i), n, float)) for i, n in enumerate([(7, 9), (5, 8)])
    )
    x, weights = (v, u) if product == "mv" else (u, v)
    pose = jnp.asarray(SMOOTH), jnp.asarray(normal(rng(2), 5, float) / 5)
    rate = tuple(normal(rng(i), 5, float) for i in (3, 4))

    @jax.jit
    def value(s):
        operator = posed(*(p + s * r for p, r in zip(pose, rate, strict=True)))
        return jnp.vdot(weights, getattr(operator, product)(x))

    @jax.jit
    def reverse(s):
        moved = tuple(p + s * r for p, r in zip(pose, rate, strict=True))
        gradient = jax.grad(
            lambda pose: jnp.vdot(weights, getattr(posed(*pose), product)(x))
        )(moved)
        return sum(jnp.vdot(g, r) for g, r in zip(gradient, rate, strict=True))

    # No kink of the interpolation lies within the differences.
    h = 1e-6
    difference = (value(h) - value(-h)) / (2 * h)
    np.testing.assert_allclose(jax.grad(value)(0.0), difference, rtol=1e-7)
    np.testing.assert_allclose(jax.jvp(value, (0.0,), (1.0,))[1], difference, rtol=1e-7)
    np.testing.assert_allclose(reverse(0.0), difference, rtol=1e-7)
    second = (reverse(h) - reverse(-h)) / (2 * h)
    np.testing.assert_allclose(jax.grad(reverse)(0.0), second, rtol=1e-5)


@pytest.mark.float32
@pytest.mark.parametrize("angle", [0.0, np.pi / 4, np.pi / 2])
def test_derivative_at_a_kink_is_the_mean_of_both_sides(angle):
    dtype = dtype_of("real")
    v = jnp.asarray(normal(rng(), (7, 9), dtype))
    u = jnp.asarray(normal(rng(1), (1, 13), dtype))

    def moved(by):
        return lf.Radon(jnp.full(1, angle, dtype) + by, (7, 9))

    forward = jax.grad(lambda by: jnp.vdot(u, moved(by).mv(v)))(jnp.zeros((), dtype))
    backward = jax.grad(lambda by: jnp.vdot(v, moved(by).rmv(u)))(jnp.zeros((), dtype))
    scale = np.linalg.norm(v) * np.linalg.norm(u)
    assert abs(forward - backward) < 50 * EPS * scale
    if angle == 0:  # elsewhere rounding decides between the sides
        h = jnp.asarray(1e-4 if EPS < 1e-10 else 3e-3, dtype)
        central = jnp.vdot(u, moved(h).mv(v) - moved(-h).mv(v)) / (2 * h)
        assert abs(forward - central) < 20 * h * scale


def test_solutions_are_differentiable_with_respect_to_angles():
    target, b = normal(rng(), (6, 6), float), normal(rng(1), (5, 8), float)
    rate = normal(rng(2), 5, float)

    @jax.jit
    def loss(s):
        operator = lf.Radon(SMOOTH + s * rate, (6, 6), num_detectors=8)
        x = lf.lstsq(operator, b, lf.LSMR(rtol=1e-12), damp=0.5).value
        return jnp.sum((x - target) ** 2)

    h = 1e-5
    difference = (loss(h) - loss(-h)) / (2 * h)
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(0.0), difference, rtol=1e-6)


@pytest.mark.float32
def test_many_sets_of_angles_at_once():
    dtype = dtype_of("real")
    sets = jnp.asarray(ANGLES[:6].reshape(2, 3), dtype)
    images = jnp.asarray(normal(rng(), (2, 5, 5), dtype))
    make = lambda angles: lf.Radon(angles, (5, 5))
    got = jax.vmap(lambda o, v: o.mv(v))(jax.vmap(make)(sets), images)
    for angles, image, sinogram in zip(sets, images, got, strict=True):
        assert relative_error(sinogram, make(angles).mv(image)) < 10 * EPS


def gradient_of_angles(product, num_angles, size):
    """The compiled gradient, and the bytes of an image and of a sinogram."""
    angles = jnp.linspace(0.0, 3.0, num_angles)
    operator = lf.Radon(angles, (size, size), num_detectors=size)
    image, sinogram = jnp.ones((size, size)), jnp.ones((num_angles, size))

    def loss(angles, image, sinogram):
        operator = lf.Radon(angles, (size, size), num_detectors=size)
        if product == "mv":
            return jnp.vdot(sinogram, operator.mv(image))
        return jnp.vdot(image, operator.rmv(sinogram))

    assert operator.out_structure().shape == sinogram.shape
    gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
    return gradient.lower(angles, image, sinogram), image.nbytes, sinogram.nbytes


@pytest.mark.parametrize("product", ["mv", "rmv"])
def test_no_scatter_and_memory_of_an_image_and_a_sinogram(product):
    lowered, image, sinogram = gradient_of_angles(product, num_angles=100, size=48)
    assert "scatter" not in lowered.as_text()
    used = lowered.compile().memory_analysis().temp_size_in_bytes
    assert used < 20 * image + 6 * sinogram  # all weights would be 100 images


WRONG = {
    "degrees": (TypeError, "deg2rad", lambda: lf.Radon(jnp.arange(180), (8, 8))),
    "angles": (ValueError, "one-dim", lambda: lf.Radon(jnp.ones((2, 3)), (8, 8))),
    "shape": (ValueError, "rows, columns", lambda: lf.Radon(jnp.ones(3), (8,))),
    "size": (ValueError, "positive", lambda: lf.Radon(jnp.ones(3), (8, 0))),
    "spacing": (
        ValueError,
        "pixels",
        lambda: lf.Radon(jnp.ones(3), (8, 8), spacing=0.0),
    ),
    "shift": (
        ValueError,
        "one for each",
        lambda: lf.Radon(jnp.ones(3), (8, 8), shift=jnp.ones(2)),
    ),
    "image": (
        ValueError,
        "`Radon` takes",
        lambda: lf.Radon(jnp.ones(3), (8, 8)).mv(jnp.ones((7, 8))),
    ),
    "detectors": (
        ValueError,
        "num_detectors",
        lambda: lf.Radon(jnp.ones(3), (8, 8), num_detectors=0),
    ),
}


@pytest.mark.float32
@pytest.mark.parametrize("name", WRONG)
def test_errors(name):
    error, text, make = WRONG[name]
    with pytest.raises(error, match=text):
        make()
