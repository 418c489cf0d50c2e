"""What kind of update an optimiser makes, found out by trying it on a small problem."""

import enum
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

from .moments import covers, moments_of


class Form(enum.Enum):
    """What an update is a diagonal multiple of."""

    moment = "the first moment (Adam and its family)"
    gradient = "past gradients (SGD, with momentum or without)"
    other = "neither"


def form_of(optimizer: optax.GradientTransformation) -> Form:
    """Try an optimiser on a small problem."""
    with jax.ensure_compile_time_eval():
        try:
            if _is_diagonal_in_moment(optimizer):
                return Form.moment
            if _is_linear_and_isotropic(optimizer):
                return Form.gradient
        except Exception:  # noqa: BLE001
            # It needs other parameters, or other arguments, than a small problem has.
            return Form.other
    return Form.other


# The small problem: a vector, and a matrix for optimisers that treat it differently.
_SHAPES = {"vector": (3,), "matrix": (2, 2)}


def _gradients(scale: float, seed: int) -> PyTree[Array]:
    random = np.random.default_rng(seed)
    return {
        name: jnp.asarray(scale * random.standard_normal(shape), jnp.float32)
        for name, shape in _SHAPES.items()
    }


def _is_diagonal_in_moment(optimizer: optax.GradientTransformation) -> bool:
    params = _gradients(1.0, 0)
    state = optimizer.init(params)
    if not covers(state, params):
        return False
    _, state = optimizer.update(_gradients(1.0, 1), state, params)
    moments, rebuild = moments_of(state)
    sizes = [m.size for m in moments]
    shapes = [m.shape for m in moments]

    def flat(vector: Array) -> Array:
        parts = jnp.split(vector, np.cumsum(sizes)[:-1])
        mu = [p.reshape(s) for p, s in zip(parts, shapes, strict=True)]
        update, _ = optimizer.update(_gradients(1.0, 2), rebuild(mu), params)
        return jnp.concatenate([u.ravel() for u in jax.tree.leaves(update)])

    at = jnp.concatenate([m.ravel() for m in moments])
    slope = np.asarray(jax.jacfwd(flat)(at))
    move = np.asarray(flat(2 * at) - flat(at))
    diagonal = np.diag(slope)
    return bool(
        np.all(diagonal < 0)
        and np.allclose(slope, np.diag(diagonal), atol=1e-5 * abs(diagonal).max())
        and np.allclose(move, diagonal * np.asarray(at), rtol=1e-3)
    )


def _is_linear_and_isotropic(optimizer: optax.GradientTransformation) -> bool:
    """Whether a shear of all gradients shears all updates, also of large ones."""
    shears = {name: _gradients(1.0, 7)["matrix"] for name in _SHAPES}
    shears["vector"] = jnp.asarray(
        np.random.default_rng(8).standard_normal((3, 3)), jnp.float32
    )

    def shear(vector: PyTree[Array]) -> PyTree[Array]:
        return jax.tree.map(jnp.matmul, vector, shears)

    def run(change: Callable[[Any], Any]) -> list[PyTree[Array]]:
        params = {name: jnp.zeros(s, jnp.float32) for name, s in _SHAPES.items()}
        state, moved = optimizer.init(params), []
        for seed, scale in enumerate((1.0, 1e6, 1.0)):
            gradients = change(_gradients(scale, seed))
            update, state = optimizer.update(gradients, state, params)
            moved.append(update)
        return moved

    plain, sheared = run(lambda g: g), run(shear)
    largest = max(float(jnp.max(abs(u))) for u in jax.tree.leaves(plain[0]))
    return largest > 0 and all(
        np.allclose(shear(u)[name], v[name], rtol=1e-3, atol=1e-3 * abs(v[name]).max())
        for u, v in zip(plain, sheared, strict=True)
        for name in _SHAPES
    )
