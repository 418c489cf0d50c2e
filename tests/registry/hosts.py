"""Who calls a solver: our functions, lineax's, and the libraries above them."""

from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import lineax as lx
import optimistix as optx

import lsqflow as lf

Host = Callable[[Any, Any, lx.AbstractLinearSolver], Any]


def _as_lineax(operator):
    """Lineax takes operators alone: arrays and sparse matrices become ours."""
    is_operator = isinstance(operator, lx.AbstractLinearOperator)
    return operator if is_operator else lf.as_operator(operator)


HOSTS: dict[str, Host] = {
    "lstsq": lambda A, b, solver: lf.lstsq(A, b, solver).value,
    "pinv": lambda A, b, solver: lf.pinv(A, solver).mv(b),
    "linear_solve": lambda A, b, solver: (
        lx.linear_solve(_as_lineax(A), b, solver).value
    ),
    "invert": lambda A, b, solver: lx.invert(_as_lineax(A), solver).mv(b),
}


# Lineax compiles again for a closure defined anew, and so does it with its own solvers.
BY_IDENTITY = ("linear_solve", "invert")


def lenient(function):
    """Under JAX's ordinary promotion, which optimistix and diffrax are written for."""

    def call(*args):
        with (
            jax.numpy_dtype_promotion("standard"),
            jax.numpy_rank_promotion("allow"),
        ):
            return function(*args)

    return call


def _zeros(structure):
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), structure)


def _residual(x, args):
    operator, vector = args
    return jax.tree.map(jnp.subtract, operator.mv(x), vector)


def _least_squares(method):
    def solve(operator, vector, solver):
        eps = float(jnp.finfo(jax.tree.leaves(vector)[0].dtype).eps)
        tolerance = eps**0.65  # 1e-10 in double precision
        return optx.least_squares(
            _residual,
            method(rtol=tolerance, atol=tolerance, linear_solver=solver),
            _zeros(operator.in_structure()),
            args=(operator, vector),
            adjoint=optx.ImplicitAdjoint(linear_solver=solver),
        ).value

    return lenient(solve)


LEAST_SQUARES: dict[str, Host] = {
    method.__name__: _least_squares(method)
    for method in (optx.LevenbergMarquardt, optx.Dogleg, optx.GaussNewton)
}

TIME = 0.25


def _drift(t, y, args):
    operator, vector = args
    return jax.tree.map(jnp.subtract, vector, operator.mv(y))


def _implicit(root_finder):
    """y(TIME) of y′ = b − A y, y(0) = 0, by an implicit method of third order."""

    def solve(operator, vector, solver):
        finder = root_finder(rtol=1e-5, atol=1e-5, linear_solver=solver)
        # In the precision of the vector: diffrax promotes y with the time.
        at = lambda time: jnp.asarray(time, jax.tree.leaves(vector)[0].dtype)
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(_drift),
            diffrax.Kvaerno3(root_finder=finder),
            t0=at(0.0),
            t1=at(TIME),
            dt0=at(TIME / 4),
            y0=_zeros(operator.in_structure()),
            args=(operator, vector),
            max_steps=8,
        )
        return jax.tree.map(lambda y: y[-1], solution.ys)

    return lenient(solve)


IMPLICIT: dict[str, Host] = {
    "VeryChord": _implicit(diffrax.VeryChord),
    "Newton": _implicit(optx.Newton),
}
