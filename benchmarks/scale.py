"""Training under constraints at fifty million parameters: time and memory of a step."""

import resource
import subprocess
import sys
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import lsqflow as lf

from ._report import at_most, table
from ._timing import interleave

LEAVES, FRACTION = 10, 0.9
RESIDUALS, WIDTH = 1000, 4000
TIME_BAR, VECTORS_BAR, MEMORY_BAR = 1.5, 2.0, 16.0


def weights(size: int) -> dict[str, jax.Array]:
    """Matrices of a few hundred columns, normally distributed."""
    rows = size // LEAVES // 500
    keys = jax.random.split(jax.random.key(0), LEAVES)
    return {
        f"layer{i}": jax.random.normal(key, (rows, 500), jnp.float32)
        for i, key in enumerate(keys)
    }


def optimisers() -> dict[str, Any]:
    adam = optax.adam(1e-3)
    return {
        "Adam": adam,
        "Adam, 90 % sparse": lf.null_space(adam, lf.Sparsity(FRACTION)),
    }


def updater(optimizer: Any) -> Any:
    """Gradients, state and parameters in; the last two out, in the same memory."""

    def step(gradient: Any, state: Any, params: Any) -> Any:
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    return jax.jit(step, donate_argnums=(1, 2))


def sparsity(size: int) -> None:
    """The update alone, without a gradient; first steps and steady state."""
    rows, calls, memory = [], {}, {}
    gradient = jax.tree.map(lambda x: 0.01 * x, weights(size))
    for name, optimizer in optimisers().items():
        params = weights(size)
        state = jax.jit(optimizer.init)(params)
        step = updater(optimizer).lower(gradient, state, params).compile()
        memory[name] = step.memory_analysis()
        first = time.perf_counter()
        params, state = jax.block_until_ready(step(gradient, state, params))
        first = time.perf_counter() - first
        box = [params, state]

        def call(box: Any = box, step: Any = step) -> Any:
            box[:] = step(gradient, box[1], box[0])
            return box

        calls[name] = call
        rows.append([name, first])
    times = interleave(calls, 7)
    bare, vector = times["Adam"], size * 4
    for row, name in zip(rows, times, strict=True):
        extra = memory[name].temp_size_in_bytes - memory["Adam"].temp_size_in_bytes
        ratio = times[name].over(bare)
        row.extend([times[name].median, ratio, extra / vector])
        bars = [at_most(ratio, TIME_BAR), at_most(extra / vector, VECTORS_BAR)]
        row.extend(["", ""] if name == "Adam" else bars)
    table(
        ["", "first step s", "median s", "ratio", "extra vectors", "time", "memory"],
        rows,
    )


def child(width: int, residuals: int, kind: str) -> None:
    """Steps of a network under an equality; seconds, solver steps, violation, peak."""
    keys = jax.random.split(jax.random.key(0), 6)
    shapes = [(width, 784), *[(width, width)] * 3, (residuals // 100, width)]
    params = [
        jax.random.normal(k, s, jnp.float32) * (2 / s[1]) ** 0.5
        for k, s in zip(keys, shapes, strict=False)
    ]
    x = jax.random.normal(keys[5], (256, 784), jnp.float32)

    def model(params: Any, x: jax.Array) -> jax.Array:
        for w in params[:-1]:
            x = jax.nn.relu(x @ w.T)
        return x @ params[-1].T

    target = model(params, x[:100]) * 0.9
    constraint = lf.Equality(lambda p: model(p, x[:100]) - target)
    optimizer = optax.adam(1e-5)
    if kind == "constrained":
        solver = lf.LSMR(rtol=1e-2, max_steps=20)
        optimizer = lf.null_space(optimizer, constraint, solver=solver)
    state = jax.jit(optimizer.init)(params)

    def step(params: Any, state: Any) -> Any:
        gradient = jax.grad(lambda p: jnp.mean(model(p, x) ** 2))(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    step = jax.jit(step, donate_argnums=(0, 1)).lower(params, state).compile()
    before = float(constraint.violation(params))
    params, state = jax.block_until_ready(step(params, state))
    start = time.perf_counter()
    params, state = jax.block_until_ready(step(params, state))
    seconds = time.perf_counter() - start
    steps = int(state.num_steps) if kind == "constrained" else 0
    after = float(eqx.filter_jit(constraint.violation)(params))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    count = sum(p.size for p in params)
    print(count, seconds, steps, before, after, peak)


def main(*, quick: bool) -> None:
    size = 5_000_000 if quick else 50_000_000
    print(f"\n{size / 1e6:g} million parameters, float32, the update alone.\n")
    sparsity(size)
    width, residuals = (1000, 100) if quick else (WIDTH, RESIDUALS)
    print(
        f"\nA network with {residuals} equations on its outputs, a batch of 256, the "
        "second step; each in a process of its own.\n"
    )
    rows = []
    for kind in ("unconstrained", "constrained"):
        out = subprocess.run(
            [sys.executable, "-m", __spec__.name, str(width), str(residuals), kind],
            check=True,
            capture_output=True,
            text=True,
        )
        count, seconds, steps, before, after, peak = map(float, out.stdout.split())
        bar = at_most(peak, MEMORY_BAR) if kind == "constrained" else ""
        row = [kind, count / 1e6, seconds, int(steps), before, after, peak, bar]
        rows.append(row)
    names = ["", "million", "seconds", "solver steps"]
    table([*names, "|c| before", "|c| after two steps", "peak GiB", "bar"], rows)


if __name__ == "__main__":
    child(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
