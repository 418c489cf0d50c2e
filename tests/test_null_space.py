"""Null-space training: steps against dense quadratic programs, and KKT points."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optax
import pytest
from scipy.optimize import minimize

import lsqflow as lf
from lsqflow.train.probe import probe

from .helpers import X64, dtype_of, lenient, relative_error, rng

needs_x64 = pytest.mark.skipif(not X64, reason="tolerances of double precision")


def train(optimizer, loss, params, steps):
    """The last parameters and state of a training loop, in one compiled scan."""

    @jax.jit
    def run(params):
        def body(carry, _):
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        carry = (params, optimizer.init(params))
        return jax.lax.scan(body, carry, length=steps)[0]

    return run(params)


def project_dense(delta, weights, J, target):
    """argmin ‖d − Δ‖²_{1/W} subject to J d = −target, by the dense KKT system."""
    n, m = delta.size, len(J)
    K = np.block([[np.diag(1 / weights), J.T], [J, np.zeros((m, m))]])
    solution = np.linalg.solve(K, np.concatenate([delta / weights, -target]))
    return solution[:n], solution[n:]


# ---------------------------------------------------------------------------------
# One step


@pytest.mark.float32
@pytest.mark.parametrize("rate", [1.0, 0.3])
def test_steps_of_adam_are_those_of_the_quadratic_program(rate):
    """Adam, written out in NumPy, projected in √v̂ + ε together with its moment."""
    dtype, generator = dtype_of("real"), rng(1)
    J = generator.standard_normal((3, 8)).astype(dtype)
    d = generator.standard_normal(3).astype(dtype)
    lr, b1, b2, eps = 0.05, 0.8, 0.95, 1e-3
    optimizer = lf.null_space(
        lenient(optax.adam(lr, b1, b2, eps)),
        lf.Affine(J, d),
        rate=rate,
        solver=lf.LSMR(),
    )
    theta = generator.standard_normal(8).astype(dtype)
    state = optimizer.init(jnp.asarray(theta))
    update = jax.jit(optimizer.update)
    m, v, theta = np.zeros(8), np.zeros(8), theta.astype(np.float64)
    for step in range(1, 5):
        g = generator.standard_normal(8)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        metric = np.sqrt(v / (1 - b2**step)) + eps
        delta = -lr * m / (1 - b1**step) / metric
        weights = lr / (1 - b1**step) / metric
        want, multipliers = project_dense(delta, weights, J, rate * (J @ theta - d))
        got, state = update(
            jnp.asarray(g, dtype), state, jnp.asarray(theta.astype(dtype))
        )
        assert got.dtype == dtype
        tolerance = 1e-9 if X64 else 2e-4
        assert relative_error(got, want) < tolerance
        # The share of the target that corrects the proposal, not the violation.
        target = J @ delta + rate * (J @ theta - d)
        multipliers *= np.clip(target @ (J @ delta) / (target @ target), 0, 2)
        multipliers_of_loss = multipliers / (1 - b1)
        assert relative_error(state.multipliers, multipliers_of_loss) < 10 * tolerance
        theta, m = theta + want, m + J.T @ multipliers


@pytest.mark.float32
@pytest.mark.parametrize("name", ["sgd", "given", "none"])
def test_metrics(name):
    """A Euclidean step for SGD, one in a given metric, and that between projections."""
    dtype, generator = dtype_of("real"), rng(2)
    J = generator.standard_normal((2, 6)).astype(dtype)
    theta, g = generator.standard_normal((2, 6)).astype(dtype)
    given = generator.uniform(0.5, 2, 6).astype(dtype)
    metric = {
        "sgd": "optimizer",
        "given": lambda p, s: jnp.asarray(given),
        "none": None,
    }
    constraint = lf.Equality(lambda p: jnp.asarray(J) @ p)
    optimizer = lf.null_space(
        optax.sgd(0.1), constraint, metric=metric[name], solver=lf.LSMR()
    )
    weights = 1 / given if name == "given" else np.ones(6)
    delta = -0.1 * g
    if name == "none":
        delta = delta - np.linalg.pinv(J) @ (J @ delta)
    want, _ = project_dense(delta, weights, J, J @ theta)
    params = jnp.asarray(theta)
    got, state = optimizer.update(jnp.asarray(g), optimizer.init(params), params)
    assert relative_error(got, want) < (1e-9 if X64 else 1e-4)
    assert np.isclose(state.violation, np.abs(J @ theta).max(), rtol=1e-5)
    if name == "none":
        # Multipliers of the objective: g + Jᵀμ is tangential.
        mu = np.linalg.lstsq(J.T, -g, rcond=None)[0]
        assert relative_error(state.multipliers, mu) < (1e-9 if X64 else 1e-4)


def test_pins_and_equations_together():
    """Pinned entries take their values; the others obey the equations given these."""
    dtype, generator = dtype_of("real"), rng(3)
    J = generator.standard_normal((2, 6)).astype(dtype)
    theta, g = generator.standard_normal((2, 6)).astype(dtype)
    fixed = jnp.asarray([7.0, -1.0], dtype)
    constraint = lf.Fixed(lambda p: p[:2], fixed) & lf.Affine(J, jnp.ones(2, dtype))
    optimizer = lf.null_space(optax.sgd(0.1), constraint, solver=lf.LSMR())
    params = jnp.asarray(theta)
    got, state = optimizer.update(jnp.asarray(g), optimizer.init(params), params)
    new = theta + np.asarray(got)
    pinned = np.asarray(fixed) - theta[:2]
    delta = np.concatenate([pinned, -0.1 * g[2:]])
    want, _ = project_dense(
        delta[2:], np.ones(4), J[:, 2:], J @ (theta + delta) - 1 - J[:, 2:] @ delta[2:]
    )
    assert np.allclose(new[:2], fixed)
    tolerance = 1e-9 if X64 else 1e-4
    assert relative_error(got[2:], want) < tolerance
    assert np.allclose(J @ new, 1, atol=tolerance * 10)
    assert jax.tree.structure(state.multipliers) == jax.tree.structure((0,))


@needs_x64
def test_inequalities_are_those_of_the_quadratic_program():
    """Against SciPy, for steps that meet some inequalities and not others."""
    generator = rng(4)
    C, d = generator.standard_normal((7, 5)), generator.uniform(0, 0.3, 7)
    theta = 0.1 * generator.standard_normal(5)
    optimizer = lf.null_space(
        optax.sgd(1.0), lf.Inequality(lambda p: C @ p - d), solver=lf.LSMR()
    )
    state, update = optimizer.init(jnp.asarray(theta)), jax.jit(optimizer.update)
    held = set()
    for _ in range(6):
        g = generator.standard_normal(5)
        got, state = update(jnp.asarray(g), state, jnp.asarray(theta))
        want = minimize(
            lambda x, g=g: 0.5 * np.sum((x + g) ** 2),
            np.zeros(5),
            jac=lambda x, g=g: x + g,
            constraints={
                "type": "ineq",
                "fun": lambda x: -(C @ (theta + x) - d),
                "jac": lambda x: -C,
            },
            method="SLSQP",
            options={"ftol": 1e-15, "maxiter": 200},
        ).x
        assert relative_error(got, want) < 1e-6
        assert np.all(np.asarray(state.multipliers) >= 0)
        held.add(int(np.sum(np.asarray(state.active))))
        assert bool(state.result == lx.RESULTS.successful)
    assert max(held) >= 2


def test_a_violated_inequality_is_mended_at_the_rate():
    """h → (1 − γ) h where it is violated; where it holds, nothing happens."""
    dtype = dtype_of("real")
    optimizer = lf.null_space(
        optax.sgd(0.1), lf.Inequality(lambda p: p - 1), rate=0.25, solver=lf.LSMR()
    )
    params = jnp.asarray([3.0, 0.0], dtype)
    zero = jnp.zeros(2, dtype)
    update, _ = optimizer.update(zero, optimizer.init(params), params)
    assert np.allclose(params + update, [1 + 0.75 * 2, 0], atol=1e-5)


@pytest.mark.parametrize("warmup", [4, lambda count: jnp.minimum((count + 1) / 4, 1)])
def test_the_violation_contracts_as_scheduled(warmup):
    """Affine constraints: c falls by exactly 1 − wγ, from the first step on."""
    dtype = dtype_of("real")
    optimizer = lf.null_space(
        lenient(optax.sgd(0.1)),
        lf.Equality(lambda p: p["a"] + jnp.sum(p["b"]) - 3),
        rate=lambda count: jnp.where(count <= 5, 0.5, 0.1),
        warmup=warmup,
        solver=lf.LSMR(),
    )
    params = {"a": jnp.zeros((), dtype), "b": jnp.zeros(3, dtype)}
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    want = 3.0
    for count in range(8):
        gradient = jax.tree.map(jnp.zeros_like, params)
        updates, state = update(gradient, state, params)
        assert np.isclose(state.violation, want, rtol=1e-5)
        params = optax.apply_updates(params, updates)
        rate = 0.5 if count <= 5 else 0.1
        want *= 1 - rate * min((count + 1) / 4, 1)


# ---------------------------------------------------------------------------------
# Constrained optima

DECAY = optax.exponential_decay(1e-2, 100, 0.6)
OPTIMIZERS = {
    "adam": lambda: optax.adam(1e-2),
    "adamw": lambda: optax.adamw(1e-2, weight_decay=0.0),
    "amsgrad": lambda: optax.amsgrad(1e-2),
    "sgd": lambda: optax.sgd(2e-2),
    "momentum": lambda: optax.sgd(5e-3, 0.9),
    "nesterov": lambda: optax.sgd(5e-3, 0.9, nesterov=True),
    "clipped": lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2)),
    "lion": lambda: optax.lion(DECAY),
    "rmsprop": lambda: optax.rmsprop(DECAY),
}
H = np.array([[2.0, 0.3, 0], [0.3, 1.0, -0.2], [0, -0.2, 0.5]])


def loss(p):
    """A nonconvex function with its minimum outside of the feasible set."""
    quadratic = 0.5 * p @ jnp.asarray(H, p.dtype) @ p - p @ jnp.asarray(
        [2, 1, -1], p.dtype
    )
    return quadratic + 0.1 * jnp.sin(3 * p[0])


def optimum(equality=None, inequality=None):
    """SciPy's optimum, polished by its own tolerance."""
    constraints = []
    for kind, sign, fn in (("eq", 1, equality), ("ineq", -1, inequality)):
        if fn is not None:
            constraints.append(
                {
                    "type": kind,
                    "fun": lambda x, fn=fn, sign=sign: sign * np.asarray(fn(x)),
                    "jac": lambda x, fn=fn, sign=sign: (
                        sign * np.asarray(jax.jacobian(fn)(jnp.asarray(x)))
                    ),
                }
            )
    return minimize(
        lambda x: float(loss(jnp.asarray(x))),
        np.array([0.5, 0.5, 0.0]),
        jac=lambda x: np.asarray(jax.grad(loss)(jnp.asarray(x))),
        constraints=constraints,
        method="SLSQP",
        options={"ftol": 1e-16, "maxiter": 500},
    ).x


def sphere(p):
    return jnp.stack([p @ p - 1, p[0] + p[2] - 0.2])


def bounds(p):
    """The first is active at the optimum, the second is not."""
    return jnp.stack([p[0] ** 2 + p[1] - 0.8, p[2] - 5])


@needs_x64
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimisers_reach_the_constrained_optimum(name):
    """Not feasibility alone: the point, and ∇f + Jᵀμ = 0."""
    want = optimum(equality=sphere)
    optimizer = lf.null_space(lenient(OPTIMIZERS[name]()), lf.Equality(sphere))
    got, state = train(optimizer, loss, jnp.array([0.5, 0.5, 0.0]), 2500)
    assert np.max(np.abs(got - want)) < 1e-6
    assert np.max(np.abs(sphere(got))) < 1e-10
    J = jax.jacobian(sphere)(got)
    stationarity = jax.grad(loss)(got) + J.T @ state.multipliers
    assert np.max(np.abs(stationarity)) < 1e-5
    assert bool(state.result == lx.RESULTS.successful)


@needs_x64
@pytest.mark.parametrize("name", ["adam", "momentum", "lion"])
def test_optimisers_reach_the_optimum_under_inequalities(name):
    want = optimum(inequality=bounds)
    optimizer = lf.null_space(lenient(OPTIMIZERS[name]()), lf.Inequality(bounds))
    got, state = train(optimizer, loss, jnp.array([0.0, 0.0, -1.0]), 2500)
    assert np.max(np.abs(got - want)) < 1e-6
    assert np.max(bounds(got)) < 1e-10
    assert state.active.tolist() == [True, False]
    assert state.multipliers[0] > 0.1
    assert state.multipliers[1] == 0


@needs_x64
def test_the_place_of_the_projection_matters():
    """Adam, then a Euclidean projection, is feasible and wrong: what M is for."""
    want = optimum(equality=sphere)
    wrong = lf.null_space(
        lenient(optax.adam(1e-2)),
        lf.Equality(sphere),
        metric=lambda params, state: jnp.ones_like(params),
    )
    got, _ = train(wrong, loss, jnp.array([0.5, 0.5, 0.0]), 2500)
    assert np.max(np.abs(sphere(got))) < 1e-10
    assert np.max(np.abs(got - want)) > 1e-2


@needs_x64
@pytest.mark.parametrize("name", ["adam", "momentum"])
def test_an_optimum_on_a_curved_constraint_is_stable(name):
    """The subspace of the two smallest eigenvalues, among orthonormal matrices.

    With the moment of Adam left as it is, this ends in a cycle at a distance of 0.05.
    """
    A = jnp.diag(jnp.arange(1.0, 6.0))
    N = jnp.diag(jnp.array([2.0, 1.0]))
    optimizer = {"adam": optax.adam(1e-2), "momentum": optax.sgd(2e-2, 0.9)}[name]
    start = jnp.asarray(np.linalg.qr(rng(3).standard_normal((5, 2)))[0])
    got, state = train(
        lf.null_space(lenient(optimizer), lf.Orthogonal()),
        lambda W: jnp.trace(W.T @ A @ W @ N),
        start,
        8000,
    )
    assert np.max(np.abs(np.abs(got) - np.eye(5)[:, :2])) < 1e-6
    assert np.max(np.abs(got.T @ got - np.eye(2))) < 1e-10
    assert bool(state.result == lx.RESULTS.successful)


@needs_x64
def test_warmup_lets_training_leave_a_bad_feasible_point():
    """Of the step, the share of the warm-up is corrected."""
    optimizer = lf.null_space(
        lenient(optax.sgd(0.1)),
        lf.Equality(lambda p: p[:1] * 3),
        warmup=lambda count: 0.25,
        rate=0.5,
        solver=lf.LSMR(),
    )
    params = jnp.array([2.0, 1.0])
    update, _ = optimizer.update(jnp.ones(2), optimizer.init(params), params)
    # J δ = (1 − w) J Δ − w γ c
    assert np.allclose(update, [0.75 * -0.1 - 0.25 * 0.5 * 2, -0.1])


@needs_x64
def test_multipliers_warm_start_the_next_solve():
    """At convergence nothing is left to solve for."""
    optimizer = lf.null_space(optax.sgd(2e-2), lf.Equality(sphere))
    params = jnp.array([0.5, 0.5, 0.0])
    _, first = train(optimizer, loss, params, 1)
    _, last = train(optimizer, loss, params, 2500)
    assert int(first.num_steps) == 2
    assert int(last.num_steps) == 0
    assert int(last.count) == 2500


def test_metrics_of_optimizers():
    """Which optimizers take one solve a step, and which two."""
    metrics = {
        "adam": ["adam", "adamw", "amsgrad", "nadam", "radam", "yogi", "adamax"],
        "sgd": ["sgd", "momentum"],
        "none": ["lion", "rmsprop", "sign_sgd", "lamb", "adagrad", "lbfgs"],
    }
    known = {"adam": lf.train.adam_metric, "sgd": lf.train.sgd_metric, "none": None}
    makers = {"momentum": lambda rate: optax.sgd(rate, 0.9, nesterov=True)}
    for form, names in metrics.items():
        for name in names:
            optimizer = makers.get(name, getattr(optax, name, None))(1e-2)
            assert probe(lenient(optimizer)) is known[form], name


@needs_x64
def test_parameters_without_a_gradient_do_not_take_the_whole_correction():
    """Adam has M = ε = 1e-8 for them; the optimum has cos 3y = 0, by stationarity."""
    constraint = lf.Equality(lambda p: jnp.tanh(p[0]) + 0.1 * jnp.sin(3 * p[1]) - 0.3)
    optimizer = lf.null_space(lenient(optax.adam(1e-2)), constraint)
    got, state = train(optimizer, lambda p: (p[0] - 1) ** 2 / 2, jnp.zeros(2), 2500)
    assert np.allclose(got, [np.arctanh(0.4), -np.pi / 6], atol=1e-6)
    assert abs(constraint.residual(got)) < 1e-10
    assert bool(state.result == lx.RESULTS.successful)
