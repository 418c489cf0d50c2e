"""What NumPy says: dense matrices from products, and what follows from them."""

import dataclasses
import itertools
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .. import helpers


def wide(x):
    """An array of NumPy in double precision, also from half precision."""
    x = np.asarray(x)
    kind = np.complex128 if np.iscomplexobj(x) else np.float64
    return x.astype(kind)


def flat(tree, split=False):
    """The entries of a pytree of arrays; or, of complex ones, both of their parts."""
    parts = []
    for x in (wide(leaf).ravel() for leaf in jax.tree.leaves(tree)):
        parts += [x.real, x.imag] if split and np.iscomplexobj(x) else [x]
    return np.concatenate(parts) if parts else np.zeros(0)


def mixed(*ends):
    """Whether some arrays are real and others complex: linear over the reals alone."""
    return len({jnp.iscomplexobj(x) for x in jax.tree.leaves(ends)}) > 1


def structures(operator):
    """Of input and output; of arrays and sparse matrices as well."""
    if hasattr(operator, "in_structure"):
        return operator.in_structure(), operator.out_structure()
    rows, columns = operator.shape
    return tuple(
        jax.ShapeDtypeStruct((n,), jnp.dtype(operator.dtype)) for n in (columns, rows)
    )


@eqx.filter_jit
def _product(operator, vector):
    return operator.mv(vector)


def dense(operator):
    """The matrix: a product with each unit vector, put together by NumPy."""
    if not hasattr(operator, "mv"):
        if hasattr(operator, "tocsr"):
            return wide(operator.toarray())
        return wide(operator.todense() if hasattr(operator, "todense") else operator)
    split = mixed(*structures(operator))
    leaves, treedef = jax.tree.flatten(operator.in_structure())
    columns = []
    for i, leaf in enumerate(leaves):
        units = (1, 1j) if split and jnp.iscomplexobj(leaf) else (1,)
        for unit, k in itertools.product(units, range(math.prod(leaf.shape))):
            vector = [np.zeros(x.shape, x.dtype) for x in leaves]
            vector[i].reshape(-1)[k] = unit
            vector = jax.tree.unflatten(treedef, [jnp.asarray(u) for u in vector])
            columns.append(flat(_product(operator, vector), split))
    return np.stack(columns, axis=1)


def vector_like(seed, structure):
    """A random vector."""
    leaves, treedef = jax.tree.flatten(structure)
    generator = helpers.rng(1000 + seed)
    made = []
    for leaf in leaves:
        exact = (
            np.complex128 if jnp.issubdtype(leaf.dtype, jnp.complexfloating) else float
        )
        x = helpers.normal(generator, leaf.shape, np.dtype(exact))
        made.append(jnp.asarray(x).astype(leaf.dtype))
    return jax.tree.unflatten(treedef, made)


@dataclasses.dataclass(frozen=True)
class Problem:
    """An operator, a vector, and the answer."""

    operator: Any
    vector: Any
    matrix: np.ndarray
    answer: np.ndarray
    tolerance: float

    @property
    def full_rank(self) -> bool:
        return self.rank == min(self.matrix.shape)

    @property
    def rank(self) -> int:
        return _spectrum(self.matrix, self.eps)[0]

    @property
    def condition(self) -> float:
        return _spectrum(self.matrix, self.eps)[1]

    @property
    def eps(self) -> float:
        return coarsest_eps(structures(self.operator))

    @property
    def is_vector(self) -> bool:
        """Whether input and output are arrays of one dimension."""
        ends = structures(self.operator)
        return all(isinstance(x, jax.ShapeDtypeStruct) and x.ndim == 1 for x in ends)

    @property
    def same_ends(self) -> bool:
        """Whether input and output are the same space."""
        return structures(self.operator)[0] == structures(self.operator)[1]

    @property
    def mixed(self) -> bool:
        return mixed(*structures(self.operator))

    def error(self, got, vector=None):
        """Relative, of the answer for this vector or another one."""
        answer = self.answer
        if vector is not None:
            answer = least_squares(self.matrix, flat(vector, self.mixed), self.eps)
        return helpers.relative_error(flat(got, self.mixed), answer)


def assert_structure(got, want):
    """The same pytree of the same shapes and dtypes."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for x, like in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert (x.shape, x.dtype) == (like.shape, like.dtype)


def coarsest_eps(structure):
    return max(float(jnp.finfo(x.dtype).eps) for x in jax.tree.leaves(structure))


def _cut(eps):
    """Smaller singular values are zero: those that count are above a thirtieth."""
    return min(100 * eps**0.9, 0.01)


def _spectrum(matrix, eps):
    values = np.linalg.svd(matrix, compute_uv=False)
    kept = values[values > _cut(eps) * max(values[0], 1e-300)]
    return len(kept), (kept[0] / kept[-1] if len(kept) else 1.0)


def least_squares(matrix, vector, eps):
    """The least-squares solution of least norm."""
    return np.linalg.lstsq(matrix, vector, rcond=_cut(eps))[0]


def exact_problem(entry, seed):
    """In double precision, also of an entry that is half precision whatever is asked.

    The vector is that of the problem in the other precision, up to rounding.
    """
    if not entry.half:
        return problem(entry, seed, np.float64)
    wider = lambda x: x.astype(jnp.float64)
    make = lambda *args: jax.tree.map(wider, entry.make(*args))
    return problem(dataclasses.replace(entry, make=make), seed, np.float64)


def problem(entry, seed, dtype):
    """The problem of an entry for one seed."""
    operator = entry.make(seed, np.dtype(dtype))
    source, target = structures(operator)
    eps = coarsest_eps((source, target))
    vector = vector_like(seed, target)
    matrix = dense(operator)
    answer = least_squares(matrix, flat(vector, mixed(source, target)), eps)
    condition = _spectrum(matrix, eps)[1]
    # The default tolerance of solvers is eps to the three quarters.
    tolerance = min(20 * condition * eps**0.75, 0.1)
    return Problem(operator, vector, matrix, answer, tolerance)


def slope(problem, weight, moves):
    """The derivative of Re Σ weight · x along one direction, by central differences.

    Returns it, and the direction: in the operator's leaves, and in the vector.
    """
    moving, fixed = eqx.partition(problem.operator, eqx.is_inexact_array)
    step, weight = 1e-5, flat(weight)
    along = jax.tree.map(jnp.zeros_like, moving)
    if moves:
        along = vector_like(11, jax.eval_shape(lambda x: x, moving))
    direction = along, vector_like(12, jax.eval_shape(lambda x: x, problem.vector))

    def loss(t):
        moved, vector = jax.tree.map(
            lambda x, d: x + (t * d).astype(x.dtype),
            (moving, problem.vector),
            direction,
        )
        matrix = dense(eqx.combine(moved, fixed))
        vector = flat(vector, problem.mixed)
        x = least_squares(matrix, vector, problem.eps)
        if problem.mixed and len(x) != len(weight):
            x = x[: len(x) // 2] + 1j * x[len(x) // 2 :]
        return np.sum(np.real(weight * x))

    return (loss(step) - loss(-step)) / (2 * step), direction
