"""Optimistix and diffrax run with our solvers inside, and agree with SciPy."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import pytest
import scipy.linalg
import scipy.optimize

import lsqflow as lf

from .helpers import rng

LINEAR = lf.LSMR(rtol=1e-12)
TOL = {"rtol": 1e-10, "atol": 1e-10}
METHODS = {
    "levenberg_marquardt": optx.LevenbergMarquardt(**TOL, linear_solver=LINEAR),
    "gauss_newton": optx.GaussNewton(**TOL, linear_solver=LINEAR),
    "gauss_newton_lsqr": optx.GaussNewton(**TOL, linear_solver=lf.LSQR(rtol=1e-12)),
    "dogleg": optx.Dogleg(**TOL, linear_solver=LINEAR),
}
TIMES = np.linspace(0, 2, 12)
DATA = 2.5 * np.exp(-1.3 * TIMES) + 0.05 * rng(3).standard_normal(12)


def rosenbrock(x, args):
    return jnp.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]])


def decay(p, data):
    return p["scale"] * jnp.exp(-p["rate"] * jnp.asarray(TIMES)) - data


def scipy_fit(data):
    """By SciPy, and then to all digits as a root of the normal equations."""

    def residual(p):
        return p[0] * np.exp(-p[1] * TIMES) - data

    def normal_equations(p):
        powers = np.exp(-p[1] * TIMES)
        return np.stack([powers, -p[0] * TIMES * powers]) @ residual(p)

    fit = scipy.optimize.least_squares(residual, [1.0, 1.0])
    return scipy.optimize.root(normal_equations, fit.x, tol=1e-14).x


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_rosenbrock(method):
    x = optx.least_squares(rosenbrock, method, jnp.asarray([-1.2, 1.0])).value
    np.testing.assert_allclose(x, [1, 1], rtol=1e-8)


def test_curve_fit_and_its_gradient_against_scipy():
    method = METHODS["levenberg_marquardt"]
    adjoint = optx.ImplicitAdjoint(linear_solver=LINEAR)
    start = {"scale": jnp.asarray(1.0), "rate": jnp.asarray(1.0)}

    def fit(data):
        p = optx.least_squares(decay, method, start, args=data, adjoint=adjoint).value
        return jnp.stack([p["scale"], p["rate"]])

    weight = np.array([0.7, -1.1])
    loss = jax.jit(jax.value_and_grad(lambda data: jnp.sum(weight * fit(data))))
    value, gradient = loss(jnp.asarray(DATA))
    np.testing.assert_allclose(value, weight @ scipy_fit(DATA), rtol=1e-7)
    for i in (0, 3, 11):
        step = 1e-4 * np.eye(12)[i]
        slope = weight @ (scipy_fit(DATA + step) - scipy_fit(DATA - step)) / 2e-4
        np.testing.assert_allclose(gradient[i], slope, rtol=1e-5, atol=1e-8)


STIFF = np.array([[-500.0, 499.0, 0.0], [499.0, -500.0, 0.0], [1.0, 0.0, -2.0]])


def test_stiff_linear_ode_against_the_matrix_exponential():
    y0 = jnp.asarray([1.0, 0.0, 0.5])
    root_finder = diffrax.VeryChord(rtol=1e-9, atol=1e-9, linear_solver=LINEAR)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, y, A: A @ y),
        diffrax.Kvaerno3(root_finder=root_finder),
        t0=0.0,
        t1=0.5,
        dt0=1e-3,
        y0=y0,
        args=jnp.asarray(STIFF),
        stepsize_controller=diffrax.PIDController(rtol=1e-7, atol=1e-9),
    )
    assert solution.stats["num_accepted_steps"] < 500  # an explicit method needs more
    want = scipy.linalg.expm(0.5 * STIFF) @ np.asarray(y0)
    np.testing.assert_allclose(solution.ys[-1], want, rtol=1e-6)
