"""Training outside of `jax.jit`: new values and equal functions compile nothing."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lsqflow as lf

from .helpers import dtype_of, lenient, relative_error, rng

COMPILED = []


@jax.monitoring.register_event_duration_secs_listener
def _listen(event, duration, **_):
    if event == "/jax/core/compile/backend_compile_duration":
        COMPILED.append(duration)


@contextlib.contextmanager
def compiles(at_least=0, at_most=0):
    before = len(COMPILED)
    yield
    assert at_least <= len(COMPILED) - before <= at_most


def test_compilations_are_counted():
    x = jnp.arange(17.0)
    with compiles(at_least=1, at_most=9):
        jax.jit(lambda x: jnp.sin(x) @ x + 3)(x)


def constraints(scale):
    """Fresh objects and fresh lambdas, with an array that may differ."""
    scale = jnp.asarray(scale, dtype_of("real"))
    return {
        "equality": lambda: lf.Equality(lambda p: jnp.sum(jax.nn.relu(p) ** 2) - 4),
        "affine": lambda: lf.Affine(jnp.ones((2, 6)) * scale).on(lambda p: p[:, 0]),
        "inequality": lambda: lf.Inequality(lambda p: p - 0.5),
        "sparsity": lambda: lf.Sparsity(0.5) & lf.Equality(lambda p: jnp.sum(p) - 1),
        "orthogonal": lf.Orthogonal,
        "bound": lambda: lf.NormBound(None, scale),
        "sampled": lambda: lf.Sampled(
            lf.Equality(lambda p, x: x @ p[:, 0] - 1),
            lambda key: (jax.random.normal(key, (2, 6), dtype_of("real")),),
            jax.random.key(0),
        ),
    }


OPTIMIZERS = {
    "adam": lambda: optax.adam(0.1),
    "sgd": lambda: optax.sgd(0.1, 0.9),
    "lion": lambda: optax.lion(0.1),
}


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [
        *(("equality", name) for name in OPTIMIZERS),
        *((name, "adam") for name in constraints(1) if name != "equality"),
    ],
)
def test_eager_steps_compile_once(name, optimizer):
    """One program for `update`; then none for new steps, lambdas, optimizers."""
    generator = rng(1)
    draw = lambda: jnp.asarray(generator.standard_normal((6, 3)), dtype_of("real"))

    def run(steps, scale):
        wrapped = lf.null_space(
            lenient(OPTIMIZERS[optimizer]()), constraints(scale)[name]()
        )
        params = draw()
        state = wrapped.init(params)
        for _ in range(steps):
            updates, state = wrapped.update(draw(), state, params)
            params = params + updates
        return params

    run(2, 1.0)  # also the sum, and what makes random numbers
    with compiles():
        run(3, 2.0)


def test_an_eager_step_is_the_compiled_one():
    dtype = dtype_of("real")
    optimizer = lf.null_space(
        lenient(optax.adam(0.1)), lf.Equality(lambda p: p["a"] @ p["a"] - 1)
    )
    params = {"a": jnp.arange(3.0, dtype=dtype) + 1}
    state = optimizer.init(params)
    got, _ = optimizer.update(params, state, params)
    want, _ = jax.jit(optimizer.update)(params, state, params)
    assert relative_error(got, want) < 1e-5
    # The same function, differentiated and mapped, outside of `jit`.
    square = lambda p: jnp.sum(optimizer.update(p, state, p)[0]["a"] ** 2)
    slope = jax.grad(square)(params)
    h = 1e-3
    step = lambda s: {"a": params["a"] + s * h * jnp.eye(3, dtype=dtype)[0]}
    difference = (square(step(1)) - square(step(-1))) / (2 * h)
    assert np.isclose(slope["a"][0], difference, rtol=2e-2, atol=1e-3)
    many = jax.tree.map(lambda x: jnp.stack([x, x]), params)
    mapped = jax.vmap(lambda p: optimizer.update(p, state, p)[0])(many)
    assert relative_error(mapped["a"][1], want["a"]) < 1e-5


def test_eager_derivatives_compile_once():
    dtype = dtype_of("real")
    optimizer = lf.null_space(lenient(optax.sgd(0.1)), lf.Equality(lambda p: p @ p - 1))
    params = jnp.arange(3.0, dtype=dtype) + 1
    state = optimizer.init(params)
    square = lambda p: jnp.sum(optimizer.update(p, state, p)[0] ** 2)
    jax.grad(square)(params)
    with compiles():
        jax.grad(square)(params + 1)


def test_numbers_and_arrays_of_numpy_are_values():
    """`constraint_args` of Python's floats: new ones compile nothing."""
    dtype = dtype_of("real")
    optimizer = lf.null_space(
        lenient(optax.sgd(0.1)),
        lf.Equality(lambda p, level: jnp.sum(p) - level),
        constraint_args=(0.0,),
        solver=lf.LSMR(),
    )
    params = np.arange(3, dtype=dtype)
    state = optimizer.init(params)
    for level, limit in ((1.0, 99), (2.0, 0), (np.asarray(3.0), 99), (4.0, 0)):
        with compiles(at_most=limit):
            updates, state = optimizer.update(
                0 * params, state, params, constraint_args=(level,)
            )
        assert np.isclose(np.sum(params + np.asarray(updates)), float(level), rtol=1e-4)


def test_optimizers_that_look_at_values_run_as_they_stand():
    """Written for Python loops: their steps cannot be traced."""

    def update(updates, state, params=None, *, value, **_):
        assert params is not None
        scale = 1.0 if float(value) > 1 else 0.5
        return jax.tree.map(lambda g: -scale * g, updates), state

    python = optax.GradientTransformationExtraArgs(lambda p: (), update)
    constraint = lf.Equality(lambda p: p[0] - p[1])
    optimizer = lf.null_space(python, constraint, solver=lf.LSMR())
    params = jnp.ones(2, dtype_of("real"))
    state = optimizer.init(params)
    gradient = jnp.asarray([3.0, 1.0], params.dtype)
    for value, want in ((2.0, -2.0), (0.5, -1.0)):
        updates, state = optimizer.update(gradient, state, params, value=value)
        assert np.allclose(updates, want, rtol=1e-4)
    assert bool(state.form == lf.train.MetricForm.none)


def test_retraction_compiles_once():
    points = [jnp.asarray(x, dtype_of("real")) for x in rng(2).standard_normal((3, 4))]

    def run(point, tolerance):
        sphere = lf.Equality(lambda p: p @ p - 4)
        return lf.retract(sphere, point, tolerance=tolerance, max_steps=30).params

    run(points[0], 1e-4)
    with compiles():
        for point, tolerance in zip(points, (1e-3, 1e-4, 2e-4), strict=True):
            assert abs(np.linalg.norm(run(point, tolerance)) - 2) < 1e-3


def test_fit_compiles_once():
    dtype = dtype_of("real")
    batch = lambda seed: jnp.asarray(rng(seed).standard_normal((5, 3)), dtype)

    def run(seed):
        return lf.train.fit(
            lambda p, X: jnp.mean((X @ p) ** 2),
            batch(seed)[0],
            lf.null_space(lenient(optax.sgd(0.1)), lf.Equality(lambda p: p.sum() - 1)),
            [(batch(seed + i),) for i in range(3)],
            steps=3,
            progress=False,
        )

    run(0)
    with compiles():
        params, _, _ = run(5)
    assert np.isclose(jnp.sum(params), 1, atol=1e-3)


def test_functions_that_differ_are_not_mistaken_for_each_other():
    """Another constant, another closure, another array in it: other programs."""
    params = jnp.ones(3, dtype_of("real"))
    big = jnp.arange(3000.0, dtype=params.dtype)
    for level in (1.0, 2.0, 3.0):
        shifted = big.at[1500].add(level)
        constraint = lf.Equality(lambda p, c=shifted: jnp.sum(p) - (c[1500] - 1500))
        found = lf.retract(constraint, params)
        assert np.isclose(jnp.sum(found.params), level, rtol=1e-5)


VIOLATIONS = {
    **constraints(1.5),
    "pattern": lambda: lf.Sparsity(pattern=(1, 3)),
    "layer": lambda: lf.Sparsity(0.3, "layer"),
    "fixed": lambda: lf.Fixed(lambda p: p[0]),
}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_violations_compile_once(name):
    constraint = VIOLATIONS[name]()
    draw = lambda seed: jnp.asarray(rng(seed).standard_normal((6, 3)), dtype_of("real"))
    first, second = draw(1), draw(2)
    constraint.violation(first)
    with compiles():
        constraint.violation(second)
