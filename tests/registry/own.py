"""Operators as users write them: subclasses with two methods, or one more."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp

import lsqflow as lf

from .entry import Entry, array, kernel2d, matrix
from .families import network


class Blur(lf.AbstractOperator):
    """That of the README, word for word but for annotations."""

    kernel: jax.Array
    shape: tuple[int, int] = eqx.field(static=True)

    def mv(self, image):
        return jax.scipy.signal.convolve2d(image, self.kernel, mode="same")

    def in_structure(self):
        return jax.ShapeDtypeStruct(self.shape, self.kernel.dtype)


class OwnTranspose(lf.AbstractOperator):
    """With a transposed product of its own."""

    entries: jax.Array

    def mv(self, vector):
        return self.entries @ vector

    def rmv(self, vector):
        return self.entries.T @ vector

    def in_structure(self):
        return jax.ShapeDtypeStruct(self.entries.shape[1:], self.entries.dtype)


class Split(lf.AbstractOperator):
    """From a dictionary with an image inside to a pair."""

    entries: jax.Array

    def mv(self, vector):
        x = jnp.concatenate([vector["image"].ravel(), vector["offset"][None]])
        out = self.entries @ x
        return out[:3], {"rest": out[3:]}

    def in_structure(self):
        dtype = self.entries.dtype
        return {
            "image": jax.ShapeDtypeStruct((2, 2), dtype),
            "offset": jax.ShapeDtypeStruct((), dtype),
        }


class Learned(lf.AbstractOperator):
    """A matrix whose entries a network computes: leaves that are no arrays."""

    network: eqx.nn.MLP
    rows: jax.Array
    columns: jax.Array

    def matrix(self):
        gap = self.rows[:, None] - self.columns[None, :]
        shape = gap.shape[:2]
        entries = jax.vmap(self.network)(gap.reshape(-1, gap.shape[-1]))
        return entries.reshape(shape) / 8 + jnp.eye(*shape, dtype=entries.dtype)

    def mv(self, vector):
        return self.matrix() @ vector

    def in_structure(self):
        return jax.ShapeDtypeStruct(self.columns.shape[:1], self.columns.dtype)


class StaticLeaves(lf.AbstractOperator):
    """Leaves that are no arrays, and nobody declared them static."""

    entries: jax.Array
    activation: Callable
    mode: str
    power: int
    gain: float

    def mv(self, vector):
        weights = self.activation(self.entries) ** self.power * self.gain
        return weights @ vector if self.mode == "plain" else weights.T @ vector

    def in_structure(self):
        return jax.ShapeDtypeStruct(self.entries.shape[1:], self.entries.dtype)


class WeakLeaf(lf.AbstractOperator):
    """A weakly typed leaf, as `jnp.asarray(1.5)` makes it."""

    entries: jax.Array
    gain: jax.Array

    def mv(self, vector):
        return jnp.tanh(self.gain) * (self.entries @ vector)

    def in_structure(self):
        return jax.ShapeDtypeStruct(self.entries.shape[1:], self.entries.dtype)


def _learned(seed, dtype):
    rows, columns = array(seed, (7, 2), dtype), array(seed + 1, (5, 2), dtype)
    return Learned(network(seed, dtype), rows, columns)


def _static_leaves(seed, dtype):
    entries = 2 * matrix(seed, (7, 5), dtype) + jnp.eye(7, 5, dtype=dtype)
    return StaticLeaves(entries, jax.nn.softplus, "plain", 2, 1.5)


def _weak_leaf(seed, dtype):
    return WeakLeaf(matrix(seed, (7, 5), dtype), jnp.asarray(1.5 + seed / 8))


def _pytrees(seed, dtype):
    """Tall, from a dictionary to a pair."""
    return Split(matrix(seed, (7, 5), dtype))


OWN = {
    "README's blur": Entry(lambda s, t: Blur(kernel2d(s, t), (3, 4))),
    "own transpose": Entry(lambda s, t: OwnTranspose(matrix(s, (7, 5), t))),
    "pytrees": Entry(_pytrees),
    "network": Entry(_learned),
    "static leaves": Entry(_static_leaves),
    "weakly typed leaf": Entry(_weak_leaf),
}
