"""Interleaved timing: competitors take turns, so that noise falls on all alike."""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Times(NamedTuple):
    """Seconds, one a round, in the order of the rounds."""

    rounds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def best(self) -> float:
        return min(self.rounds)

    def over(self, other: "Times") -> float:
        """The median over rounds of the ratio within a round."""
        pairs = zip(self.rounds, other.rounds, strict=True)
        return statistics.median(a / b for a, b in pairs)


def interleave(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, Times]:
    """Time each call once a round, A B C A B C …

    Before each timed call the same call runs untimed: caches and threads of the one
    before (NumPy's BLAS spins for a while) must not tell on the next in turn.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            jax.block_until_ready(call())
            start = time.perf_counter()
            jax.block_until_ready(call())
            times[name].append(time.perf_counter() - start)
    return {name: Times(t) for name, t in times.items()}


def compile_times(
    makers: dict[str, Callable[[], Any]], args: tuple[Any, ...], rounds: int
) -> dict[str, Times]:
    """Time tracing, lowering and compiling, from new functions and empty caches."""

    def compile_once(make: Callable[[], Any]) -> Callable[[], None]:
        def call() -> None:
            jax.jit(make()).lower(*args).compile()

        return call

    times: dict[str, list[float]] = {name: [] for name in makers}
    for i in range(rounds + 1):
        for name, make in makers.items():
            jax.clear_caches()
            call = compile_once(make)
            start = time.perf_counter()
            call()
            if i:  # the first round imports and warms up
                times[name].append(time.perf_counter() - start)
    return {name: Times(t) for name, t in times.items()}
