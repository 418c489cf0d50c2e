# %% [markdown]
# # Quickstart: deblur a photograph, and learn the blur
#
# A camera is out of focus, and nobody wrote down by how much. We undo the blur by
# least squares, and learn its width and the damping of the solve by gradient descent
# *through* the solver, from a picture that we know and the camera's photograph of it.
#
# `make demo` runs this file as a script; it takes about a minute on two cores.

# %%
import argparse
import os
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import skimage
from jaxtyping import Array, Float
from tqdm import tqdm

import lsqflow as lf

jax.config.update("jax_enable_x64", True)  # only the last check needs it

parser = argparse.ArgumentParser()
parser.add_argument("--out", type=Path, help="where to save the pictures")
OUT = parser.parse_known_args()[0].out  # a notebook has its own arguments, and no --out

REDUCED = os.environ.get("LSQFLOW_REDUCED") == "1"  # small and quick, to test this file
SIZE = 96 if REDUCED else 256
NUM_UPDATES = 5 if REDUCED else 30

MARGIN = 16  # pixels of the scene beyond each edge of the photograph
TRUE_WIDTH = 2.0  # of the blur, in pixels: what we want to find out
NOISE = 0.004  # one grey level of 256

# %% [markdown]
# ## The operator
#
# A custom operator is a class with `mv` and `in_structure`. Its arrays, here `width`,
# can be learned. There is no matrix: the blur is a product in Fourier space, and the
# transposed product follows by itself.
#
# - The scene is a little larger than the photograph: light blurs in from outside.
# - The unknown is not the scene itself but a `code`. Neighbouring pixels of a scene
#   are alike, over distances of about `smoothness` pixels; those of its code are not.
#   Damping the code then forbids fine grain sooner than broad shapes. With
#   `smoothness = 0` scene and code are the same.


# %%
class Blur(lf.AbstractOperator):
    """From the code of a scene to a photograph."""

    width: Float[Array, ""]
    shape: tuple[int, int] = eqx.field(static=True)
    smoothness: float = eqx.field(static=True)

    def in_structure(self):
        return jax.ShapeDtypeStruct(self.shape, self.width.dtype)

    def mv(self, code):
        return inside(self._filter(code, self.width))

    def scene(self, code):
        return inside(self._filter(code, 0.0))

    def _filter(self, code, width):
        rows, columns = self.shape
        y = jnp.fft.fftfreq(rows, dtype=code.dtype)[:, None]
        x = jnp.fft.rfftfreq(columns, dtype=code.dtype)[None, :]
        squared = x**2 + y**2
        smooth = 1 / jnp.sqrt(1 + self.smoothness**2 * squared)
        gaussian = jnp.exp(-2 * jnp.pi**2 * width**2 * squared)
        return jnp.fft.irfft2(gaussian * smooth * jnp.fft.rfft2(code), self.shape)


def inside(scene):
    return scene[MARGIN:-MARGIN, MARGIN:-MARGIN]


# %% [markdown]
# Is the transposed product really the transpose? One line tells. Do it for every new
# operator, above all for one with an `rmv` of its own.

# %%
key_check, key_photo, key_chart = jax.random.split(jax.random.key(0), 3)
print(lf.check_adjoint(Blur(jnp.float32(1.5), (SIZE, SIZE), 32.0), key=key_check))

# %% [markdown]
# ## The photograph
#
# We make it, so that we can judge the result: a Gaussian blur two pixels wide, and
# noise of one grey level.


# %%
def load(name):
    picture = skimage.util.img_as_float32(getattr(skimage.data, name)())
    picture = picture if picture.ndim == 2 else skimage.color.rgb2gray(picture)
    side = min(picture.shape)
    small = skimage.transform.resize(picture[:side, :side], (SIZE, SIZE))
    return jnp.asarray(small)


def take_photo(scene, key):
    sharp = Blur(jnp.float32(TRUE_WIDTH), scene.shape, smoothness=0.0)
    photo = sharp.mv(scene)
    return photo + NOISE * jax.random.normal(key, photo.shape, photo.dtype)


truth = load("camera")
photo = take_photo(truth, key_photo)

# %% [markdown]
# ## Solving
#
# `lf.lstsq` minimises ‖A x − b‖² + damp² ‖x‖². With hardly any damping and no notion of
# smoothness it fits the noise: even at the true width, the picture is lost. A guess at
# all three is no better than leaving the photograph alone.

# %%
solver = lf.LSMR(rtol=1e-5, max_steps=2000)


def deblur(photo, width, damp, smoothness=32.0, solver=solver, **options):
    shape = tuple(n + 2 * MARGIN for n in photo.shape)
    blur = Blur(jnp.asarray(width, photo.dtype), shape, smoothness)
    solution = lf.lstsq(blur, photo, solver, damp=damp, **options)
    return blur.scene(solution.value)


def psnr(picture):
    return -10 * np.log10(np.mean((np.asarray(picture) - inside(truth)) ** 2))


naive = deblur(photo, TRUE_WIDTH, damp=3e-3, smoothness=0.0)
guess = deblur(photo, width=1.0, damp=0.1)
print(f"blurred {psnr(photo):.1f} dB, naive {psnr(naive):.1f}, guess {psnr(guess):.1f}")

# %% [markdown]
# ## Learning through the solver
#
# Which width and which damping? We calibrate the camera: it photographs a second
# picture that we do have in sharp, and we ask that deblurring brings that one back. The
# truth of the first photograph is used only to score the result. (One could do without
# the second picture, and predict hidden pixels of the photograph. We tried: then the
# width comes out right only if `smoothness` happens to be right. With a sharp picture
# it does not matter much.)

# %%
chart = load("coffee")
chart_photo = take_photo(chart, key_chart)


def error(deblurred, scene):
    """Root mean square, in grey levels of 256."""
    return 255 * jnp.sqrt(jnp.mean((deblurred - inside(scene)) ** 2))


def loss(logs, scene, photo, **options):
    """How well deblurring works, given the logarithms of width and damping."""
    width, damp = jnp.exp(logs["width"]), jnp.exp(logs["damp"])
    return error(deblur(photo, width, damp, **options), scene)


# %% [markdown]
# Gradient descent is ordinary JAX and optax. The gradient passes through `lf.lstsq` at
# the price of one more solve, however many steps the solver takes.

# %%
value_and_grad = eqx.filter_jit(eqx.filter_value_and_grad(loss))
optimiser = optax.adam(optax.cosine_decay_schedule(0.3, NUM_UPDATES), b2=0.9)

logs = {"width": jnp.log(jnp.float32(1.0)), "damp": jnp.log(jnp.float32(0.1))}
state = optimiser.init(logs)
history = []
progress = tqdm(range(NUM_UPDATES), desc="learning", mininterval=1)
for _ in progress:
    value, gradient = value_and_grad(logs, chart, chart_photo)
    history.append((value, jnp.exp(logs["width"]), jnp.exp(logs["damp"])))
    progress.set_postfix(loss=f"{value:.2f}", refresh=False)
    updates, state = optimiser.update(gradient, state)
    logs = optax.apply_updates(logs, updates)

width, damp = jnp.exp(logs["width"]), jnp.exp(logs["damp"])
learned = deblur(photo, width, damp)

# %% [markdown]
# With the truth at hand, how well could any damping have done at the true width?

# %%
scan = {d: psnr(deblur(photo, TRUE_WIDTH, d)) for d in np.geomspace(1e-3, 3e-2, 9)}
best_damp = max(scan, key=scan.get)

# %%
figure = plt.figure(figsize=(10, 4.9), layout="constrained")
top, bottom = figure.subfigures(2, 1, height_ratios=(3, 2))
pictures = {
    "truth": inside(truth),
    "blurred": photo,
    "hardly any damping": naive,
    "learned": learned,
}
for axis, (title, picture) in zip(top.subplots(1, 4), pictures.items(), strict=True):
    axis.imshow(picture, cmap="gray", vmin=0, vmax=1)
    axis.set_title(title if title == "truth" else f"{title}: {psnr(picture):.1f} dB")
    axis.axis("off")

curves = zip(
    bottom.subplots(1, 3),
    ("error on the second picture", "width (dashed: true)", "damping (dashed: best)"),
    np.array(history).T,
    (None, TRUE_WIDTH, best_damp),
    strict=True,
)
for axis, title, curve, target in curves:
    axis.plot(curve)
    axis.set(title=title, xlabel="update")
    if target is not None:
        axis.axhline(target, color="gray", linestyle="--", linewidth=1)
if OUT is not None:
    OUT.mkdir(parents=True, exist_ok=True)
    figure.savefig(OUT / "deblur.png", dpi=92)

# %% [markdown]
# ## What does a gradient cost?
#
# The backward pass is one solve with the transposed operator. Its right-hand side is
# the gradient of the loss with respect to the code. We can run it by hand and see how
# many steps it takes.

# %%
blur = Blur(width, chart.shape, smoothness=32.0)
forward = lf.lstsq(blur, chart_photo, solver, damp=damp)
cotangent = jax.grad(lambda code: error(blur.scene(code), chart))(forward.value)
backward = lf.lstsq(blur.transpose(), cotangent, solver, damp=damp)
steps = int(forward.stats["num_steps"]), int(backward.stats["num_steps"])

# %% [markdown]
# Is that really all? An operator that counts its products tells. (On a corner of the
# picture and in float64, which the next check needs.)

# %%
small = chart[:96, :96].astype(jnp.float64)
small_photo = chart_photo[:64, :64].astype(jnp.float64)
small_logs = {name: log.astype(jnp.float64) for name, log in logs.items()}
num_products = 0


def count_product(number):
    global num_products  # noqa: PLW0603
    num_products += 1
    return np.zeros_like(number)


def counted(vector):
    """The vector as it is; each time it is computed, one product more is counted."""
    number = jax.lax.stop_gradient(vector[0, 0])
    return vector + jax.pure_callback(count_product, number, number)


class Counted(lf.AbstractOperator):
    """Counts the products with an operator and with its transpose."""

    operator: lf.AbstractOperator

    def mv(self, vector):
        return counted(self.operator.mv(vector))

    def rmv(self, vector):
        return counted(self.operator.rmv(vector))

    def in_structure(self):
        return self.operator.in_structure()

    def linearise(self):
        return self  # nothing may be precomputed: each product counts


def counted_loss(logs):
    blur = Blur(jnp.exp(logs["width"]), small.shape, smoothness=32.0)
    damp = jnp.exp(logs["damp"])
    solution = lf.lstsq(Counted(blur), small_photo, solver, damp=damp)
    return error(blur.scene(solution.value), small)


def count(function):
    global num_products  # noqa: PLW0603
    num_products = 0
    jax.block_until_ready(function(small_logs))
    return num_products


loss_products = count(counted_loss)
gradient_products = count(jax.value_and_grad(counted_loss))

# %% [markdown]
# And is it right? Central finite differences, in float64 and with tight tolerances.

# %%
tight = lf.LSMR(rtol=1e-12, max_steps=5000)
tight_loss = lambda logs: loss(logs, small, small_photo, solver=tight)
gradient = jax.grad(tight_loss)(small_logs)
gradient_error = {}
for name, log in small_logs.items():
    right, left = (tight_loss({**small_logs, name: log + h}) for h in (1e-4, -1e-4))
    difference = (right - left) / 2e-4
    gradient_error[name] = float(abs(difference / gradient[name] - 1))

# %% [markdown]
# The alternative is to differentiate every step of the solver, as plain automatic
# differentiation would. `lf.UnrolledAdjoint` does it, with checkpoints; it is meant for
# solves that are cut short on purpose.


# %%
def seconds(**options):
    times = []
    for _ in range(4):  # the first run compiles
        start = time.perf_counter()
        jax.block_until_ready(value_and_grad(logs, chart, chart_photo, **options))
        times.append(time.perf_counter() - start)
    return min(times)


implicit_seconds = seconds()
as_many_steps = lf.LSMR(rtol=1e-5, max_steps=max(steps))
unrolled_seconds = seconds(solver=as_many_steps, adjoint=lf.UnrolledAdjoint())

# %%
table = {
    "PSNR of the blurred photograph": f"{psnr(photo):.2f} dB",
    "  deblurred, hardly any damping": f"{psnr(naive):.2f} dB",
    "  deblurred, initial guess": f"{psnr(guess):.2f} dB",
    "  deblurred, learned": f"{psnr(learned):.2f} dB",
    "  true width, best damping in hindsight": f"{scan[best_damp]:.2f} dB",
    "Width of the blur, learned": f"{width:.3f} (true: {TRUE_WIDTH:.3f})",
    "Damping, learned": f"{damp:.4f} (best in hindsight: {best_damp:.4f})",
    "Solver steps": f"{steps[0]} forward, {steps[1]} backward",
    "Operator products, loss alone": f"{loss_products}",
    "  loss and gradient": f"{gradient_products} "
    f"(× {gradient_products / loss_products:.2f})",
    "Gradient against finite differences": f"{max(gradient_error.values()):.0e}",
    "Seconds for loss and gradient": f"{implicit_seconds:.2f}",
    "  unrolled": f"{unrolled_seconds:.2f} "
    f"(× {unrolled_seconds / implicit_seconds:.1f})",
}
print("\n".join(f"{name:<42}{value}" for name, value in table.items()))
