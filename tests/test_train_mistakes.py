"""Mistakes that users make: each error says what was wrong, and what to do."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest

import lsqflow as lf

from .helpers import lenient

ADAM = lenient(optax.adam(1e-2))
EQUALITY = lf.Equality(lambda p: jnp.sum(p) - 1)
NETWORK = eqx.nn.MLP(1, 1, 4, 1, key=jax.random.key(0))
TRAINED = eqx.filter(NETWORK, eqx.is_inexact_array)
X = jnp.ones((4, 1))


@pytest.fixture(autouse=True)
def _as_users_have_it():
    """Without the type checks of the tests, which would speak first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def step(constraint, params=None, *, args=None, example=(), **options):
    params = jnp.arange(3.0) + 1 if params is None else params
    optimizer = lf.null_space(ADAM, constraint, constraint_args=example, **options)
    state = optimizer.init(params)
    extra = {} if args is None else {"constraint_args": args}
    return optimizer.update(params, state, params, **extra)


def update(*names):
    """`update` with some of its arguments."""
    params = jnp.arange(3.0)
    optimizer = lf.null_space(ADAM, EQUALITY)
    given = {"p": params, "s": optimizer.init(params), "t": ADAM.init(params)}
    given |= {"short": params[:2], "dict": {"a": params}, "none": None}
    return optimizer.update(*(given[name] for name in names))


def fit(*args, **options):
    return lf.train.fit(*args, progress=False, **{"steps": 2, **options})


P = jnp.ones(3)
network_residual = lf.Equality(lambda m: jax.vmap(m)(X))
by_batch = lf.Equality(lambda p, x: p * x)

MISTAKES = {
    # what the residual is
    "returns None": (lambda: step(lf.Equality(lambda p: None)), "without `return`"),
    "returns bool": (lambda: step(lf.Equality(lambda p: p > 0)), "`left - right`"),
    "returns float": (lambda: step(lf.Equality(lambda p: 0.5)), "not depend on the pa"),
    "returns int": (lambda: step(lf.Equality(lambda p: 1)), "is 1. Integers have no"),
    "returns index": (lambda: step(lf.Equality(jnp.argmax)), "array of int.*argmax"),
    "returns str": (lambda: step(lf.Equality(lambda p: "x")), "'x'. Return an array"),
    "returns complex": (lambda: step(lf.Equality(jnp.fft.fft)), "z.real, z.imag"),
    "calls float": (lambda: step(lf.Equality(lambda p: float(p[0]))), "jax.numpy"),
    "violation of None": (
        lambda: lf.Equality(lambda p: None).violation(P),
        "`Equality` is None",
    ),
    "violation of bool": (
        lambda: lf.Inequality(lambda p: p < 1).violation(P),
        "array of bool",
    ),
    "retract on None": (
        lambda: lf.retract(lf.Equality(lambda p: None), P),
        "without `return`",
    ),
    # what the parameters are
    "filtered model": (
        lambda: step(network_residual, TRAINED),
        "'NoneType' object is not callable.*eqx.combine",
    ),
    "whole model": (
        lambda: step(network_residual, NETWORK),
        "got the function `relu` at .activation.*eqx.partition",
    ),
    "retract filtered": (
        lambda: lf.retract(network_residual, TRAINED),
        "hold None where a model has functions",
    ),
    "retract whole": (
        lambda: lf.retract(network_residual, NETWORK),
        "got the function `relu`",
    ),
    "sparsity of model": (lambda: lf.Sparsity(0.5).violation(NETWORK), "function"),
    "norm of model": (lambda: lf.NormBound(None, 1.0).violation(NETWORK), "function"),
    "integer leaf": (
        lambda: step(EQUALITY, {"w": jnp.ones(2), "n": jnp.arange(3)}),
        r"int.* at \['n'\].*eqx.partition",
    ),
    "integers": (lambda: step(EQUALITY, jnp.arange(3)), "floating-point arrays"),
    "string leaf": (lambda: step(EQUALITY, {"w": P, "n": "hi"}), "got 'hi'"),
    "retract integers": (lambda: lf.retract(EQUALITY, jnp.arange(3)), "floating-p"),
    # further arguments
    "args array": (
        lambda: step(by_batch, args=P, example=(P,)),
        r"must be a tuple.*\(points,\)",
    ),
    "args list": (lambda: step(by_batch, args=[P], example=(P,)), "got a list"),
    "args dict": (lambda: step(by_batch, args={"x": P}, example=(P,)), "got a dict"),
    "example array": (lambda: step(by_batch, example=P), "must be a tuple"),
    "args missing": (lambda: step(by_batch), r"constraint_args=\(batch,\)"),
    "retract args missing": (
        lambda: lf.retract(by_batch, P),
        r"lsqflow.retract\(constraint, params, batch\)",
    ),
    # the order of arguments
    "state first": (lambda: update("s", "p", "p"), "got it as the first"),
    "state last": (lambda: update("p", "p", "s"), "got it as the third"),
    "no params": (lambda: update("p", "s"), "needs the parameters"),
    "inner state": (lambda: update("p", "t", "p"), "the state that `init`"),
    "short gradient": (lambda: update("short", "s", "p"), r"shapes \[\(2,\)\]"),
    "other gradient": (lambda: update("dict", "s", "p"), "structure and shapes"),
    "no gradient": (lambda: update("none", "s", "p"), "structure and shapes"),
    "null_space reversed": (lambda: lf.null_space(EQUALITY, ADAM), "exchanged"),
    "retract reversed": (lambda: lf.retract(P, EQUALITY), "exchanged"),
    # joining
    "and": (lambda: EQUALITY and EQUALITY, "`first & second` instead of"),
    "or": (lambda: EQUALITY or EQUALITY, "neither true nor false"),
    "not": (lambda: not EQUALITY, "violation"),
    "and function": (lambda: EQUALITY & (lambda p: p), "the function `<lambda>`"),
    "function and": (lambda: (lambda p: p) & EQUALITY, "lsqflow.Equality"),
    # kinds
    "optimizer str": (lambda: lf.null_space("adam", EQUALITY), "got 'adam'"),
    "optimizer uncalled": (
        lambda: lf.null_space(optax.adam, EQUALITY),
        r"`optax.adam\(1e-3\)`",
    ),
    "optimizer list": (lambda: lf.null_space([ADAM], EQUALITY), "optax.chain"),
    "constraint list": (lambda: lf.null_space(ADAM, [EQUALITY]), "first & second"),
    "constraint function": (lambda: lf.null_space(ADAM, lambda p: p), "Wrap"),
    "constraint class": (lambda: lf.null_space(ADAM, lf.Orthogonal), "create one"),
    "solver str": (lambda: lf.null_space(ADAM, EQUALITY, solver="lsmr"), "'lsmr'"),
    "solver class": (lambda: lf.null_space(ADAM, EQUALITY, solver=lf.LSMR), "create"),
    "metric str": (lambda: lf.null_space(ADAM, EQUALITY, metric="adam"), "'adam'"),
    "metric class": (
        lambda: lf.null_space(ADAM, EQUALITY, metric=lf.train.AdamMetric),
        "create one",
    ),
    "metric tree": (lambda: step(EQUALITY, metric=lambda p, s: {"a": p}), "like the p"),
    "metric shape": (lambda: step(EQUALITY, metric=lambda p, s: P[:2]), "shapes"),
    "metric of another": (
        lambda: lf.null_space(
            optax.sgd(0.1), EQUALITY, metric=lf.train.adam_metric
        ).init(P),
        "first moment `mu`",
    ),
    "rate str": (lambda: lf.null_space(ADAM, EQUALITY, rate="1"), "got '1'"),
    "rate 2": (lambda: lf.null_space(ADAM, EQUALITY, rate=2), "at most 1"),
    "warmup float": (lambda: lf.null_space(ADAM, EQUALITY, warmup=9.0), "integer"),
    # constraints
    "Equality str": (lambda: lf.Equality("x + y"), "got 'x"),
    "Equality value": (lambda: lf.Equality(P), "not the value that it returned"),
    "on str": (lambda: EQUALITY.on("w"), r'params\["w"\]'),
    "on square": (lambda: step(EQUALITY.on(lambda p: p**2)), "not linear"),
    "Fixed str": (lambda: lf.Fixed("w"), r'params\["w"\]'),
    "Fixed nothing": (lambda: step(lf.Fixed(lambda p: None)), "picks nothing"),
    "Orthogonal str": (lambda: lf.Orthogonal("w"), "`where` of `Orthogonal`"),
    "NormBound reversed": (lambda: lf.NormBound(1.0, lambda p: p), "got 1.0"),
    "NormBound str": (lambda: lf.NormBound(None, "1"), "positive number; got '1'"),
    "Sparsity percent": (lambda: lf.Sparsity(90), r"Sparsity\(0.9\)"),
    "Sparsity str": (lambda: lf.Sparsity("0.9"), "got '0.9'"),
    "Sampled function": (
        lambda: lf.Sampled(lambda p: p, lambda key: (P,), jax.random.key(0)),
        "must be a constraint",
    ),
    "Sampled seed": (lambda: lf.Sampled(EQUALITY, lambda k: (P,), 0), "random.key"),
    "Sampled no tuple": (
        lambda: step(lf.Sampled(by_batch, lambda key: P, jax.random.key(0))),
        "must return a tuple",
    ),
    "Equivariance": (lambda: lf.Equivariance("m", [1], None), "`apply`"),
    "actions": (lambda: lf.Equivariance(lambda p, x: x, [1], "turn"), "`action`"),
    "Periodic str": (lambda: lf.Periodic(lambda p, x: x, "1"), "`period`"),
    "Lipschitz reversed": (lambda: lf.Lipschitz(1.0, lambda p, x: x), "`apply`"),
    "probes": (lambda: lf.Conservative(lambda p, x: x, 0.5), "positive integer"),
    # retract, fit, compensate
    "tolerance": (lambda: lf.retract(EQUALITY, P, tolerance="1"), "`tolerance`"),
    "max_steps": (lambda: lf.retract(EQUALITY, P, max_steps=5.0), "integer"),
    "loss shape": (lambda: fit(lambda p: p, P, ADAM), "must return a scalar"),
    "loss str": (lambda: fit("x", P, ADAM), "`loss`"),
    "steps": (lambda: fit(jnp.sum, P, ADAM, steps=2.0), "`steps`"),
    "batches": (lambda: fit(lambda p, x: p @ x, P, ADAM, [P]), r"yield `\(x,\)`"),
    "no batches": (lambda: fit(jnp.sum, P, ADAM, 3), "iterable"),
    "fit optimizer": (lambda: fit(jnp.sum, P, EQUALITY), "class `Equality`"),
    "fit args": (
        lambda: fit(jnp.sum, P, ADAM, constraint_args=(P,)),
        "must be a function",
    ),
    "nothing to train": (lambda: fit(jnp.sum, {"a": 1}, ADAM), "nothing to train"),
    "mask": (lambda: lf.compensate(np.ones((2, 2)), "m", np.ones((2, 2))), "`mask`"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_explained(name):
    mistake, message = MISTAKES[name]
    with pytest.raises((TypeError, ValueError), match=rf"(?s){message}") as raised:
        mistake()
    assert len(str(raised.value)) < 700


def test_too_few_batches_end_training_with_a_warning():
    with pytest.warns(UserWarning, match="1 batches for 2 steps"):
        params, _, history = fit(lambda p, x: p @ x, P, ADAM, [(P,)])
    assert history.loss.shape == (1,)
    assert np.all(np.isfinite(params))
