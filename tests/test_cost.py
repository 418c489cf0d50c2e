"""What a gradient costs: operator applications and memory, counted, not timed."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import lsqflow as lf

from . import helpers


class Counter:
    """Counts what runs on the device, also inside loops."""

    def __init__(self):
        self.count = 0

    def up(self):
        self.count += 1


class Counted(lf.AbstractOperator):
    """A matrix whose products are side effects, so that XLA removes none of them."""

    matrix: jax.Array
    counter: Counter = eqx.field(static=True)

    def mv(self, vector):
        jax.debug.callback(self.counter.up)
        return self.matrix @ vector

    def rmv(self, vector):
        jax.debug.callback(self.counter.up)
        return vector @ self.matrix

    def in_structure(self):
        return jax.ShapeDtypeStruct(self.matrix.shape[1:], self.matrix.dtype)

    def out_structure(self):
        return jax.ShapeDtypeStruct(self.matrix.shape[:1], self.matrix.dtype)

    def linearise(self):
        return self


def applications(function, *args):
    counter = Counter()
    jax.block_until_ready(jax.jit(lambda *a: function(*a, counter))(*args))
    jax.effects_barrier()
    return counter.count


def solve(A, b, damp, counter):
    operator = Counted(A, counter)
    return lf.lstsq(operator, b, lf.LSMR(rtol=1e-10), damp=damp).value


def solve_transposed(A, b, damp, counter):
    """The same products in the other order, so that even their rounding is the same."""
    operator = Counted(A, counter).transpose()
    return lf.lstsq(operator, b, lf.LSMR(rtol=1e-10), damp=damp).value


@pytest.mark.parametrize("damp", [None, 0.02])
@pytest.mark.parametrize("rank", ["full", "deficient"])
@pytest.mark.parametrize("name", helpers.SHAPES)
def test_one_solve_backward(name, rank, damp):
    """Value and gradient: two solves and at most six products, in every case.

    Two of them are counted twice: the side effect keeps values alive that the rule of a
    product and its derivative both compute, and that XLA would find equal.
    """
    shape = tuple(5 * k for k in helpers.SHAPES[name])
    generator = helpers.rng(0)
    A = helpers.matrix(
        generator, shape, rank=20 if rank == "deficient" else None, condition=30.0
    )
    b, weights = (generator.standard_normal(k) for k in shape)

    def loss(A, b, damp, counter):
        return jnp.vdot(weights, solve(A, b, damp, counter))

    argnums = (0, 1) if damp is None else (0, 1, 2)
    forward = applications(solve, A, b, damp)
    transposed = applications(solve_transposed, A, weights, damp)
    both = applications(jax.value_and_grad(loss, argnums), A, b, damp)
    assert both - forward <= transposed + 8
    assert both <= 2.15 * max(forward, transposed)
    only_vector = applications(jax.value_and_grad(loss, 1), A, b, damp)
    assert only_vector - forward <= transposed + 8


def test_nothing_backward_without_a_derivative():
    """The dual's tangent, which would cost two more solves, is left alone."""
    generator = helpers.rng(1)
    A, b = helpers.matrix(generator, (30, 20)), generator.standard_normal(30)

    def tangent(A, b, counter):
        return jax.jvp(lambda A: solve(A, b, None, counter), (A,), (A,))[1]

    def second(A, b, counter):
        return jax.jvp(
            lambda A: lf.lstsq(Counted(A, counter), b, lf.LSMR(rtol=1e-10)).dual,
            (A,),
            (A,),
        )[1]

    forward = applications(lambda A, b, c: solve(A, b, None, c), A, b)
    assert applications(tangent, A, b) <= 6 * forward  # with effects, all of it runs
    without_effects = jax.jit(
        lambda A: jax.jvp(lambda A: lf.lstsq(A, b, lf.LSMR()).value, (A,), (A,))[1]
    )
    loops = without_effects.lower(A).compile().as_text().count(" while(")
    assert loops == 3  # the solve; (c, d); s


def test_memory_does_not_grow_with_steps():
    generator = helpers.rng(2)
    A, b = helpers.matrix(generator, (60, 40)), generator.standard_normal(60)

    def memory(steps, adjoint):
        def loss(A):
            solver = lf.LSMR(rtol=0.0, max_steps=steps)
            return jnp.sum(lf.lstsq(A, b, solver, adjoint=adjoint, throw=False).value)

        compiled = jax.jit(jax.value_and_grad(loss)).lower(A).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    implicit = lf.ImplicitAdjoint()
    assert memory(10, implicit) == memory(1000, implicit)
    assert memory(400, lf.UnrolledAdjoint()) > 2 * memory(400, implicit)


@pytest.mark.slow
@pytest.mark.parametrize("damp", [None, 0.3])
def test_unrolled_derivatives(damp):
    """After convergence they are the implicit ones; truncated, the iterate's own."""
    generator = helpers.rng(3)
    A, b = helpers.matrix(generator, (12, 7)), generator.standard_normal(12)

    def loss(A, b, steps, adjoint):
        solver = lf.LSMR(rtol=1e-14, max_steps=steps)
        solution = lf.lstsq(A, b, solver, damp=damp, adjoint=adjoint, throw=False)
        return jnp.sum(solution.value**2)

    unrolled = lf.UnrolledAdjoint()
    got = jax.grad(loss, (0, 1))(A, b, 30, unrolled)
    want = jax.grad(loss, (0, 1))(A, b, None, lf.ImplicitAdjoint())
    assert helpers.relative_error(got, want) < 1e-8

    direction = generator.standard_normal(A.shape)
    tangent = jax.jvp(lambda A: loss(A, b, 3, unrolled), (A,), (direction,))[1]
    h = 1e-6
    up, down = (loss(A + s * h * direction, b, 3, unrolled) for s in (1, -1))
    assert abs(tangent - (up - down) / (2 * h)) < 1e-6 * abs(tangent)
