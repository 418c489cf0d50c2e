"""`fit`: a training loop for notebooks, with a progress bar, a history and a plot.

The bar needs tqdm, which the rest of the library does not.
"""

import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

from ..constraint.inputs import described, require_function
from .compiled import Compiled, numbers_as_arrays
from .inputs import require_optimizer, require_tuple
from .state import NullSpaceState, distinct

try:
    from tqdm.auto import tqdm
except ImportError:
    tqdm = None


class History:
    """The record of a training: NumPy arrays with one entry a step.

    **Attributes:**

    - `loss`: the loss before each step.
    - `violation`: that of the constraint before each step; None without a constraint.
    - `num_steps`: steps of the solver in each step; None without a constraint.
    - `seconds`: the time of the whole loop, compilation included.
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
        """Draw the loss and the violation.

        **Arguments:**

        - `axes`: two axes of matplotlib, such as `plt.subplots(1, 2)[1]`.
        - `label`: the name of the lines in legends.
        """
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

    ```python
    optimizer = lf.null_space(optax.adam(1e-2), constraint)
    params, state, history = lf.train.fit(loss, params, optimizer, steps=1000)
    ```

    **Arguments:**

    - `loss`: `loss(params, *batch)`, a scalar.
    - `params`: where to start: arrays, or a model of which the inexact arrays are
        trained. The constraint gets these arrays, with None in place of all else.
    - `optimizer`: an Optax optimizer, such as [`lsqflow.null_space`][].
    - `batches`: tuples of further arguments of the loss, one for each step. None for a
        loss of the parameters alone.
    - `steps`: the number of steps.
    - `constraint_args`: a function from a batch, `constraint_args(*batch)`, to the
        tuple of further arguments of the constraint. None if it has none.
    - `progress`: whether to show a bar. It needs tqdm.

    **Returns:** the parameters, the optimizer's state, and a
    [`History`][lsqflow.train.History].

    **Cost:** one step is compiled. Batches and losses that are new, but of the same
    shapes and code, compile nothing.

    **Raises:** `TypeError` or `ValueError` for arguments of the wrong kind. Warns if
    there are fewer batches than steps, and returns what there is by then.
    """
    _require(loss, optimizer, batches, steps, constraint_args)
    if progress and tqdm is None:
        raise ImportError(
            "The progress bar needs tqdm: `pip install tqdm`, or pass `progress=False`."
        )
    trained, static = eqx.partition(params, eqx.is_inexact_array)
    optimizer = optax.with_extra_args_support(optimizer)
    trained = jax.tree.map(jnp.asarray, trained)
    if not jax.tree.leaves(trained):
        raise ValueError(
            "`params` hold no floating-point array, so there is nothing to train; got "
            f"{described(params)}."
        )
    state = distinct(optimizer.init(trained))

    @Compiled
    def step(trained: Any, state: Any, batch: Any) -> tuple[Any, Any, Any]:
        def value_of(trained: Any) -> Array:
            value = loss(eqx.combine(trained, static), *batch)
            if jnp.shape(value) != ():
                raise ValueError(
                    f"`loss` must return a scalar; got {described(value)}. Take a mean."
                )
            return value

        value, gradient = jax.value_and_grad(value_of)(trained)
        extra = {}
        if constraint_args is not None:
            extra["constraint_args"] = constraint_args(*batch)
            require_tuple(extra["constraint_args"])
        updates, state = optimizer.update(gradient, state, trained, **extra)
        trained = optax.apply_updates(trained, updates)
        return trained, state, {"loss": value, **_constraint_of(state)}

    records, start = [], time.perf_counter()
    feed = _batches(batches, steps)
    bar = tqdm(feed, total=steps) if progress and tqdm is not None else None
    for batch in feed if bar is None else bar:
        trained, state, record = step(trained, state, batch)
        records.append(record)
        if bar is not None and len(records) % max(steps // 20, 1) == 0:
            bar.set_postfix({name: f"{float(x):.3g}" for name, x in record.items()})
    jax.block_until_ready(trained)
    history = History(records, time.perf_counter() - start)
    return eqx.combine(trained, static), state, history


def _require(
    loss: Any, optimizer: Any, batches: Any, steps: Any, constraint_args: Any
) -> None:
    """Raise a `TypeError` or `ValueError` for arguments of the wrong kind."""
    require_function(loss, "loss", "fit", "lambda params, x, y: ...")
    require_optimizer(optimizer)
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
        raise ValueError(
            f"`steps` must be an integer that is not negative; got {described(steps)}."
        )
    if not (batches is None or isinstance(batches, Iterable)):
        raise TypeError(
            "`batches` must be an iterable of tuples, or None for a loss of the "
            f"parameters alone; got {described(batches)}."
        )
    if constraint_args is not None:
        example = "lambda x, y: (x,)"
        require_function(constraint_args, "constraint_args", "fit", example)


def _batches(batches: Iterable[Any] | None, steps: int) -> Iterator[Any]:
    """One tuple for each step."""
    feed = None if batches is None else iter(batches)
    for count in range(steps):
        batch = () if feed is None else next(feed, None)
        if batch is None:
            warnings.warn(
                f"There were {count} batches for {steps} steps: training ended after "
                f"{count}. Pass `itertools.cycle(batches)` to use them again.",
                stacklevel=3,
            )
            return
        if not isinstance(batch, tuple):
            raise TypeError(
                "`batches` must yield tuples, the further arguments of the loss; got "
                f"{described(batch)}. For one argument, yield `(x,)`."
            )
        yield numbers_as_arrays(batch)


def _constraint_of(state: Any) -> dict[str, Array]:
    """The violation and the cost, where there is a constrained optimizer inside."""
    is_ours = lambda x: isinstance(x, NullSpaceState)
    for node in jax.tree.leaves(state, is_leaf=is_ours):
        if is_ours(node):
            return {"violation": node.violation, "num_steps": node.num_steps}
    return {}
