"""Where constrained optimisers converge: distances to known constrained minima."""

import functools as ft
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lsqflow as lf

from . import constrained_baselines as baselines
from ._constrained import Problem, Reference, conditions, problems
from ._report import table

DISTANCE, VIOLATION = 1e-6, 1e-10
STEPS, LAST, DECAY = 10_000, 1e-9, 0.1

SETTINGS = f"""
{STEPS} steps; every optimiser keeps its learning rate for half of them, then lets it
fall in a geometric sequence to {LAST:g} of it, the same for all methods; *constant*
leaves out the fall. *Ours* is `lf.null_space(optimiser, constraint)`, all defaults.
*Paper's order*: the gradient is projected, by a solver with tolerance 1e-12, and then
goes to the optimiser. *M = I*: the optimiser's update, projected in the Euclidean
metric. Distances are Euclidean, to the nearest known minimum; abs(c) is the largest
violation, *KKT* the largest entry of ∇f + Jᵀμ with the best μ. *Solver steps* are a
mean over training, both solves taken together where there are two.

Bars, on ours, not for constant rates: distance ≤ {DISTANCE:g}, abs(c) ≤ {VIOLATION:g}.
Decoupled weight decay is felt in Adam's metric: it moves the minimum of ours to
where ∇f + {DECAY:g} (|∇f| + ε) θ + Jᵀμ = 0; distances of its row are from there, and
its b2 is 0.99, so that the metric has settled when the learning rate falls."""


OPTIMISERS = {
    "Adam": (optax.adam, 1e-2),
    "Adam, constant": (optax.adam, 1e-2),
    "AdamW": (lambda r: optax.adamw(r, weight_decay=0.0), 1e-2),
    "AdamW, decay": (lambda r: optax.adamw(r, b2=0.99, weight_decay=DECAY), 1e-2),
    "SGD": (optax.sgd, 2e-2),
    "SGD, momentum": (lambda r: optax.sgd(r, 0.9), 3e-3),
    "Lion": (lambda r: optax.lion(r, weight_decay=0.0), 1e-2),
    "RMSprop": (optax.rmsprop, 1e-2),
    "Muon": (optax.contrib.muon, 1e-2),
}
QUICK = {"Adam", "Adam, constant", "SGD, momentum"}
METHODS = {
    "ours": lf.null_space,
    "paper's order": ft.partial(baselines.paper, solver=lf.LSMR(rtol=1e-12)),
    "M = I": baselines.euclidean,
}


def train(
    problem: Problem, optimizer: Any, rate: float, method: Any, *, constant: bool
) -> tuple[Any, Any]:
    """The last iterate, and solver steps a step."""
    half = STEPS // 2
    decay = optax.exponential_decay(rate, half, LAST, transition_begin=half)
    chosen = optimizer(rate if constant else decay)
    transform = method(chosen, problem.constraint)

    @jax.jit
    def run(start: Any) -> Any:
        def step(carry: Any, _: Any) -> Any:
            x, state = carry
            update, state = transform.update(jax.grad(problem.objective)(x), state, x)
            return (x + update, state), getattr(state, "num_steps", jnp.zeros(()))

        (x, _), num_steps = jax.lax.scan(
            step, (start, transform.init(start)), length=STEPS
        )
        return x, jnp.mean(num_steps.astype(x.dtype))

    return run(problem.start)


def judge(problem: Problem, minima: list[Any], x: Any) -> tuple[float, float, float]:
    """Distance, violation, KKT residual."""
    x = np.asarray(x)
    distance = min(float(np.linalg.norm(x - y)) for y in minima)
    residual, inequality = conditions(problem.constraint, x.shape)
    c, J = (
        np.asarray(residual(x.ravel())),
        np.asarray(jax.jacobian(residual)(x.ravel())),
    )
    J = J[~inequality | (c > -1e-4)]
    g = np.ravel(jax.grad(problem.objective)(jnp.asarray(x)))
    mu = np.linalg.lstsq(J.T, -g)[0]
    violation = np.max(np.where(inequality, np.maximum(c, 0), abs(c)))
    return distance, float(violation), float(np.max(abs(g + J.T @ mu), initial=0))


def names_for(problem: Problem, *, quick: bool) -> list[str]:
    """Muon is for matrices; where decay moves the minima of ours has no closed form."""
    if problem.start.ndim == 2:
        names = [x for x in OPTIMISERS if not x.startswith("AdamW")]
    else:
        names = [x for x in OPTIMISERS if x != "Muon"]
    return [x for x in names if x in QUICK] if quick else names


def main(*, quick: bool) -> None:
    print(SETTINGS)
    baselines.check()
    for name, problem in problems(quick=quick).items():
        out = []
        for label in names_for(problem, quick=quick):
            minima = problem.minima
            if label == "AdamW, decay":
                reference = Reference(*problem[:2], problem.start.shape)
                minima = [reference.polish(x, DECAY) for x in minima]
            row: list[Any] = [label]
            for method, make in METHODS.items():
                constant = label.endswith("constant")
                x, num_steps = train(
                    problem, *OPTIMISERS[label], make, constant=constant
                )
                distance, violation, kkt = judge(problem, minima, x)
                row += [distance, violation]
                if method == "ours":
                    met = distance <= DISTANCE and violation <= VIOLATION
                    verdict = "met" if met else "NOT met"
                    row += [kkt, float(num_steps), "" if constant else verdict]
            out.append(row)
        print(f"\n#### {name}\n\nLocal minima known: {len(problem.minima)}.")
        columns = ["", "distance", "abs(c)", "KKT", "solver steps", "bars"]
        table([*columns, "paper's order", "abs(c)", "M = I", "abs(c)"], out)
