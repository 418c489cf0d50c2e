"""Operators on regular grids, against NumPy, SciPy and Pillow."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import scipy.ndimage
import scipy.signal

import lsqflow as lf
from lsqflow._operator.signal.grid import require_choice

from .helpers import count_traces, dtype_of, normal, relative_error, rng

EPS = float(np.finfo(dtype_of("real")).eps)
# Our names of boundary conditions, and those of scipy.ndimage and numpy.pad.
NDIMAGE = {
    "zero": "grid-constant",
    "wrap": "grid-wrap",
    "reflect": "mirror",
    "symmetric": "reflect",
    "edge": "nearest",
}
NUMPY = {name: name for name in NDIMAGE} | {"zero": "constant"}
kinds = pytest.mark.parametrize("kind", ["real", "complex"])
boundaries = pytest.mark.parametrize("boundary", NDIMAGE)


def close(got, want, bound=100):
    want = np.asarray(want)
    assert np.shape(got) == want.shape
    assert relative_error(got, want) < bound * EPS


def check(pairs, x, bound=100):
    """Compare the products of some operators, compiled together, with arrays."""
    operators, wanted = zip(*pairs, strict=True)
    products = eqx.filter_jit(lambda ops, v: [op.mv(v) for op in ops])
    for got, want in zip(products(operators, jnp.asarray(x)), wanted, strict=True):
        assert got.dtype == x.dtype or jnp.iscomplexobj(got) != np.iscomplexobj(x)
        close(got, want, bound)


def matrix_of(operator):
    return np.asarray(eqx.filter_jit(lambda op: op.as_matrix())(operator))


def normals(seed, *shapes, dtype):
    return [normal(rng(seed + i), shape, dtype) for i, shape in enumerate(shapes)]


@pytest.mark.float32
@boundaries
def test_convolution_is_that_of_ndimage(boundary):
    dtype = dtype_of("real")
    (x,) = normals(0, (6, 7), dtype=dtype)
    pairs = []
    for sizes in ((3, 3), (4, 1), (2, 5)):
        (k,) = normals(1, sizes, dtype=dtype)
        want = scipy.ndimage.convolve(x, k, mode=NDIMAGE[boundary])
        for method in ("fft", "direct"):
            options = {"boundary": boundary, "method": method}
            op = lf.Convolution(jnp.asarray(k), x.shape, **options)
            pairs.append((op, want))
    check(pairs, x)


@pytest.mark.float32
@kinds
def test_full_and_valid_convolution(kind):
    k, kernel, x = normals(0, (3, 2), (2, 2, 3), (2, 5, 4), dtype=dtype_of(kind))
    pairs = []
    for method in ("fft", "direct"):
        for mode in ("full", "valid"):
            options = {"mode": mode, "method": method}
            op = lf.Convolution(jnp.asarray(k), x.shape, **options)
            want = [scipy.signal.convolve2d(image, k, mode) for image in x]
            pairs.append((op, want))
            op = lf.Convolution(jnp.asarray(kernel), x.shape, **options)
            pairs.append((op, scipy.signal.convolve(x, kernel, mode)))
    check(pairs, x)


@pytest.mark.float32
@kinds
def test_large_kernels(kind):
    k, x, u = normals(0, 300, 320, 21, dtype=dtype_of(kind))
    valid = [
        lf.Convolution(jnp.asarray(k), 320, mode="valid", method=method)
        for method in ("auto", "direct")
    ]
    check([(op, np.convolve(x, k, "valid")) for op in valid], x, 1000)
    check([(op.T, np.convolve(u, k[::-1])) for op in valid], u, 1000)
    # A kernel that goes around the array many times.
    wide = lf.Convolution(jnp.asarray(k), 7, boundary="wrap", method="fft")
    folded = np.pad(k, (0, 1)).reshape(-1, 7).sum(0)
    want = scipy.linalg.circulant(folded) @ np.roll(x[:7], -150)
    check([(wide, want)], x[:7], 1000)


def test_method_and_dtype_of_a_convolution():
    make = lambda size, **options: lf.Convolution(jnp.ones(size), 99, **options)
    assert (make(64).method, make(65).method) == ("direct", "fft")
    complex64 = lf.Convolution(jnp.ones(3, jnp.float32), 5, dtype=jnp.complex64)
    assert complex64.mv(jnp.ones(5, jnp.complex64)).dtype == jnp.complex64
    half = lf.Convolution(jnp.ones(3, jnp.bfloat16), 5)
    np.testing.assert_array_equal(
        half.mv(jnp.ones(5, jnp.bfloat16)).astype(np.float32), [2, 3, 3, 3, 2]
    )


def count_ffts(operator):
    """The FFTs of a product, and of the transposed one."""
    for op in (operator, operator.T):
        v = jnp.zeros(op.in_structure().shape)
        product = jax.jit(lambda op, v: op.mv(v)).lower(op, v)
        yield product.compile().as_text().count(" fft(")


@pytest.mark.parametrize("name", ["wrap", "edge", "circulant", "toeplitz"])
def test_a_linearised_product_is_two_ffts_either_way(name):
    if name == "circulant":
        op = lf.Circulant(jnp.ones(8))
    elif name == "toeplitz":
        op = lf.Toeplitz(jnp.ones(5), jnp.ones(4))
    else:
        op = lf.Convolution(jnp.ones((9, 9)), (16, 16), boundary=name)
    assert tuple(count_ffts(op)) == (3, 3)
    assert tuple(count_ffts(op.linearise())) == (2, 2)


@pytest.mark.float32
@boundaries
def test_padding_is_that_of_numpy(boundary):
    (x,) = normals(0, (4, 3), dtype=dtype_of("complex"))
    pairs = []
    for widths in (2, (1, 3), ((5, 9), (0, 7))):
        want = np.pad(x, widths, mode=NUMPY[boundary])
        pairs.append((lf.Padding(widths, x, boundary), want))
    check(pairs, x)


@boundaries
def test_transposed_padding_is_that_of_the_matrix(boundary):
    operators, vectors, wanted = [], [], []
    for shape, widths in (
        ((4, 3), ((1, 2), (0, 1))),
        ((4, 3), ((4, 3), (0, 3))),
        ((4,), ((9, 6),)),
        ((1, 2), ((0, 1), (1, 1))),
    ):
        operators.append(lf.Padding(widths, np.zeros(shape), boundary).T)
        columns = [
            np.pad(e.reshape(shape), widths, mode=NUMPY[boundary]).ravel()
            for e in np.eye(np.prod(shape))
        ]
        u = rng().standard_normal(operators[-1].in_structure().shape)
        vectors.append(jnp.asarray(u))
        wanted.append((np.stack(columns) @ u.ravel()).reshape(shape))
    pairs = list(zip(operators, vectors, strict=True))
    products = eqx.filter_jit(lambda pairs: [op.mv(u) for op, u in pairs])
    for got, want in zip(products(pairs), wanted, strict=True):
        close(got, want)


@pytest.mark.float32
@pytest.mark.parametrize("norm", ["ortho", "backward", "forward"])
def test_fft_is_that_of_numpy(norm):
    dtype = dtype_of("complex")
    x, u = normals(0, (4, 3, 5), (4, 3, 3), dtype=dtype)
    op = lf.FFT(x.shape, (0, -1), norm=norm, dtype=dtype)
    scale = {"ortho": 1, "backward": 20, "forward": 1 / 20}[norm]
    inverse = np.fft.ifftn(x, axes=(0, 2), norm=norm)
    check([(op, np.fft.fftn(x, axes=(0, 2), norm=norm)), (op.H, scale * inverse)], x)
    close(op.adjoint_mv(jnp.asarray(x)), scale * inverse)
    half = lf.FFT(x.shape, (0, 2), norm=norm, real=True, dtype=x.real.dtype)
    check([(half, np.fft.rfftn(x.real, axes=(0, 2), norm=norm))], x.real)
    A = np.fft.rfftn(np.eye(60).reshape(60, *x.shape), axes=(1, 3), norm=norm)
    A = A.reshape(60, -1)
    transposed, adjoint = (
        np.real(B @ u.ravel()).reshape(x.shape) for B in (A, A.conj())
    )
    check([(half.T, transposed), (half.H, adjoint)], u)


def test_least_squares_with_half_a_spectrum():
    (b,) = normals(0, (4, 3), dtype=np.complex128)
    op = lf.FFT((4, 4), real=True)
    A = matrix_of(op)
    stacked = np.vstack([A.real, A.imag])
    want = np.linalg.pinv(stacked) @ np.append(b.real, b.imag)
    x = lf.lstsq(op, jnp.asarray(b), lf.LSMR(rtol=1e-12)).value
    assert relative_error(x.ravel(), want) < 1e-9


@pytest.mark.float32
@kinds
def test_circulant_and_toeplitz_are_those_of_scipy(kind):
    dtype = dtype_of(kind)
    for columns in (1, 7):
        x, c = normals(0, columns, columns, dtype=dtype)
        pairs = [
            (lf.Circulant(jnp.asarray(c)), scipy.linalg.circulant(c) @ x),
            (lf.Toeplitz(jnp.asarray(c)), scipy.linalg.toeplitz(c) @ x),
        ]
        for rows in (1, 4, 9):
            c, r = normals(2, rows, columns, dtype=dtype)
            op = lf.Toeplitz(jnp.asarray(c), jnp.asarray(r))
            pairs.append((op, scipy.linalg.toeplitz(c, r) @ x))
        check(pairs, x)


@pytest.mark.float32
@kinds
def test_differences_are_those_of_numpy(kind):
    dtype = dtype_of(kind)
    (x,) = normals(0, (5, 7), dtype=dtype)
    pairs = []

    def expect(want, axis, **options):
        pairs.append((lf.Difference(x.shape, axis, dtype=dtype, **options), want))

    for order in (1, 2, 3):
        expect(np.diff(x, order, axis=0), 0, order=order)
        want = np.diff(x, order, axis=1) / 2**order
        expect(want, 1, order=order, kind="backward", spacing=2.0)
        zeros = np.zeros((5, order))
        expect(np.diff(x, order, append=zeros), 1, order=order, boundary="zero")
        want = np.diff(x, order, prepend=zeros)
        expect(want, 1, order=order, kind="backward", boundary="zero")
    want = np.gradient(x, 0.5, axis=1)[:, 1:-1]
    expect(want, 1, kind="central", spacing=0.5)
    for boundary, mode in NDIMAGE.items():
        want = scipy.ndimage.correlate1d(x, [-0.5, 0, 0.5], 0, mode=mode)
        expect(want, 0, kind="central", boundary=boundary)
    check(pairs, x)


def test_central_differences_of_higher_order_are_exact_for_cubics():
    t = np.arange(8.0) / 2
    pairs = []
    for order, want in ((2, 6 * t), (3, 6 + 0 * t), (4, 0 * t)):
        op = lf.Difference(8, order=order, kind="central", spacing=0.5)
        cut = (8 - op.out_size()) // 2
        pairs.append((op, want[cut:-cut]))
    check(pairs, t**3)


@boundaries
def test_laplacian_is_that_of_ndimage(boundary):
    (x,) = normals(0, (4, 3, 5), dtype=np.float64)
    op = lf.Laplacian(x.shape, boundary=boundary)
    check([(op, scipy.ndimage.laplace(x, mode=NDIMAGE[boundary]))], x)
    A = matrix_of(op)
    assert lx.is_symmetric(op) == np.array_equal(A, A.T)
    negative = np.linalg.eigvals(A).real.max() < -1e-9
    assert lx.is_negative_semidefinite(op) == negative


def test_gradient_and_laplacian_by_axis():
    (x,) = normals(0, (3, 4, 5), dtype=np.float64)
    gradient = lf.Gradient(x.shape, (0, 2), spacing=(0.5, 2.0))
    a, b = eqx.filter_jit(gradient.mv)(jnp.asarray(x))
    close(a, np.diff(x, axis=0, append=x[-1:]) / 0.5)
    close(b, np.diff(x, axis=2, append=x[..., -1:]) / 2)
    inside = lf.Laplacian(x.shape, (0, 2), spacing=(0.5, 2.0), boundary="none")
    want = np.diff(x, 2, axis=0)[..., 1:-1] * 4 + np.diff(x, 2, axis=2)[1:-1] / 4
    check([(inside, want)], x)
    G = matrix_of(lf.Gradient((4, 5)))
    close(-G.T @ G, matrix_of(lf.Laplacian((4, 5), boundary="edge")))


@pytest.mark.float32
@kinds
def test_integration_is_that_of_scipy(kind):
    (x,) = normals(0, (6, 5), dtype=dtype_of(kind))
    h = 0.25
    options = {"spacing": h, "dtype": x.dtype}
    trapezoid = lf.Integration(x.shape, 0, **options)
    want = scipy.integrate.cumulative_trapezoid(x, dx=h, axis=0, initial=0)
    rectangle = lf.Integration(x.shape, rule="rectangle", **options)
    sums = np.cumsum(x, axis=1) * h
    check([(trapezoid, want), (rectangle, sums)], x)
    derivative = lf.Difference(x.shape, kind="backward", boundary="zero", **options)
    check([(derivative, x)], sums.astype(x.dtype))


@boundaries
def test_interpolation_is_that_of_ndimage(boundary):
    for shape in ((5,), (4, 3), (3, 4, 2)):
        (x,) = normals(0, shape, dtype=np.float64)
        points = rng(1).uniform(-6, 9, (20, len(shape)))
        pairs = []
        for method, order in (("linear", 1), ("nearest", 0)):
            options = {"method": method, "boundary": boundary}
            op = lf.Interpolation(jnp.asarray(points), shape, **options)
            options = {"order": order, "mode": NDIMAGE[boundary]}
            want = scipy.ndimage.map_coordinates(x, points.T, **options)
            pairs.append((op, want))
        check(pairs, x)


@pytest.mark.float32
@kinds
def test_cubic_interpolation_is_exact_for_quadratics(kind):
    dtype = dtype_of(kind)
    factor = normal(rng(2), (), dtype)

    def quadratic(points):
        s, t = points[..., 0], points[..., 1]
        values = factor * (s**2 - 2 * s * t + 0.5 * t**2 + 3)
        return np.stack([values, 2 * values]).astype(dtype)

    everywhere = np.stack(np.meshgrid(range(6), range(7), indexing="ij"), -1)
    images = quadratic(everywhere)
    pairs = []
    for points in (everywhere, rng().uniform(1, 4, (3, 5, 2))):
        at = jnp.asarray(points.astype(images.real.dtype))
        op = lf.Interpolation(at, images.shape, method="cubic", dtype=dtype)
        pairs.append((op, quadratic(points)))
    check(pairs, images)


@pytest.mark.parametrize("method", ["linear", "cubic"])
def test_derivatives_in_the_points(method):
    (x,) = normals(0, (5, 6), dtype=np.float64)
    points = rng(1).uniform(-1, 6, (8, 2))

    @jax.jit
    @jax.value_and_grad
    def value(points):
        op = lf.Interpolation(points, (5, 6), method=method, boundary="symmetric")
        return jnp.sum(op.mv(jnp.asarray(x)) ** 2)

    step = 1e-6 * normal(rng(2), points.shape, np.float64)
    want = (value(points + step)[0] - value(points - step)[0]) / 2
    np.testing.assert_allclose(np.vdot(value(points)[1], step), want, rtol=1e-6)


FILTERS = {"linear": "BILINEAR", "cubic": "BICUBIC", "lanczos3": "LANCZOS"}


@pytest.mark.float32
@pytest.mark.parametrize("method", FILTERS)
def test_resampling_is_that_of_pillow(method):
    from PIL import Image

    (x,) = normals(0, (9, 12), dtype=np.float32)
    factor = np.complex64(1 + 2j)
    real, both = [], []
    for shape in ((14, 19), (5, 7), (9, 5)):
        how = Image.Resampling[FILTERS[method]]
        want = np.asarray(Image.fromarray(x).resize(shape[::-1], how))
        op = lf.Resampling(x.shape, shape, method=method, dtype=np.float32)
        real.append((op, want))
        op = lf.Resampling(x.shape, shape, method=method, dtype=np.complex64)
        both.append((op, want * factor))
    check(real, x, 1e-5 / EPS)
    check(both, x * factor, 1e-5 / EPS)


@pytest.mark.float32
def test_resampling_without_antialias():
    (x,) = normals(0, 6, dtype=np.float32)
    options = {"antialias": False, "dtype": np.float32}
    pairs = [
        (lf.Resampling(6, 3, **options), x.reshape(3, 2).mean(1)),
        (lf.Resampling(6, 12, method="nearest", **options), np.repeat(x, 2)),
    ]
    check(pairs, x, 1e-5 / EPS)


def test_deconvolution():
    k, x, b = normals(0, (3, 3), (6, 6), (6, 6), dtype=np.float64)
    k[1, 1] += 8

    def value(kernel):
        op = lf.Convolution(kernel, (6, 6), boundary="wrap", method="fft")
        solution = lf.lstsq(op, jnp.asarray(b), lf.LSMR(rtol=1e-12)).value
        return jnp.vdot(x, solution), solution

    counted, traces = count_traces(value)
    slopes = jax.jit(jax.vmap(jax.grad(counted, has_aux=True)))
    step = 1e-5 * x[:3, :3]
    gradients, solutions = slopes(jnp.asarray([k, k + step, k - step]))
    blurred = scipy.ndimage.convolve(np.asarray(solutions[0]), k, mode="wrap")
    assert relative_error(blurred, b) < 1e-9
    above, below = (np.vdot(x, solution) for solution in solutions[1:])
    want = (above - below) / 2
    np.testing.assert_allclose(np.vdot(gradients[0], step), want, rtol=1e-5)
    before = len(traces)
    slopes(jnp.asarray([2 * k, k, 3 * k]))
    assert len(traces) == before


ERRORS = {
    "kernel of a `Convolution`": lambda: lf.Convolution(jnp.ones((3, 3)), 5),
    "at least as large": lambda: lf.Convolution(jnp.ones(3), 2, mode="valid"),
    "kernel of dtype": lambda: lf.Convolution(jnp.ones(3), 5, dtype=jnp.bfloat16),
    "method='fft'": lambda: lf.Convolution(jnp.ones(3, "bfloat16"), 5, method="fft"),
    "positive integers": lambda: lf.Convolution(jnp.ones(3), (5, 0)),
    "pad_width": lambda: lf.Padding(-1, jnp.ones(3)),
    "one array": lambda: lf.Padding(1, (jnp.ones(3), jnp.ones(3))),
    "distinct axes": lambda: lf.FFT((3, 4), (0, -2)),
    "Pass `real=True`": lambda: lf.FFT(3, dtype=float),
    "Pass `real=False`": lambda: lf.FFT(3, real=True, dtype=complex),
    "`column` of `Circ": lambda: lf.Circulant(jnp.ones(0)),
    "one dtype": lambda: lf.Toeplitz(jnp.ones(3), jnp.ones(2, complex)),
    "needs more than 2": lambda: lf.Difference(2, order=2),
    "counts from 1": lambda: lf.Difference(2, order=0),
    "spacing of": lambda: lf.Gradient((2, 3), spacing=(1, 2, 3)),
    "got dtype int": lambda: lf.Integration(3, dtype=int),
    "last axis of `points`": lambda: lf.Interpolation(jnp.ones((5, 2)), 7),
    "Points of dtype": lambda: lf.Interpolation(jnp.ones((5, 1)), 7, dtype="bfloat16"),
    "number of axes": lambda: lf.Resampling((3, 4), 5),
}


@pytest.mark.parametrize("text", ERRORS)
def test_errors_say_what_is_wrong(text):
    with pytest.raises((ValueError, TypeError)) as error:
        ERRORS[text]()
    assert text in str(error.value)


def test_unknown_options():
    # In an operator's arguments jaxtyping reports them first, while it is on.
    with pytest.raises(ValueError, match=r"the modes 'zero', 'wrap'; got 'mirror'"):
        require_choice("mirror", ("zero", "wrap"), "modes", "`Padding`")
