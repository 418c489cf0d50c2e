"""Values and derivatives of every order, against dense closed forms.

A deficient operator is `A = B C` with full-rank factors, and derivatives are taken with
respect to the factors: that is what constant rank means. The closed forms below are
differentiated by JAX; nothing of lsqflow is in them.
"""

import functools as ft
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lsqflow as lf

from . import helpers

ORDERS = ("value", "gradient", "jvp", "hvp")
ALL_ORDERS = (*ORDERS, "reverse_over_reverse", "jvp_of_jvp")
DAMP = 0.5


def adjoint(A):
    return jnp.conj(A.T)


def inverse_of_gram(A, vector, damp=0.0):
    """(Aᴴ A + λ² I)⁻¹ v."""
    gram = adjoint(A) @ A
    shift = (damp**2 * jnp.eye(A.shape[1])).astype(gram.dtype)
    return jnp.linalg.solve(gram + shift, vector)


def closed_form(B, C, b, damp):
    """(x, y, r) from dense linear algebra on the full-rank factors."""
    A = B @ C
    if damp is not None:
        x = inverse_of_gram(A, adjoint(A) @ b, damp)
        return x, inverse_of_gram(adjoint(A), b, damp), b - A @ x
    # A⁺ = Cᴴ (C Cᴴ)⁻¹ (Bᴴ B)⁻¹ Bᴴ and y = (A⁺)ᴴ x.
    x = adjoint(C) @ inverse_of_gram(adjoint(C), inverse_of_gram(B, adjoint(B) @ b))
    y = B @ inverse_of_gram(B, inverse_of_gram(adjoint(C), C @ x))
    return x, y, b - A @ x


def solved(solver, B, C, b, damp, wrap):
    operator, vector, unwrap = wrap(B, C, b)
    solution = lf.lstsq(operator, vector, solver, damp=damp)
    flat = [
        jnp.concatenate([jnp.ravel(z) for z in jax.tree.leaves(v)])
        for v in (solution.dual, solution.residual)
    ]
    return unwrap(solution.value), *flat


def as_array(B, C, b):
    return B @ C, b, lambda x: x


def as_pytree(B, C, b):
    """Input and output in two leaves, through a function operator."""
    A, n = B @ C, C.shape[1] // 2

    def function(x):
        out = A @ jnp.concatenate([x["left"], x["right"]])
        return out[:2], out[2:]

    example = {"left": A[0, :n], "right": A[0, n:]}
    operator = lf.FunctionOperator(function, example)
    return operator, (b[:2], b[2:]), lambda x: jnp.concatenate([x["left"], x["right"]])


class Factored(lf.AbstractOperator):
    """A user's class with `mv` alone."""

    B: jax.Array
    C: jax.Array

    def mv(self, vector):
        return self.B @ (self.C @ vector)

    def in_structure(self):
        return jax.ShapeDtypeStruct(self.C.shape[1:], self.C.dtype)


def as_class(B, C, b):
    return Factored(B, C), b, lambda x: x


def as_jacobian(B, C, b):
    """The Jacobian of x ↦ A (x + x² / 2) at 0, whose derivative in A is A's."""
    at = jnp.zeros_like(C[0])
    operator = lf.JacobianOperator(lambda x, B, C: B @ (C @ (x + x * x / 2)), at, B, C)
    return operator, b, lambda x: x


def loss_of(weights, outputs):
    """Reads value, dual and residual, linearly and quadratically."""
    total = 0.0
    for share, w, z in zip((1.0, 0.3, 0.7), weights, outputs, strict=True):
        total += share * jnp.sum(jnp.real(jnp.conj(w) * z))
        total += 0.5 * share * jnp.sum(jnp.real(jnp.conj(z) * z))
    return total


def derivatives(solve, orders, weights, primals, tangents):
    """What is compared, of `solve(B, C, b, damp)`, as one dictionary."""
    primals, tangents = (
        tuple(z for z in p if z is not None) for p in (primals, tangents)
    )
    argnums = tuple(range(len(primals)))

    def loss(*args):
        B, C, b, *damp = args
        return loss_of(weights, solve(B, C, b, damp[0] if damp else None))

    gradient = jax.grad(loss, argnums)

    def directional(*args):
        return jax.jvp(loss, args, tangents)[1]

    def paired(*args):
        pairs = zip(gradient(*args), tangents, strict=True)
        return sum(jnp.sum(jnp.real(jnp.conj(t) * g)) for g, t in pairs)

    compute = {
        "value": lambda: solve(*primals[:3], *(primals[3:] or (None,))),
        "gradient": lambda: gradient(*primals),
        "jvp": lambda: directional(*primals),
        "hvp": lambda: jax.jvp(gradient, primals, tangents)[1],
        "reverse_over_reverse": lambda: jax.grad(paired, argnums)(*primals),
        "jvp_of_jvp": lambda: jax.jvp(directional, primals, tangents)[1],
    }
    return {order: compute[order]() for order in orders}


def problem(shape, rank, damped, kind):
    """Factors, vector and damping, directions for each, and weights of the loss."""
    generator = helpers.rng(7)
    dtype = helpers.dtype_of(kind)
    real = helpers.dtype_of("real")
    m, n = shape
    draw = ft.partial(helpers.normal, generator, dtype=dtype)
    B = helpers.matrix(generator, (m, rank), condition=2.0, dtype=dtype)
    C = helpers.matrix(generator, (rank, n), condition=2.0, dtype=dtype)
    damp = (np.asarray(DAMP, real), np.asarray(0.7, real)) if damped else (None, None)
    primals = (B, C, draw((m,)), damp[0])
    tangents = (draw((m, rank)) / 3, draw((rank, n)) / 3, draw((m,)), damp[1])
    weights = (draw((n,)), draw((m,)), draw((m,)))
    return jax.tree.map(jnp.asarray, (weights, primals, tangents))


def compare(wrap, shape, rank, damped, kind, solver_type=lf.LSMR, orders=ORDERS):
    data = problem(shape, rank, damped, kind)
    rtol, bound = (1e-12, 1e-8) if helpers.X64 else (3e-7, 2e-3)
    solve = ft.partial(solved, solver_type(rtol=rtol), wrap=wrap)
    got = eqx.filter_jit(ft.partial(derivatives, solve, orders))(*data)
    want = eqx.filter_jit(ft.partial(derivatives, closed_form, orders))(*data)
    errors = {
        order: helpers.relative_error(got[order], want[order]) for order in orders
    }
    assert max(errors.values()) < bound, errors


CASES = [
    pytest.param(
        shape, rank, damped, kind, id=f"{name}-{rank}-{damped and 'damped'}-{kind}"
    )
    for (name, shape), deficient, damped, kind in itertools.product(
        helpers.SHAPES.items(), (False, True), (False, True), ("real", "complex")
    )
    for rank in [4 if deficient else min(shape)]
    # Complex problems once for each rank and damping: compiling takes long.
    if kind == "real" or damped == (name == "square")
]


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "rank", "damped", "kind"), CASES)
def test_matrix(shape, rank, damped, kind):
    compare(as_array, shape, rank, damped, kind)


@pytest.mark.slow
@pytest.mark.parametrize("damped", [False, True])
def test_all_orders(damped):
    """Both orders of second derivatives that contain L's own tangent."""
    compare(as_array, helpers.SHAPES["square"], 5, damped, "complex", orders=ALL_ORDERS)


@pytest.mark.float32
@pytest.mark.parametrize(
    ("wrap", "name", "rank", "damped", "kind"),
    [
        (as_pytree, "tall", 4, False, "real"),
        (as_pytree, "wide", 7, True, "real"),
        (as_class, "wide", 7, False, "complex"),
        (as_class, "tall", 7, True, "real"),
        (as_jacobian, "square", 5, False, "real"),
        (as_jacobian, "wide", 4, True, "real"),
    ],
)
def test_operator_classes(wrap, name, rank, damped, kind):
    compare(wrap, helpers.SHAPES[name], rank, damped, kind)


@pytest.mark.slow
@pytest.mark.parametrize("damped", [False, True])
def test_lsqr(damped):
    compare(as_array, helpers.SHAPES["square"], 5, damped, "real", lf.LSQR)


@pytest.mark.parametrize("name", ["tall", "wide"])
def test_damping_at_zero(name):
    """A traced λ = 0 gives the undamped derivatives, and none with respect to λ."""
    weights, (B, C, b, _), _ = problem(helpers.SHAPES[name], 4, False, "real")

    def loss(solve, B, C, b, damp):
        return loss_of(weights, solve(B, C, b, damp))

    ours = ft.partial(solved, lf.LSMR(rtol=1e-12), wrap=as_array)
    got = jax.jit(jax.grad(ft.partial(loss, ours), (0, 1, 2, 3)))(
        B, C, b, jnp.zeros(())
    )
    want = jax.jit(jax.grad(ft.partial(loss, closed_form), (0, 1, 2)))(B, C, b, None)
    assert helpers.relative_error(got[:3], want) < 1e-8
    assert got[3] == 0
