"""What `lsqflow.testing.check_operator` checks."""

import functools as ft
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np

from . import _tree as tree
from ._lstsq import lstsq
from ._operator.base import AbstractOperator
from ._operator.display import brief
from ._solver.lsmr import LSMR
from ._tree import Vector

# Beyond this size the matrix is not formed, and the checks that need it are left out.
_SMALL = 256


def _require(condition: Any, message: str) -> None:
    """`assert`, also under `python -O`."""
    if not condition:
        raise AssertionError(message)


class Subject:
    """An operator, random vectors for it, and its products with them."""

    def __init__(self, operator: AbstractOperator, rng: np.random.Generator) -> None:
        self.operator, self.rng = operator, rng
        self.ends = operator.in_structure(), operator.out_structure()
        self.x, self.z = self.draw(self.ends[0]), self.draw(self.ends[0])
        self.u = self.draw(self.ends[1])
        self.eps = float(jnp.finfo(tree.storage_dtype(self.ends)).eps)
        self.size = max(map(tree.size, self.ends))
        # Between real and complex vectors an operator is linear over the reals only.
        self.over_reals = len(set(map(tree.is_complex, self.ends))) > 1
        self.parameters, self.static = eqx.partition(operator, eqx.is_inexact_array)
        self.traces = 0
        self.products = eqx.filter_jit(self._products)

    def draw(self, structure: Any) -> Vector:
        """A standard normal vector."""

        def leaf(s: Any) -> Any:
            x = self.rng.standard_normal(s.shape)
            if jnp.issubdtype(s.dtype, jnp.complexfloating):
                x = x + 1j * self.rng.standard_normal(s.shape)
            return jnp.asarray(x, s.dtype)

        return jax.tree.map(leaf, structure)

    def _products(self, parameters: Any, x: Vector, z: Vector, u: Vector) -> Any:
        """All products that the checks compare, in one compilation."""
        self.traces += 1
        op = eqx.combine(parameters, self.static)
        hoisted = op.linearise()
        two = jnp.full((), 2, tree.scalar_dtype(x))
        pair = jax.tree.map(lambda *leaves: jnp.stack(leaves), x, z)
        return {
            "A x": op.mv(x),
            "A z": op.mv(z),
            "A (x + 2 z)": op.mv(tree.axpy(two, z, x)),
            "Aᵀ u": op.rmv(u),
            "Aᴴ u": op.adjoint_mv(u),
            "T.mv": op.T.mv(u),
            "T.rmv": op.T.rmv(x),
            "H.mv": op.H.mv(u),
            "conj.mv": tree.conj(op.conj().mv(tree.conj(x))),
            "linearise().mv": hoisted.mv(x),
            "linearise().rmv": hoisted.rmv(u),
            "vmap(mv)": jax.vmap(op.mv)(pair),
        }

    @ft.cached_property
    def got(self) -> dict[str, Any]:
        """The products with the operator as it is."""
        return self.products(self.parameters, self.x, self.z, self.u)

    @ft.cached_property
    def matrix(self) -> np.ndarray | None:
        """The matrix, if there is one and it is small."""
        if self.size > _SMALL or not self.size or self.over_reals:
            return None
        return np.asarray(eqx.filter_jit(lambda op: op.as_matrix())(self.operator))

    def close(self, got: Any, want: Any, what: str, digits: float = 1) -> None:
        """Require equality up to rounding, or in a part of the digits."""
        shapes = [brief(tree.structure(x)) for x in (got, want)]
        what += " is wrong:"
        _require(shapes[0] == shapes[1], f"{what} {shapes[0]} instead of {shapes[1]}.")
        bound = (100 * max(self.size, 1) ** 0.5 * self.eps) ** digits
        error = np.linalg.norm(_flat(got) - _flat(want))
        error /= np.linalg.norm(_flat(want)) or 1.0
        _require(error <= bound, f"{what} relative error {error:.1e}.")


def require_linear(operator: AbstractOperator, rng: np.random.Generator) -> None:
    """Linearity alone, where products fail.

    What is not linear has no transpose. JAX says so of a step inside of `mv`.
    """
    subject = Subject(operator, rng)
    two = jnp.full((), 2, tree.scalar_dtype(subject.x))
    Ax, Az = operator.mv(subject.x), operator.mv(subject.z)
    got = operator.mv(tree.axpy(two, subject.z, subject.x))
    subject.close(got, tree.axpy(two, Az, Ax), "`mv` is not linear: `mv(x + 2 z)`")


def require_structures(operator: AbstractOperator) -> None:
    """Structures and dtypes, on which all other checks rest."""
    source, target = operator.in_structure(), operator.out_structure()
    for name, product, start, end in (
        ("mv", operator.mv, source, target),
        ("rmv", operator.rmv, target, source),
    ):
        got = brief(tree.structure(jax.eval_shape(product, start)))
        said = "out_structure" if name == "mv" else "in_structure"
        _require(
            got == brief(tree.structure(end)),
            f"`{name}` returns {got}, but `{said}` says {brief(end)}.",
        )


def _linear(subject: Subject) -> None:
    """Linearity."""
    got, Ax, Az = (_flat(subject.got[k]) for k in ("A (x + 2 z)", "A x", "A z"))
    subject.close(got, Ax + 2 * Az, "`mv(x + 2 z)`")


def _adjoint(subject: Subject) -> None:
    """The dot test, ⟨A x, u⟩ = ⟨x, Aᴴ u⟩."""
    Ax, Au = _flat(subject.got["A x"]), _flat(subject.got["Aᴴ u"])
    x, u = _flat(subject.x), _flat(subject.u)
    scale = np.linalg.norm(Ax) * np.linalg.norm(u)
    scale += np.linalg.norm(Au) * np.linalg.norm(x)
    error = abs(np.vdot(u, Ax).real - np.vdot(Au, x).real) / (scale or 1.0)
    bound = 10 * subject.eps * max(subject.size, 1) ** 0.5
    _require(error <= bound, f"`rmv` is not the transpose: relative error {error:.1e}.")


def _views(subject: Subject) -> None:
    """Transposed, adjoint, conjugated and linearised operators."""
    for name, want in (
        ("T.mv", "Aᵀ u"),
        ("T.rmv", "A x"),
        ("H.mv", "Aᴴ u"),
        ("conj.mv", "A x"),
        ("linearise().mv", "A x"),
        ("linearise().rmv", "Aᵀ u"),
    ):
        subject.close(subject.got[name], subject.got[want], f"`{name}`")


def _transformations(subject: Subject) -> None:
    """`vmap` and recompilation."""
    parameters = subject.parameters
    pair = [subject.got["A x"], subject.got["A z"]]
    want = jax.tree.map(lambda *leaves: np.stack(leaves), *pair)
    subject.close(subject.got["vmap(mv)"], want, "`vmap(mv)`")
    # A multiple by a Python number is weakly typed where the leaf is.
    other = jax.tree.map(lambda p: p * 1.5, parameters)
    subject.products(other, subject.x, subject.z, subject.u)
    again = f"new values of the leaves traced again ({subject.traces} times)."
    _require(subject.traces == 1, again)


def _as_matrix(subject: Subject) -> None:
    """`as_matrix`."""
    matrix = subject.matrix
    if matrix is None:
        return
    x, u = _flat(subject.x), _flat(subject.u)
    _require(matrix.shape == (len(u), len(x)), f"its shape is {matrix.shape}.")
    subject.close(matrix @ x, _flat(subject.got["A x"]), "`as_matrix() @ x`")
    subject.close(matrix.T @ u, _flat(subject.got["Aᵀ u"]), "`as_matrix().T @ u`")


def _derivatives(subject: Subject) -> None:
    """Derivatives in the leaves."""
    if not jax.tree.leaves(subject.parameters):
        return
    direction = subject.draw(subject.parameters)

    def products(parameters: Any) -> Any:
        op = eqx.combine(parameters, subject.static)
        return op.mv(subject.x), op.rmv(subject.u)

    weights = subject.draw((subject.ends[1], subject.ends[0]))

    @jax.jit
    def derivatives(step: Any) -> Any:
        ends = [
            products(tree.axpy(s * step, direction, subject.parameters))
            for s in (1, -1)
        ]
        difference = tree.scale(1 / (2 * step), tree.sub(*ends))
        _, tangent = jax.jvp(products, (subject.parameters,), (direction,))
        _, pull = jax.vjp(products, subject.parameters)
        (cotangent,) = pull(jax.tree.map(jnp.conj, weights))
        backward = tree.inner(tree.conj(cotangent), direction)
        return difference, tangent, tree.inner(weights, tangent), backward

    step = jnp.asarray(1e-6, tree.scalar_dtype(subject.parameters))
    difference, tangent, forward, backward = derivatives(step)
    if subject.eps < 1e-12:
        subject.close(tangent, difference, "`jvp` in the leaves", digits=0.5)
    scale = float(np.linalg.norm(_flat(weights)) * np.linalg.norm(_flat(tangent)))
    scale = scale or 1.0
    error = abs(float(forward) - float(backward)) / scale
    bound = 100 * subject.size**0.5 * subject.eps
    _require(error <= bound, f"`vjp` and `jvp` differ: relative error {error:.1e}.")


def solves(subject: Subject) -> None:
    """Solutions by lineax's QR and `lstsq`."""
    matrix = subject.matrix
    if matrix is None:
        return
    u, adjoint = _flat(subject.u), matrix.conj().T
    values = np.linalg.svd(matrix, compute_uv=False)
    regular = bool(values[-1] > 1e-3 * values[0] > 0)
    # Damping makes any problem well-posed, and quick.
    damp = 0.1 * float(values[0]) or 1.0

    @eqx.filter_jit
    def solve(operator: AbstractOperator, vector: Vector) -> tuple[Vector, Vector]:
        damped = lstsq(operator, vector, LSMR(), damp=damp).value
        direct = lx.linear_solve(operator, vector, lx.QR()).value if regular else damped
        return damped, direct

    damped, direct = map(_flat, solve(subject.operator, subject.u))
    gram = adjoint @ matrix + damp**2 * np.eye(len(damped), dtype=matrix.dtype)
    want = np.linalg.solve(gram, adjoint @ u).astype(damped.dtype)
    subject.close(damped, want, "the solution by `lstsq`", digits=0.5)
    if regular:
        want = (np.linalg.pinv(matrix) @ u).astype(direct.dtype)
        subject.close(direct, want, "the solution by QR", digits=0.5)


def _flat(vector: Any) -> Any:
    """The entries as one array of NumPy, where nothing needs to be compiled."""
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(vector)])


CHECKS = (
    _linear,
    _adjoint,
    _views,
    _transformations,
    _as_matrix,
    _derivatives,
)
