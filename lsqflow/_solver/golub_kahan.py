"""Solvers that are a short recurrence on the Golub–Kahan process."""

import abc
import dataclasses
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from equinox import AbstractVar
from jaxtyping import Array, Float, Int

from .. import _tree as tree
from .._krylov.dual import finished_dual
from .._krylov.estimates import Estimates
from .._krylov.golub_kahan import GolubKahan, Pair
from .._krylov.packed import Packed
from .._outcome import StopReason, is_failure
from .._problem.problem import Problem
from .._solution import PrimalDual
from .._tree import Vector
from .arguments import require_count, require_tolerance
from .base import Stats
from .loop import AbstractIterativeSolver, Steps, stopped
from .verdict import NOISE, Evidence, Tolerances, gather, verdict

Scalar = Float[Array, ""]


@runtime_checkable
class Vectors(Protocol):
    """What a recurrence carries: the iterate `(x, y)`, and whatever it needs."""

    @property
    def iterate(self) -> Pair:
        """`(x_k, y_k)`."""
        ...


_Scalars = TypeVar("_Scalars")
_Vectors = TypeVar("_Vectors", bound=Vectors)


class GolubKahanState(eqx.Module, Generic[_Scalars, _Vectors]):
    """The process and the recurrence after `num_steps` steps."""

    process: GolubKahan
    scalars: Packed
    vectors: _Vectors
    num_steps: Int[Array, ""]
    reason: StopReason
    norms: tuple[Scalar, Scalar]
    vector_norm: Scalar
    first_normal_norm: Scalar


class AbstractGolubKahanSolver(
    AbstractIterativeSolver[GolubKahanState], Generic[_Scalars, _Vectors]
):
    """A solver that is a short recurrence on the Golub–Kahan process.

    Subclass it with five methods and five fields. `advance` turns the scalars `alpha`
    and `beta` of the process into coefficients. `combine` combines pairs of vectors
    with them. `first_scalars` and `first_vectors` begin, and `estimates` tells the
    stopping rules what the scalars know. None of the five touches the operator, and the
    loop is inherited. [`lsqflow.LSQR`][] is an example.
    """

    rtol: AbstractVar[float | Float[Array, ""] | None]
    atol: AbstractVar[float | Float[Array, ""]]
    max_steps: AbstractVar[Steps | None]
    conlim: AbstractVar[float | Float[Array, ""] | None]
    history: AbstractVar[int]

    def __check_init__(self) -> None:
        for name in ("rtol", "atol", "conlim"):
            require_tolerance(name, getattr(self, name))
        for name in ("max_steps", "history"):
            require_count(name, getattr(self, name))

    @abc.abstractmethod
    def first_scalars(self, alpha: Scalar, beta: Scalar) -> _Scalars:
        """The scalars before the first step, from `α₁` and `β₁`."""

    @abc.abstractmethod
    def first_vectors(self, pair: Pair) -> _Vectors:
        """The vectors before the first step, from `(v₁, q₁)`; `iterate` is zero."""

    @abc.abstractmethod
    def advance(
        self, old: _Scalars, alpha: Scalar, beta: Scalar, damp: Scalar | None
    ) -> tuple[_Scalars, tuple[Scalar, ...]]:
        """The next scalars and the coefficients, from `α_{k+1}` and `β_{k+1}`."""

    @abc.abstractmethod
    def combine(
        self, old: _Vectors, coefficients: tuple[Scalar, ...], pair: Pair
    ) -> _Vectors:
        """The next vectors, linear in the old ones and in `(v_{k+1}, q_{k+1})`."""

    @abc.abstractmethod
    def estimates(self, scalars: _Scalars) -> Estimates:
        """Norms and condition, as the stopping rules want them."""

    def tolerances(self, problem: Problem) -> Tolerances:
        """The tolerances of the solver, with the defaults for a problem's precision."""
        return Tolerances.of(problem, self.rtol, self.atol)

    def with_arrays(self) -> Any:
        """The same solver, numbers as arrays: other tolerances compile nothing."""
        changed: Any = {
            name: jnp.asarray(value, float)
            for name in ("rtol", "atol", "conlim")
            if isinstance(value := getattr(self, name), int | float)
        }
        if isinstance(self.max_steps, int):
            most = min(self.max_steps, jnp.iinfo(jnp.int32).max)
            changed["max_steps"] = jnp.asarray(most, jnp.int32)
        return dataclasses.replace(self, **changed)

    def start(self, problem: Problem) -> GolubKahanState:
        process = GolubKahan.start(problem.operator, problem.vector)
        alpha, beta = process.alpha, process.beta
        reason = StopReason.where(
            alpha * beta == 0, StopReason.trivial, StopReason.running
        )
        finite = jnp.isfinite(alpha)
        if problem.damp is not None:
            finite &= jnp.isfinite(problem.damp)
        return GolubKahanState(
            process=process,
            scalars=Packed.of(self.first_scalars(alpha, beta)),
            vectors=self.first_vectors(process.pair),
            num_steps=jnp.zeros((), jnp.int32),
            reason=StopReason.where(finite, reason, StopReason.nonfinite_input),
            norms=(beta, alpha * beta),
            vector_norm=beta,
            first_normal_norm=alpha * beta,
        )

    def step(self, problem: Problem, state: GolubKahanState) -> GolubKahanState:
        process = state.process.step(problem.operator)
        scalars, coefficients = self.advance(
            state.scalars.unpack(), process.alpha, process.beta, problem.damp
        )
        vectors = self.combine(state.vectors, coefficients, process.pair)
        now = self.estimates(scalars)
        return dataclasses.replace(
            state,
            process=process,
            scalars=Packed.of(scalars),
            vectors=vectors,
            num_steps=state.num_steps + 1,
            reason=self._reason(problem, now, vectors.iterate.v, state.vector_norm),
            norms=(now.residual_norm, now.normal_residual_norm),
        )

    def resume(self, problem: Problem, state: GolubKahanState) -> GolubKahanState:
        now = self.estimates(state.scalars.unpack())
        x = state.vectors.iterate.v
        reason = self._reason(problem, now, x, state.vector_norm)
        final = (state.num_steps == 0) | (state.reason == StopReason.trivial)
        final |= state.reason == StopReason.nonfinite_input
        return dataclasses.replace(
            state, reason=StopReason.where(final, state.reason, reason)
        )

    def _reason(
        self, problem: Problem, now: Estimates, x: Vector, vector_norm: Scalar
    ) -> StopReason:
        evidence = Evidence(
            residual_norm=now.residual_norm,
            normal_residual_norm=now.normal_residual_norm,
            solution_norm=tree.norm(x),
            vector_norm=vector_norm,
            operator_norm=now.operator_norm,
        )
        conlim = 0.1 / problem.eps if self.conlim is None else self.conlim
        limit = jnp.asarray(conlim, now.largest.dtype) * now.smallest
        reason = self.tolerances(problem).reason(evidence)
        ill = (now.largest >= limit) & (reason == StopReason.running)
        reason = StopReason.where(ill, StopReason.condition_limit, reason)
        finite = jnp.isfinite(now.normal_residual_norm)
        return StopReason.where(finite, reason, StopReason.nonfinite)

    def finish(
        self, problem: Problem, state: GolubKahanState
    ) -> tuple[PrimalDual, Stats]:
        x, y = state.vectors.iterate
        known = self.estimates(state.scalars.unpack())
        residual = problem.residual(x)
        now = gather(
            problem,
            x,
            residual=residual,
            gradient=problem.gradient(x, residual),
            operator_norm=known.operator_norm,
            inverse_norm=known.inverse_norm,
        )
        tolerances = self.tolerances(problem)
        claim = stopped(state)
        reason = verdict(
            claim, now, tolerances, first_normal_norm=state.first_normal_norm
        )
        dual = finished_dual(
            problem,
            y,
            residual,
            inconsistent=~is_failure(claim) & tolerances.inconsistent(now),
            noise=NOISE * problem.rounding(x, known.operator_norm),
        )
        return PrimalDual(x, dual, residual), {
            "num_steps": state.num_steps,
            "residual_norm": tree.norm(residual),
            "normal_residual_norm": now.normal_residual_norm,
            "operator_norm": known.operator_norm,
            "condition": known.condition,
            "relative_error": now.relative_error,
            "stop_reason": reason,
        }


def with_arrays(tree_of_solvers: Any) -> Any:
    """A pytree with the numbers of all solvers in it as arrays."""
    is_ours = lambda x: isinstance(x, AbstractGolubKahanSolver)
    leaf = lambda x: x.with_arrays() if is_ours(x) else x
    return jax.tree.map(leaf, tree_of_solvers, is_leaf=is_ours)
