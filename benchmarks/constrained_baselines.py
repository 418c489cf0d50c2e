"""What else is done to train under a constraint, as Optax optimisers.

All take an optimiser and a constraint, as `lsqflow.null_space` does, so that one loop
trains with any of them.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lsqflow as lf
from lsqflow.train.active_set import Rules
from lsqflow.train.linearisation import Linearisation, Rates
from lsqflow.train.step import constrained_step


def penalty(
    optimizer: optax.GradientTransformation,
    constraint: lf.AbstractConstraint,
    weight: float,
) -> optax.GradientTransformationExtraArgs:
    """Minimise `f + weight ‖c‖² / 2`."""

    def update(gradient, state, params, *, constraint_args=(), **extra):
        push = lambda c: jax.tree.map(lambda x: weight * x, c)
        step = optax.tree.add(
            gradient, _pull(constraint, params, constraint_args, push)
        )
        return inner.update(step, state, params, **extra)

    inner = optax.with_extra_args_support(optimizer)
    return optax.GradientTransformationExtraArgs(inner.init, update)


class AugmentedState(NamedTuple):
    """Multipliers, weight of the penalty, and what the optimiser remembers."""

    count: Any
    multipliers: Any
    weight: Any
    inner: Any


def augmented_lagrangian(
    optimizer: optax.GradientTransformation,
    constraint: lf.AbstractConstraint,
    *,
    weight: float = 1.0,
    growth: float = 2.0,
    largest: float = 1e3,
    every: int = 100,
    constraint_args: tuple[Any, ...] = (),
) -> optax.GradientTransformationExtraArgs:
    """Descend on `f + μᵀc + w ‖c‖² / 2`; every so often `μ += w c`, and `w` grows.

    Inequalities as by Rockafellar (1973): max(0, μ + w c) in place of μ + w c.
    """

    def dual(c, state):
        flags = jax.tree.broadcast(constraint.inequality(), c)
        moved = jax.tree.map(lambda m, x: m + state.weight * x, state.multipliers, c)
        return jax.tree.map(
            lambda m, flag: jnp.maximum(m, 0) if flag else m, moved, flags
        )

    def init(params):
        c = constraint.residual(params, *constraint_args)
        dtype = jax.tree.leaves(c)[0].dtype
        count, start = jnp.zeros((), jnp.int32), jnp.asarray(weight, dtype)
        return AugmentedState(
            count, optax.tree.zeros_like(c), start, inner.init(params)
        )

    def update(gradient, state, params, *, constraint_args=constraint_args, **extra):
        push = lambda c: dual(c, state)
        pull = _pull(constraint, params, constraint_args, push, all_rows=True)
        step, after = inner.update(
            optax.tree.add(gradient, pull), state.inner, params, **extra
        )
        moved = dual(constraint.residual(params, *constraint_args), state)
        due = (state.count + 1) % every == 0
        keep = lambda new, old: jax.tree.map(
            lambda a, b: jnp.where(due, a, b), new, old
        )
        heavier = jnp.minimum(growth * state.weight, largest).astype(state.weight.dtype)
        return step, AugmentedState(
            state.count + 1,
            keep(moved, state.multipliers),
            keep(heavier, state.weight),
            after,
        )

    inner = optax.with_extra_args_support(optimizer)
    return optax.GradientTransformationExtraArgs(init, update)


def project_gradient(
    constraint: lf.AbstractConstraint,
    *,
    solver: Any = None,
    rate: float = 1.0,
) -> optax.GradientTransformationExtraArgs:
    """`g − J⁺ (J g − rate c)`: descent on it lowers f along the constraint, and |c|.

    For inequalities, the direction nearest to −g that solves the linearised ones.
    """
    solver = lf.LSMR(rtol=1e-6) if solver is None else solver

    def update(gradient, state, params, *, constraint_args=(), **extra):
        del extra
        problem = Linearisation.of(constraint, params, constraint_args)
        dtype = jax.tree.leaves(problem.residual)[0].dtype
        step = constrained_step(
            *(problem, params, optax.tree.scale(-1, gradient)),
            weights=None,
            rates=Rates(jnp.asarray(rate, dtype)),
            solver=solver,
            guess=None,
            active=problem.equation,
            rules=Rules(problem.equation),
        )
        return optax.tree.scale(-1, step.update), state

    return optax.GradientTransformationExtraArgs(optax.identity().init, update)


def paper(
    optimizer: optax.GradientTransformation,
    constraint: lf.AbstractConstraint,
    *,
    solver: Any = None,
    rate: float = 1.0,
) -> optax.GradientTransformationExtraArgs:
    """The order of the paper (Roy et al., 2025): project gradients, then optimise."""
    return optax.chain(
        project_gradient(constraint, solver=solver, rate=rate), optimizer
    )


def euclidean(
    optimizer: optax.GradientTransformation,
    constraint: lf.AbstractConstraint,
    **kwargs: Any,
) -> optax.GradientTransformationExtraArgs:
    """The optimiser, then a projection of its update in the metric M = I."""
    ones = lambda params, _: jax.tree.map(jnp.ones_like, params)
    return lf.null_space(optimizer, constraint, metric=ones, **kwargs)


def _pull(constraint, params, args, push, *, all_rows=False):
    """`Jᵀ push(c)`; inequalities that hold count as zero, unless all rows are used."""
    c, back = jax.vjp(lambda p: constraint.residual(p, *args), params)
    flags = jax.tree.broadcast(constraint.inequality(), c)
    if not all_rows:
        c = jax.tree.map(lambda x, flag: jnp.maximum(x, 0) if flag else x, c, flags)
    return back(push(c))[0]


def check() -> None:
    """Raise unless projected gradients are those of dense matrices, and lower |c|."""
    random = np.random.default_rng(0)
    A, g, x = random.normal(size=(2, 5)), random.normal(size=5), random.normal(size=5)
    fn = lambda x: jnp.asarray(A) @ jnp.sin(x) - 1
    J, c = A * np.cos(x), A @ np.sin(x) - 1
    expected = g - np.linalg.pinv(J) @ (J @ g - 0.5 * c)
    transform = project_gradient(lf.Equality(fn), solver=lf.LSMR(rtol=1e-13), rate=0.5)
    got, _ = transform.update(jnp.asarray(g), transform.init(x), jnp.asarray(x))
    after = A @ np.sin(x - 1e-3 * np.asarray(got)) - 1
    if not np.allclose(got, expected) or not np.all(abs(after) < abs(c)):
        raise RuntimeError(
            "The gradient of the paper's order is not what it should be."
        )
