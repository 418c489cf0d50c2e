"""How residuals fell during a solve, as a picture."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ._iterate import Iteration
from ._solution import Solution


def plot_convergence(
    histories: Iteration | Solution | Mapping[str, Any], axes: Any
) -> None:
    """Draw both residual norms over the steps, on logarithmic axes of matplotlib.

    **Arguments:**

    - `histories`: an [`lsqflow.Iteration`][], or an [`lsqflow.Solution`][] of a solver
        with `history=k`. To compare several, a dictionary from labels to these.
    - `axes`: two axes of matplotlib. The first gets ‖r‖, the second ‖Aᴴ r − λ² x‖.

    **Raises:** `ValueError` for a solution without a history.
    """
    if not isinstance(histories, Mapping):
        histories = {"": histories}
    names = ("residual_norm", "normal_residual_norm")
    for label, run in histories.items():
        history = _history_of(run)
        for axis, name in zip(axes, names, strict=True):
            axis.semilogy(history["num_steps"], history[name], label=label or None)
    for axis, title in zip(axes, ("‖r‖", "‖Aᴴ r − λ² x‖"), strict=True):
        axis.set(xlabel="step", title=title)
        if list(histories) != [""]:
            axis.legend()


def _history_of(run: Iteration | Solution) -> dict[str, Any]:
    if isinstance(run, Iteration):
        return run.history
    if "history" not in run.stats:
        raise ValueError(
            "This solution has no history. Solve with `lsqflow.LSMR(history=k)`, which "
            "keeps the last k norms, or with `lsqflow.iterate`, which keeps all."
        )
    history = run.stats["history"]
    rows, last = len(history["residual_norm"]), int(run.stats["num_steps"])
    return {"num_steps": np.arange(last - rows + 1, last + 1), **history}
