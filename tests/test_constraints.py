"""What all constraints share: `&`, `on`, draws, pins, and how they behave in JAX."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lsqflow as lf

from .helpers import X64, count_traces, dtype_of, normal, relative_error, rng

TOLERANCE = 1e-13 if X64 else 1e-5


class UnitNorm(lf.AbstractConstraint):
    """The example of the base class."""

    def residual(self, params, *args):
        return jnp.sum(params**2) - 1


class Ball(lf.AbstractConstraint):
    """One with an array of its own, and an equation beside an inequality."""

    radius: jax.Array

    def residual(self, params, *args):
        return {"sum": jnp.sum(params), "norm": jnp.sum(params**2) - self.radius**2}

    def inequality(self):
        return {"sum": False, "norm": True}


def draw(shape, seed=0, dtype=None):
    return jnp.asarray(normal(rng(seed), shape, dtype or dtype_of("real")))


def tree_of_parameters():
    return {"a": draw((2, 3)), "b": [draw(4, 1), draw((), 2)]}


def flat(tree):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def check_jacobian(constraint, params, *args):
    """Against `jax.jacobian` of the residual, entry by entry."""
    operator = constraint.jacobian(params, *args)
    residual = lambda p: constraint.residual(p, *args)
    assert jax.eval_shape(residual, params) == operator.out_structure()
    assert lf.check_adjoint(operator, jax.random.key(0))
    leaves, treedef = jax.tree.flatten(params)
    rows = lambda *leaves: jnp.concatenate(
        [jnp.ravel(x) for x in jax.tree.leaves(residual(treedef.unflatten(leaves)))]
    )
    blocks = jax.jit(jax.jacobian(rows, tuple(range(len(leaves)))))(*leaves)
    dense = np.concatenate([np.reshape(x, (len(x), -1)) for x in blocks], axis=1)
    got = eqx.filter_jit(lambda op: op.as_matrix())(operator)
    np.testing.assert_allclose(got, dense, rtol=0, atol=10 * TOLERANCE)


@pytest.mark.float32
def test_the_smallest_subclass():
    x = draw(4)
    constraint = UnitNorm()
    assert constraint.parts() == (constraint,)
    assert constraint.at(3) is constraint
    assert constraint.inequality() is False
    want = abs(np.sum(np.asarray(x) ** 2) - 1)
    violation = constraint.violation(x)
    assert abs(violation / want - 1) < TOLERANCE
    assert violation.dtype == x.dtype
    got = constraint.jacobian(x).as_matrix()
    assert relative_error(got, 2 * np.asarray(x)[None]) < TOLERANCE
    check_jacobian(constraint, x)


@pytest.mark.float32
def test_conjunctions():
    x = draw(4)
    ball, norm = Ball(jnp.ones((), x.dtype)), UnitNorm()
    fixed = lf.Fixed(lambda p: p[:1], np.zeros(1, x.dtype))
    every = (ball & norm) & (fixed & lf.Affine(jnp.ones((2, 4), x.dtype)))
    assert [type(c) for c in every.parts()] == [Ball, UnitNorm, lf.Fixed, lf.Affine]
    got = every.residual(x)
    assert isinstance(got, tuple)
    want = [
        np.sum(x**2) - 1,
        np.sum(x),
        np.sum(x**2) - 1,
        x[0],
        0,
        0,
        0,
        *[np.sum(x)] * 2,
    ]
    np.testing.assert_allclose(flat(got), want, atol=TOLERANCE)
    flags = ({"sum": False, "norm": True}, False, False, False)
    assert every.inequality() == flags
    each = [c.violation(x) for c in every.parts()]
    assert every.violation(x) == max(each)
    check_jacobian(every, x)
    with pytest.raises(
        TypeError, match="joins a constraint to another one; got the function"
    ):
        ball & (lambda p: p)


@pytest.mark.float32
def test_conjunctions_share_their_arguments_and_pass_on_the_step():
    key = jax.random.key(0)
    shift = lf.Equality(lambda p, by: p - by)
    drawn = lf.Sampled(
        lf.Equality(lambda p, noise, by: p - by - noise),
        lambda key: (jax.random.normal(key, (3,), dtype_of("real")),),
        key,
    )
    x, by = draw(3), draw(3, 1)
    both = (shift & drawn).at(5)
    noise = jax.random.normal(jax.random.fold_in(key, 5), (3,), x.dtype)
    got = both.residual(x, by)
    assert relative_error(got, (x - by, x - by - noise)) < TOLERANCE
    check_jacobian(both, x, by)


@pytest.mark.float32
def test_inequalities():
    constraint = lf.Inequality(lambda p: {"u": p[:2], "v": p[2:]})
    dtype = dtype_of("real")
    at = lambda *entries: constraint.violation(jnp.asarray(entries, dtype))
    assert constraint.inequality() is True
    assert at(-1, -2, -3) == 0
    assert at(-1, 2, -3) == 2
    assert at(0, 0, 0.5) == 0.5
    ball = Ball(jnp.ones((), dtype))
    # The sum is an equation: it counts where it is negative; the norm does not.
    assert ball.violation(jnp.asarray([-0.25, 0], dtype)) == 0.25
    assert lf.Equality(lambda p: ()).violation(jnp.ones(2, dtype)) == 0


def module():
    """A network whose parameters have None in place of what is not an array."""
    network = eqx.nn.MLP(2, 1, 3, 1, jax.nn.tanh, key=jax.random.key(0))
    return eqx.filter(network, eqx.is_inexact_array)


WHERE = {
    "dictionary": (tree_of_parameters, lambda p: p["b"][0]),
    "slice": (tree_of_parameters, lambda p: p["a"][1:, :2].reshape(-1)),
    "module": (module, lambda p: p.layers[0].weight[:, 1]),
    "several": (
        tree_of_parameters,
        lambda p: jnp.concatenate([p["a"].reshape(-1), p["b"][1][None]]),
    ),
}


@pytest.mark.float32
@pytest.mark.parametrize("name", WHERE)
def test_on_a_part(name):
    make, where = WHERE[name]
    params = make()
    part = where(params)
    constraint = Ball(jnp.ones((), part.dtype))
    restricted = constraint.on(where)
    assert relative_error(restricted.residual(params), constraint.residual(part)) == 0
    assert restricted.inequality() == constraint.inequality()
    assert restricted.violation(params) == constraint.violation(part)
    check_jacobian(restricted, params)
    matrix = lf.Affine(jnp.ones((2, part.size), part.dtype))
    check_jacobian((matrix & UnitNorm()).on(where), params)


@pytest.mark.float32
def test_on_a_part_keeps_draws_and_conjunctions():
    params = tree_of_parameters()
    dtype = params["a"].dtype
    sampler = lambda key: (jax.random.normal(key, (4,), dtype),)
    drawn = lf.Sampled(lf.Equality(jnp.subtract), sampler, jax.random.key(1))
    pair = (drawn & UnitNorm()).on(lambda p: p["b"][0])
    assert len(pair.parts()) == 2
    got = pair.at(2).residual(params)
    assert relative_error(got, (drawn & UnitNorm()).at(2).residual(params["b"][0])) == 0
    assert not np.array_equal(got[0], pair.at(3).residual(params)[0])


@pytest.mark.float32
@pytest.mark.parametrize("name", WHERE)
@pytest.mark.parametrize("given", [False, True])
def test_fixed(name, given):
    make, where = WHERE[name]
    params = make()
    target = draw(where(params).shape, 7, where(params).dtype) if given else None
    constraint = lf.Fixed(where, None if target is None else np.asarray(target))
    assert isinstance(constraint, lf.AbstractPin)
    # NumPy: number the entries, and see which ones the function picks.
    numbers = np.arange(flat(params).size)
    sizes = np.cumsum([x.size for x in jax.tree.leaves(params)])[:-1]
    leaves = [
        part.reshape(x.shape).astype(x.dtype)
        for part, x in zip(
            np.split(numbers, sizes), jax.tree.leaves(params), strict=True
        )
    ]
    numbered = jax.tree.unflatten(jax.tree.structure(params), map(jnp.asarray, leaves))
    chosen = np.asarray(where(numbered)).astype(int).ravel()
    mask = np.isin(numbers, chosen)
    np.testing.assert_array_equal(flat(constraint.mask(params)), mask)
    want = np.zeros(mask.size)
    if given:
        want[chosen] = np.ravel(where(params)) - np.ravel(target)
    residual = constraint.residual(params)
    assert jax.eval_shape(lambda: residual) == jax.eval_shape(lambda: params)
    np.testing.assert_allclose(flat(residual), want, atol=TOLERANCE)
    assert abs(constraint.violation(params) - np.max(np.abs(want))) < TOLERANCE
    operator = constraint.jacobian(params)
    assert isinstance(operator, lf.Mask)
    np.testing.assert_array_equal(operator.as_matrix(), np.diag(mask))


@pytest.mark.float32
def test_fixed_on_a_part_stays_a_pin():
    params = tree_of_parameters()
    inner = lf.Fixed(lambda b: b[0][1:3], np.arange(2.0, dtype=params["a"].dtype))
    constraint = inner.on(lambda p: p["b"])
    assert isinstance(constraint, lf.AbstractPin)
    assert isinstance(constraint.jacobian(params), lf.Mask)
    b = np.asarray(params["b"][0])
    want = np.concatenate([np.zeros(6), [0, b[1], b[2] - 1, 0, 0]])
    np.testing.assert_allclose(flat(constraint.residual(params)), want, atol=TOLERANCE)
    assert constraint.violation(params) == max(abs(b[1]), abs(b[2] - 1))
    check_jacobian(constraint & inner.on(lambda p: p["b"]), params)


BAD = {
    "shape": (
        lf.Fixed(lambda p: p["a"], np.zeros(3)),
        ValueError,
        r"`values` must have the shape of the .*part, \(2, 3\); got \(3,\)",
    ),
    "structure": (
        lf.Fixed(lambda p: p["b"], np.zeros(4)),
        ValueError,
        "`values` must have the pytree structure",
    ),
    "dtype": (
        lf.Fixed(lambda p: p["a"], np.zeros((2, 3), np.float32)),
        TypeError,
        "float64; got float32",
    ),
    "sampler": (
        lf.Sampled(
            lf.Equality(lambda p, x: x), lambda _: np.ones(2), jax.random.key(0)
        ),
        TypeError,
        r"must return a tuple.*Return `\(points,\)`",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    constraint, error, message = BAD[name]
    with pytest.raises(error, match=message):
        constraint.residual(tree_of_parameters())


@pytest.mark.float32
def test_draws_follow_the_step():
    dtype = dtype_of("real")
    sampler = lambda key: (jax.random.normal(key, (2,), dtype),)
    constraint = lf.Sampled(lf.Equality(lambda p, x: p * x), sampler, jax.random.key(3))
    params = jnp.ones((), dtype)
    counted, traces = count_traces(lambda step, c: c.at(step).residual(params))
    residual = eqx.filter_jit(counted)
    steps = [residual(jnp.asarray(i), constraint) for i in (0, 1, 0)]
    np.testing.assert_array_equal(steps[0], steps[2])
    assert not np.array_equal(steps[0], steps[1])
    np.testing.assert_array_equal(steps[1], constraint.at(1).residual(params))
    assert constraint.at(1).violation(params) == np.max(np.abs(steps[1]))
    other = lf.Sampled(constraint.constraint, sampler, jax.random.key(4))
    assert not np.array_equal(steps[0], residual(jnp.asarray(0), other))
    assert len(traces) == 1


CONSTRAINTS = {
    "own": Ball,
    "all": lambda r: Ball(r) & lf.Affine(r * jnp.ones((2, 4), r.dtype)),
    "on": lambda r: Ball(r).on(first_two),
    "fixed": lambda r: lf.Fixed(first_two, r * jnp.ones(2, r.dtype)),
    "fixed on": lambda r: lf.Fixed(first_two, r * jnp.ones(2, r.dtype)).on(reverse),
    "sampled": lambda r: lf.Sampled(Ball(r), lambda_free_sampler, jax.random.key(0)),
}


def first_two(params):
    return params[:2]


def reverse(params):
    return params[::-1]


def lambda_free_sampler(key):
    return (jax.random.normal(key),)


@pytest.mark.float32
@pytest.mark.parametrize("name", CONSTRAINTS)
def test_constraints_are_pytrees(name):
    """Passed to jit, mapped over and differentiated, with one compilation."""
    make, x = CONSTRAINTS[name], draw(4)
    one = lambda r: make(jnp.asarray(r, x.dtype))

    def energy(constraint, x):
        residual = jax.tree.leaves(constraint.residual(x))
        along = jax.tree.leaves(constraint.jacobian(x).mv(x))
        terms = zip(residual, along, strict=True)
        return sum(jnp.sum(c**2) + jnp.sum(jnp.sin(a)) for c, a in terms)

    counted, traces = count_traces(lambda x, c: energy(c, x))
    compiled = eqx.filter_jit(eqx.filter_value_and_grad(counted))
    results = [compiled(x, one(r)) for r in (0.5, 2)]
    assert len(traces) == 1
    many = eqx.filter_vmap(one)(jnp.asarray([0.5, 2], x.dtype))
    mapped = eqx.filter_jit(eqx.filter_vmap(energy, in_axes=(eqx.if_array(0), None)))
    assert relative_error(mapped(many, x), [r[0] for r in results]) < TOLERANCE
    # In the constraint's own array, both modes, against finite differences.
    value = jax.jit(lambda r: energy(make(r), x))
    r = jnp.asarray(0.5, x.dtype)
    slope = jax.jit(jax.grad(lambda r: energy(make(r), x)))(r)
    assert abs(jax.jit(jax.jacfwd(lambda r: energy(make(r), x)))(r) - slope) < 1e-5
    if X64:
        h = 1e-5
        want = (value(r + h) - value(r - h)) / (2 * h)
        assert abs(slope - want) < 1e-8
        direction = draw(4, 1)
        moved = [energy(make(r), x + s * h * direction) for s in (1, -1)]
        want = (moved[0] - moved[1]) / (2 * h)
        assert abs(results[0][1] @ direction - want) < 1e-7


def test_parameters_of_several_precisions():
    """Single and double beside each other, each kept as it is."""
    params = {"half": draw(3, 0, np.float32), "whole": draw((2, 2), 1, np.float64)}
    fixed = lf.Fixed(lambda p: {"half": p["half"][:1], "whole": p["whole"][0]})
    operator = fixed.jacobian(params)
    assert operator.in_structure() == jax.eval_shape(lambda: params)
    out = operator.mv(params)
    np.testing.assert_array_equal(flat(out) != 0, [1, 0, 0, 1, 1, 0, 0])
    assert out["half"].dtype == np.float32
    assert out["whole"].dtype == np.float64
    equality = lf.Equality(lambda p: (jnp.sum(p["half"] ** 2), jnp.sum(p["whole"])))
    both = equality & lf.Fixed(lambda p: p["half"], np.ones(3, np.float32))
    residual = both.residual(params)
    dtypes = [x.dtype.name for x in jax.tree.leaves(residual)]
    assert dtypes == ["float32", "float64", "float32", "float64"]
    assert lf.check_adjoint(both.jacobian(params), jax.random.key(0))
    largest = np.max(np.abs(flat(residual)))
    assert abs(both.violation(params) / largest - 1) < 1e-6
    for pair in (both, both.parts()[1] & equality):
        assert pair.violation(params).dtype == np.float64


@pytest.mark.float32
def test_mask_takes_a_pytree_of_dtypes():
    mask = {"a": np.array([True, False]), "b": np.array([[True], [False]])}
    dtypes = {"a": np.dtype(np.float16), "b": np.dtype(np.float32)}
    got = lf.Mask(mask, dtypes)
    assert [x.dtype for x in jax.tree.leaves(got.in_structure())] == [*dtypes.values()]
    np.testing.assert_array_equal(
        got.mv(
            lf.Mask(mask, dtypes).mv(
                {"a": jnp.ones(2, np.float16), "b": jnp.ones((2, 1), np.float32)}
            )
        )["b"],
        mask["b"],
    )
    same = lf.Mask(mask, np.float32).in_structure()
    assert {x.dtype.name for x in jax.tree.leaves(same)} == {"float32"}
    with pytest.raises(TypeError, match="floating-point"):
        lf.Mask(mask, {"a": np.dtype(np.int32), "b": np.dtype(np.float32)})


@pytest.mark.float32
def test_affine_says_what_it_is():
    C, d = draw((2, 4)), draw(2, 1)
    x = draw(4, 2)
    constraint = lf.Affine(C, d)
    want = np.asarray(C) @ np.asarray(x) - np.asarray(d)
    assert relative_error(constraint.residual(x), want) < TOLERANCE
    assert constraint.jacobian(x) is constraint.operator
    assert relative_error(lf.Affine(C).residual(x), want + np.asarray(d)) < TOLERANCE
