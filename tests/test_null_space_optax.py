"""Null-space training as one Optax optimiser among others, and when it fails."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec as P

import lsqflow as lf

from .helpers import X64, count_traces, dtype_of, lenient, relative_error, rng

SUCCESS = lx.RESULTS.successful


def total(params):
    """x + y − 1 for all leaves together."""
    leaves = [jnp.sum(x) for x in jax.tree.leaves(params)]
    return sum(leaves[1:], leaves[0]) - 1


def parameters(dtype):
    return {"a": jnp.arange(3.0, dtype=dtype), "b": jnp.ones((2, 2), dtype)}


def gradients(dtype, seed=0):
    generator = rng(seed)
    return jax.tree.map(
        lambda x: jnp.asarray(generator.standard_normal(x.shape), dtype),
        parameters(dtype),
    )


def run(optimizer, params, grads, **extra):
    """A few compiled steps with one gradient."""
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for _ in range(4):
        updates, state = update(grads, state, params, **extra)
        params = optax.apply_updates(params, updates)
    return params, state


def exact(constraint=None, optimizer=None, **options):
    optimizer = optax.adam(0.1) if optimizer is None else optimizer
    constraint = lf.Equality(total) if constraint is None else constraint
    return lf.null_space(lenient(optimizer), constraint, solver=lf.LSMR(), **options)


@pytest.fixture(params=["chain", "apply_if_finite", "inject", "multi_steps_inside"])
def wrapped(request):
    return {
        "chain": lambda: lenient(
            optax.chain(optax.clip_by_global_norm(100.0), exact(), optax.identity())
        ),
        "apply_if_finite": lambda: lenient(optax.apply_if_finite(exact(), 5)),
        "inject": lambda: exact(
            optimizer=optax.inject_hyperparams(optax.adam)(learning_rate=0.1)
        ),
        "multi_steps_inside": lambda: exact(
            optimizer=optax.MultiSteps(optax.adam(0.1), 1)
        ),
    }[request.param]()


def test_wrappers_do_not_change_the_steps(wrapped):
    dtype = dtype_of("real")
    params, grads = parameters(dtype), gradients(dtype)
    want, _ = run(exact(), params, grads)
    got, _ = run(wrapped, params, grads)
    assert relative_error(got, want) < (1e-8 if X64 else 1e-4)
    assert abs(total(got)) < (1e-10 if X64 else 1e-4)


def test_multi_steps_accumulates_gradients():
    """Two half batches are one batch."""
    dtype = dtype_of("real")
    params = parameters(dtype)
    first, second = gradients(dtype, 1), gradients(dtype, 2)
    mean = jax.tree.map(lambda a, b: (a + b) / 2, first, second)
    plain = exact()
    want, _ = jax.jit(plain.update)(mean, plain.init(params), params)
    steps = lenient(optax.MultiSteps(exact(), 2))
    state, update = steps.init(params), jax.jit(steps.update)
    idle, state = update(first, state, params)
    got, state = update(second, state, params)
    assert all(not np.any(x) for x in jax.tree.leaves(idle))
    # MultiSteps keeps a running mean, whose rounding Adam's first step amplifies.
    assert relative_error(got, want) < (1e-6 if X64 else 1e-4)


def test_partitions():
    """A constraint on one group; and two optimisers under one constraint."""
    dtype = dtype_of("real")
    params, grads = parameters(dtype), gradients(dtype)
    labels = {"a": "free", "b": "held"}
    outside = lenient(
        optax.partition({"free": optax.sgd(0.1), "held": exact()}, labels)
    )
    got, _ = run(outside, params, grads)
    alone, _ = run(exact(), {"b": params["b"]}, {"b": grads["b"]})
    assert relative_error(got["b"], alone["b"]) < (1e-9 if X64 else 1e-5)
    assert np.allclose(got["a"], params["a"] - 0.4 * grads["a"], atol=1e-6)

    inside = exact(
        optimizer=optax.partition(
            {"free": optax.sgd(0.1), "held": optax.adam(0.1)}, labels
        )
    )
    got, _ = run(inside, params, grads)
    assert abs(total(got)) < (1e-10 if X64 else 1e-4)


def test_frozen_leaves_stay():
    """What the optimiser does not move, the constraint does not move either."""
    dtype = dtype_of("real")
    params, grads = parameters(dtype), gradients(dtype)
    frozen = optax.chain(
        optax.sgd(0.1), optax.masked(optax.set_to_zero(), {"a": False, "b": True})
    )
    optimizer = exact(
        optimizer=frozen,
        metric=lambda p, s: {
            "a": jnp.ones_like(p["a"]),
            "b": jnp.full_like(p["b"], jnp.inf),
        },
    )
    got, _ = run(optimizer, params, grads)
    assert np.array_equal(got["b"], params["b"])
    assert abs(total(got)) < (1e-10 if X64 else 1e-4)


@pytest.mark.float32
def test_models_with_holes_and_narrow_parameters():
    """Equinox models with None leaves; bfloat16 parameters, projected in float32."""
    model = eqx.nn.MLP(2, 1, 4, 1, key=jax.random.key(0), dtype=jnp.bfloat16)
    params, static = eqx.partition(model, eqx.is_inexact_array)
    constraint = lf.Equality(
        lambda p: jax.vmap(eqx.combine(p, static))(jnp.eye(2, dtype=jnp.float32))
    )
    optimizer = exact(constraint, optax.sgd(0.0))
    updates, state = jax.jit(optimizer.update)(
        jax.tree.map(jnp.ones_like, params), optimizer.init(params), params
    )
    assert jax.tree.structure(updates) == jax.tree.structure(params)
    assert all(x.dtype == jnp.bfloat16 for x in jax.tree.leaves(updates))
    assert state.violation.dtype == jnp.float32
    before = float(state.violation)
    after = constraint.violation(
        jax.tree.map(
            lambda x: x.astype(jnp.float32), optax.apply_updates(params, updates)
        )
    )
    assert after < 0.3 * before


def test_arguments_of_each_step():
    dtype = dtype_of("real")
    constraint = lf.Equality(lambda p, target: total(p) + 1 - target)
    example = jax.ShapeDtypeStruct((), dtype)
    optimizer = exact(constraint, constraint_args=(example,))
    params, grads = parameters(dtype), gradients(dtype)
    for target in (2.0, -3.0):
        given = (jnp.asarray(target, dtype),)
        got, _ = run(optimizer, params, grads, constraint_args=given)
        assert np.isclose(total(got) + 1, target, atol=1e-4)


def test_sampled_constraints_draw_anew():
    """Each step removes the residual at its own points."""
    dtype = dtype_of("real")
    key = jax.random.key(3)
    sampler = lambda key: (jax.random.normal(key, (2, 3), dtype),)
    constraint = lf.Sampled(lf.Equality(lambda p, x: x @ p - 1), sampler, key)
    optimizer = exact(constraint, optax.sgd(0.1))
    params = jnp.zeros(3, dtype)
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for step in range(3):
        updates, state = update(jnp.ones_like(params), state, params)
        params = params + updates
        (points,) = sampler(jax.random.fold_in(key, step))
        assert np.allclose(points @ params, 1, atol=1e-4)


def test_many_runs_at_once_and_no_retracing():
    """An ensemble under vmap; new values compile nothing."""
    dtype = dtype_of("real")
    optimizer = exact(lf.Inequality(lambda p: p[:2] ** 2 - 1) & lf.Equality(total))
    params = jnp.asarray(rng(5).standard_normal((4, 5)), dtype)
    grads = jnp.asarray(rng(6).standard_normal((4, 5)), dtype)
    step, traces = count_traces(
        lambda g, p: optimizer.update(g, optimizer.init(p), p)[0]
    )
    one = jax.jit(step)
    want = jnp.stack([one(g, p) for g, p in zip(grads, params, strict=True)])
    assert len(traces) == 1
    got = jax.jit(jax.vmap(step))(grads, params)
    assert relative_error(got, want) < (1e-6 if X64 else 1e-3)


def test_sharded_parameters():
    dtype = dtype_of("real")
    mesh = jax.make_mesh((8,), ("shards",), axis_types=(jax.sharding.AxisType.Auto,))
    params = jnp.asarray(rng(7).standard_normal((16, 3)), dtype)
    grads = jnp.asarray(rng(8).standard_normal((16, 3)), dtype)
    constraint = lf.Equality(lambda p: jnp.sum(p**2, axis=0) - 1)
    optimizer = exact(constraint)
    want, _ = run(optimizer, params, grads)
    sharding = NamedSharding(mesh, P("shards"))
    got, state = run(optimizer, *jax.device_put((params, grads), sharding))
    assert got.sharding.is_equivalent_to(sharding, 2)
    assert relative_error(got, want) < (1e-8 if X64 else 1e-4)
    assert bool(state.result == SUCCESS)


@pytest.mark.skipif(not X64, reason="finite differences")
@pytest.mark.parametrize("name", ["adam", "rmsprop"])
def test_updates_are_differentiable(name):
    """With respect to parameters and gradients, forward and reverse."""
    optimizer = exact(
        lf.Equality(lambda p: jnp.stack([p @ p - 1, p[0] * p[1]])),
        {"adam": optax.adam(0.1, eps=0.1), "rmsprop": optax.rmsprop(0.1, eps=0.1)}[
            name
        ],
    )
    generator = rng(9)
    params, grads, *dots = jnp.asarray(generator.standard_normal((4, 4)))

    @jax.jit
    def step(params, grads):
        return optimizer.update(grads, optimizer.init(params), params)[0]

    @jax.jit
    def derivatives(params, grads, cotangent):
        _, tangent = jax.jvp(step, (params, grads), tuple(dots))
        return tangent, jax.vjp(step, params, grads)[1](cotangent)

    cotangent = jnp.asarray(generator.standard_normal(4))
    tangent, back = derivatives(params, grads, cotangent)
    h = 1e-5
    plus, minus = (step(params + s * dots[0], grads + s * dots[1]) for s in (h, -h))
    assert relative_error(tangent, (plus - minus) / (2 * h)) < 1e-6
    pairing = sum(b @ d for b, d in zip(back, dots, strict=True))
    assert np.isclose(pairing, cotangent @ tangent, rtol=1e-8)


# ---------------------------------------------------------------------------------
# Failure


FAILURES = {
    "contradictory": (lambda p: jnp.stack([p[0], p[0] - 1]), lf.StopReason.infeasible),
    "singular": (lambda p: 0 * p[:1] + 1, lf.StopReason.infeasible),
    "nonfinite": (lambda p: jnp.log(p[:1] - 9), lf.StopReason.nonfinite_input),
    "unordered": (lambda p: jnp.log(p[:1] - 9), lf.StopReason.nonfinite_input),
}


@pytest.mark.float32
@pytest.mark.parametrize("name", FAILURES)
@pytest.mark.parametrize("metric", ["optimizer", None])
def test_failures_are_reported_and_leave_no_nan(name, metric):
    dtype = dtype_of("real")
    fn, reason = FAILURES[name]
    constraint = (lf.Inequality if name == "unordered" else lf.Equality)(fn)
    optimizer = exact(constraint, metric=metric)
    params = jnp.full(3, 0.3, dtype)
    got, state = run(optimizer, params, jnp.ones_like(params))
    assert np.all(np.isfinite(got))
    assert bool(state.stop_reason == reason)
    assert bool(state.result != SUCCESS)
    assert np.all(np.isfinite(state.multipliers))
    if name == "contradictory":
        assert np.isclose(got[0], 0.5, atol=1e-3)  # the least-squares compromise


@pytest.mark.float32
def test_redundant_constraints_are_no_failure():
    dtype = dtype_of("real")
    constraint = lf.Equality(lambda p: jnp.stack([total(p), 2 * total(p), 0 * p[0]]))
    got, state = run(exact(constraint), jnp.ones(3, dtype), jnp.ones(3, dtype))
    assert abs(total(got)) < (1e-9 if X64 else 1e-4)
    assert bool(state.result == SUCCESS)


def test_bad_arguments():
    adam, equality = optax.adam(0.1), lf.Equality(total)
    with pytest.raises(TypeError, match="optimizer"):
        lf.null_space("adam", equality)
    with pytest.raises(TypeError, match="constraint"):
        lf.null_space(adam, total)
    with pytest.raises(TypeError, match="solver"):
        lf.null_space(adam, equality, solver="lsmr")
    with pytest.raises((TypeError, ValueError), match="metric"):
        lf.null_space(adam, equality, metric="euclidean")
    with pytest.raises(ValueError, match="rate"):
        lf.null_space(adam, equality, rate=0)
    with pytest.raises(ValueError, match="warmup"):
        lf.null_space(adam, equality, warmup=-1)
    params = jnp.ones(3)
    optimizer = lf.null_space(optax.sgd(0.1), equality)
    with pytest.raises(ValueError, match="needs the parameters"):
        optimizer.update(params, optimizer.init(params))
    with pytest.raises(TypeError, match="constraint_args"):
        lf.null_space(optax.sgd(0.1), lf.Equality(lambda p, x: p)).init(params)
    growing = lf.null_space(
        optax.sgd(0.1),
        lf.Equality(lambda p, x: p[0] * x),
        constraint_args=(jnp.ones(2),),
    )
    with pytest.raises(ValueError, match="changed its shape"):
        growing.update(
            params, growing.init(params), params, constraint_args=(jnp.ones(3),)
        )


def test_a_solver_that_was_asked_for_little_calls_nothing_contradictory():
    """It stops before it knows; tight solves of the same equations meet them."""
    dtype = dtype_of("real")
    C, d = np.diag([1.0, 0.05]).astype(dtype), np.array([0.01, 1.0], dtype)
    params = jnp.zeros(2, dtype)
    for rtol, met in ((0.3, False), (None, True)):
        optimizer = lf.null_space(
            optax.sgd(0.1), lf.Affine(C, jnp.asarray(d)), solver=lf.LSMR(rtol=rtol)
        )
        updates, state = optimizer.update(params, optimizer.init(params), params)
        assert np.allclose(C @ np.asarray(updates), d, rtol=1e-3) == met
        assert bool(state.stop_reason != lf.StopReason.infeasible)


def test_inequalities_at_new_points_are_not_held():
    """Rows that were active said something else: now, −3 + p ≤ 0 has room to spare."""
    dtype = dtype_of("real")
    levels = jnp.asarray([0.0, 3.0], dtype)
    index = lambda key: jax.random.randint(key, (), 0, 2)
    first = next(
        k
        for k in map(jax.random.key, range(100))
        if [int(index(jax.random.fold_in(k, i))) for i in (0, 1)] == [0, 1]
    )
    constraint = lf.Sampled(
        lf.Inequality(lambda p, level: p - level),
        lambda key: (levels[index(key)],),
        first,
    )
    optimizer = exact(constraint, optax.sgd(0.1), metric=None)
    params = jnp.zeros(1, dtype)
    state = optimizer.init(params)
    for want in (0.0, 0.1):
        updates, state = optimizer.update(-jnp.ones_like(params), state, params)
        params = params + updates
        assert np.allclose(params, want)
