"""`fit`: a training loop for notebooks, with a progress bar, a history and a plot.

Nothing in the library depends on it; it needs tqdm: `pip install tqdm`.
"""

import itertools
import time
from collections.abc import Callable, Iterable
from typing import Any

import equinox as eqx
import jax
import numpy as np
import optax
from jaxtyping import Array, PyTree
from tqdm import tqdm

from .state import NullSpaceState


class History:
    """What was recorded during training: one entry a step, as NumPy arrays.

    **Attributes:**

    - `loss`: before each step.
    - `violation`: of the constraint, before each step; None without a constraint.
    - `num_steps`: of the solver in each step; None without a constraint.
    - `seconds`: the time of the whole loop, with compilation.
    """

    def __init__(self, records: list[dict[str, Array]], seconds: float) -> None:
        columns = {
            name: np.asarray([record[name] for record in records])
            for name in (records[0] if records else {"loss": None})
        }
        self.loss = columns["loss"]
        self.violation = columns.get("violation")
        self.num_steps = columns.get("num_steps")
        self.seconds = seconds

    def plot(self, axes: Any, label: str | None = None) -> None:
        """Draw loss and violation into two axes of matplotlib."""
        for axis, values, name in zip(
            axes, (self.loss, self.violation), ("loss", "violation"), strict=True
        ):
            if values is not None:
                axis.semilogy(values, label=label)
            axis.set(xlabel="step", ylabel=name)


def fit(
    loss: Callable[..., Array],
    params: PyTree[Any],
    optimizer: optax.GradientTransformation,
    batches: Iterable[tuple[Any, ...]] | None = None,
    *,
    steps: int,
    constraint_args: Callable[..., tuple[Any, ...]] | None = None,
    progress: bool = True,
) -> tuple[PyTree[Any], Any, History]:
    """Minimise a loss, step by step.

    **Arguments:**

    - `loss`: `loss(params, *batch)`, a scalar.
    - `params`: where to start: arrays, or a model of which the inexact arrays are
        trained. Constraints see the same with None in place of all else.
    - `optimizer`: an Optax optimiser, such as [`lsqflow.null_space`][].
    - `batches`: tuples of further arguments of the loss, at least as many as steps;
        None for a loss of the parameters alone.
    - `steps`: the number of steps.
    - `constraint_args`: from a batch to the further arguments of the constraint.
    - `progress`: whether to show a bar.

    **Returns:** the parameters, the optimiser's state, and a
    [`History`][lsqflow.train.fit.History].
    """
    trained, static = eqx.partition(params, eqx.is_inexact_array)
    optimizer = optax.with_extra_args_support(optimizer)
    state = optimizer.init(trained)

    @jax.jit
    def step(trained: Any, state: Any, batch: Any) -> tuple[Any, Any, Any]:
        value, gradient = jax.value_and_grad(
            lambda trained: loss(eqx.combine(trained, static), *batch)
        )(trained)
        extra = {}
        if constraint_args is not None:
            extra["constraint_args"] = constraint_args(*batch)
        updates, state = optimizer.update(gradient, state, trained, **extra)
        trained = optax.apply_updates(trained, updates)
        return trained, state, {"loss": value, **_constraint_of(state)}

    records, start = [], time.perf_counter()
    feed = itertools.repeat(()) if batches is None else batches
    bar = tqdm(itertools.islice(feed, steps), total=steps, disable=not progress)
    for batch in bar:
        trained, state, record = step(trained, state, batch)
        records.append(record)
        if progress and len(records) % max(steps // 20, 1) == 0:
            bar.set_postfix({name: f"{float(x):.3g}" for name, x in record.items()})
    jax.block_until_ready(trained)
    history = History(records, time.perf_counter() - start)
    return eqx.combine(trained, static), state, history


def _constraint_of(state: Any) -> dict[str, Array]:
    """The violation and cost that a constrained optimiser anywhere inside reports."""
    is_ours = lambda x: isinstance(x, NullSpaceState)
    for node in jax.tree.leaves(state, is_leaf=is_ours):
        if is_ours(node):
            return {"violation": node.violation, "num_steps": node.num_steps}
    return {}
