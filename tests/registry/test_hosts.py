"""Operators under hosts, transformations, dtypes and our solvers: NumPy's answer.

Not the full product of the five, but every pair of levels: an operator meets each host,
each transformation, each dtype and each solver, and these meet each other.
"""

import dataclasses
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lsqflow as lf

from . import reference
from .compilations import compilations
from .entry import with_one_function
from .hosts import BY_IDENTITY, HOSTS
from .operators import OPERATORS
from .solvers import ITERATIVE

DTYPES = {"float64": np.float64, "float32": np.float32}


def _same_values(host, entry, dtype, solver):
    """Called a second time with new values, it compiles nothing."""
    for seed in (0, 1):
        problem = reference.problem(entry, seed, dtype)
        jax.block_until_ready((problem.operator, problem.vector))
        with compilations() as compiled:
            got = host(problem.operator, problem.vector, solver)
        assert problem.error(got) < problem.tolerance
        reference.assert_structure(got, reference.structures(problem.operator)[0])
    assert not compiled, f"new values compile {len(compiled)} programs"


def eager(host, entry, dtype, solver):
    _same_values(host, entry, dtype, solver)


def jit(host, entry, dtype, solver):
    _same_values(eqx.filter_jit(host), entry, dtype, solver)


def vmap_vectors(host, entry, dtype, solver):
    """One operator and three vectors."""
    problems = [reference.problem(entry, seed, dtype) for seed in range(3)]
    operator = problems[0].operator
    vectors = jax.tree.map(lambda *x: jnp.stack(x), *(p.vector for p in problems))
    solve = eqx.filter_jit(eqx.filter_vmap(host, in_axes=(None, 0, None)))
    got = solve(operator, vectors, solver)
    for i, problem in enumerate(problems):
        x = jax.tree.map(lambda leaf, i=i: leaf[i], got)
        assert problems[0].error(x, problem.vector) < problem.tolerance


def vmap_operators(host, entry, dtype, solver):
    """Three operators and one vector."""
    problems = [reference.problem(entry, seed, dtype) for seed in range(3)]
    parts = [eqx.partition(p.operator, eqx.is_array) for p in problems]
    vector, static = problems[0].vector, parts[0][1]
    leaves = [jax.tree.leaves(dynamic) for dynamic, _ in parts]
    stacked = [jnp.stack(x) for x in zip(*leaves, strict=True)]
    treedef = jax.tree.structure(parts[0][0])

    @eqx.filter_jit
    def solve(stacked, vector):
        one = lambda leaves: host(
            eqx.combine(jax.tree.unflatten(treedef, leaves), static), vector, solver
        )
        return jax.vmap(one, axis_size=3)(stacked)

    got = solve(stacked, vector)
    for i, problem in enumerate(problems):
        x = jax.tree.map(lambda leaf, i=i: leaf[i], got)
        assert problem.error(x, vector) < problem.tolerance


def grad(host, entry, dtype, solver):
    """Along one direction in vector and leaves, as NumPy's answer changes."""
    problem = reference.problem(entry, 0, dtype)
    weight = reference.vector_like(7, reference.structures(problem.operator)[0])
    moving, fixed = eqx.partition(problem.operator, eqx.is_inexact_array)

    @eqx.filter_jit
    def gradient(moving, vector):
        def loss(arguments):
            moving, vector = arguments
            x = host(eqx.combine(moving, fixed), vector, solver)
            products = jax.tree.map(lambda w, x: jnp.sum(jnp.real(w * x)), weight, x)
            return sum(jax.tree.leaves(products))

        return jax.grad(loss)((moving, vector))

    got = gradient(moving, problem.vector)
    exact = reference.exact_problem(entry, 0)
    want, direction = reference.slope(exact, weight, moves=not entry.moves_rank)
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(direction), strict=True)
    terms = [np.sum(np.real(reference.wide(g) * reference.wide(d))) for g, d in pairs]
    size = max(abs(want), max(map(abs, terms), default=0), 1e-3)
    # Derivatives are a solve of a solve.
    bound = 20 * problem.tolerance * max(problem.condition, 1) ** 2 + 1e-6
    error = abs(sum(terms) - want) / size
    assert error < min(bound, 0.2 if entry.half else 0.1)


TRANSFORMATIONS = {
    f.__name__: f for f in (eager, jit, vmap_vectors, vmap_operators, grad)
}


FIRST = [name for name, entry in OPERATORS.items() if not entry.slow]
SIBLINGS = [name for name, entry in OPERATORS.items() if entry.slow]


def _cell(i, name, j):
    """Of a Latin design: any two of the five vary independently over all cells."""
    return (
        name,
        list(TRANSFORMATIONS)[j],
        list(HOSTS)[(i + j) % len(HOSTS)],
        list(ITERATIVE)[(i + i // 3 + 2 * j) % len(ITERATIVE)],
        list(DTYPES)[(i // 4 + j) % len(DTYPES)],
    )


# Siblings meet two transformations each.
QUICK = [_cell(i, name, j) for i, name in enumerate(FIRST) for j in range(5)]
SLOW = [
    _cell(i, name, j % 5) for i, name in enumerate(SIBLINGS) for j in (2 * i, 2 * i + 1)
]


def test_every_pair_is_covered():
    levels = (FIRST, TRANSFORMATIONS, HOSTS, ITERATIVE, DTYPES)
    for a, b in itertools.combinations(range(5), 2):
        want = set(itertools.product(levels[a], levels[b]))
        assert {(cell[a], cell[b]) for cell in QUICK} == want


def check(name, transformation, host, solver, dtype):
    entry = OPERATORS[name]
    if entry.by_identity and (host in BY_IDENTITY or transformation == "jit"):
        entry = with_one_function(entry)
    if name.startswith("sparse of") and transformation != "eager":
        # Neither SciPy's matrices nor a stack of JAX's are arguments of these.
        make = entry.make
        entry = dataclasses.replace(entry, make=lambda *x: lf.as_operator(make(*x)))
    method = ITERATIVE[solver]
    dtype = DTYPES[dtype]
    run = TRANSFORMATIONS[transformation]
    run(HOSTS[host], entry, dtype, method.make(np.finfo(dtype).eps ** 0.75))


@pytest.mark.parametrize(
    ("operator", "transformation", "host", "solver", "dtype"),
    [*QUICK, *(pytest.param(*cell, marks=pytest.mark.slow) for cell in SLOW)],
)
def test_operator_under_host(operator, transformation, host, solver, dtype):
    check(operator, transformation, host, solver, dtype)
