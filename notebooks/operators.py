# %% [markdown]
# # From a six-line operator to tomography with learned regularisation
#
# A scanner sums an object along straight lines, at a few angles; we want the object
# back. The scanner is a linear operator, so this is least squares. We write a part of
# the scanner ourselves, compose it with what the library has, *learn* how to
# regularise by gradient descent through the solver, and at last let the same gradients
# find out that the scanner's angles are not what it says they are.
#
# `python notebooks/operators.py` runs this file as a script; it takes about two
# minutes on two cores.

# %%
import os

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

plt.rcParams["figure.dpi"] = 80

REDUCED = os.environ.get("LSQFLOW_REDUCED") == "1"  # small and quick, to test this file
SIZE = 40 if REDUCED else 128
NUM_ANGLES = 16 if REDUCED else 48
NUM_UPDATES = 4 if REDUCED else 40

# %% [markdown]
# ## An operator of one's own
#
# Two methods make an operator: `mv`, the product with a vector, and `in_structure`, the
# shape and dtype of that vector. Everything else follows: the transposed product,
# derivatives, `jit` and `vmap`. Arrays among the fields can be learned; what fixes
# shapes is a static field.
#
# Ours is a detector in which light leaks to neighbouring pixels.


# %%
class Crosstalk(lf.AbstractOperator):
    leak: Float[Array, ""]
    shape: tuple[int, ...] = eqx.field(static=True)

    def mv(self, sinogram):
        neighbours = jnp.roll(sinogram, 1, axis=-1) + jnp.roll(sinogram, -1, axis=-1)
        return (1 - 2 * self.leak) * sinogram + self.leak * neighbours

    def in_structure(self):
        return jax.ShapeDtypeStruct(self.shape, self.leak.dtype)


# %% [markdown]
# One line tells whether the transposed product is the transpose. Here it is derived,
# and cannot be wrong; an `rmv` written by hand can, and this is what that looks like.

# %%
print(lf.check_adjoint(Crosstalk(jnp.float32(0.1), (5, 7)), jax.random.key(0)))


# %%
class Delay(lf.AbstractOperator):
    size: int = eqx.field(static=True)

    def mv(self, signal):
        return jnp.roll(signal, 1)

    def rmv(self, signal):
        return jnp.roll(signal, 1)  # wrong: the transpose rolls back

    def in_structure(self):
        return jax.ShapeDtypeStruct((self.size,), jnp.float32)


print(lf.check_adjoint(Delay(9), jax.random.key(0)))

# %% [markdown]
# In a test, `lf.testing.check_operator` asks for more: structures and dtypes, `jit`,
# `vmap`, derivatives with respect to the fields, and solutions against NumPy's. It is
# silent if all is well.

# %%
lf.testing.check_operator(Crosstalk(jnp.float32(0.1), (3, 4)))

# %% [markdown]
# ## Operators are composed like matrices
#
# `lf.Radon` is the ideal scanner: from an image to its line integrals, a row for each
# angle. The real one is `detector @ radon`. Sums, multiples and stacks are operators as
# well, and so are transposes.

# %%
angles = np.linspace(0, np.pi, NUM_ANGLES, endpoint=False)
radon = lf.Radon(angles, (SIZE, SIZE), num_detectors=SIZE, dtype=jnp.float32)
detector = Crosstalk(jnp.float32(0.15), radon.out_structure().shape)
scanner = detector @ radon

print(scanner)

# %% [markdown]
# A scan with a short exposure beside one with a long one, for instance:

# %%
print(lf.VStack([0.2 * scanner, scanner]))

# %% [markdown]
# ## A scan
#
# Two photographs play the objects: one is a known test object, to calibrate with; the
# other is what we want to see. Our scanner is not a good one. There are few angles, and
# every third projection was exposed for a short time only and is noisy. We pretend not
# to know which.


# %%
def load(name):
    picture = skimage.util.img_as_float32(getattr(skimage.data, name)())
    picture = picture if picture.ndim == 2 else skimage.color.rgb2gray(picture)
    side = min(picture.shape)
    picture = skimage.transform.resize(
        picture[:side, :side], (SIZE, SIZE), anti_aliasing=True
    )
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE // 2
    inside = x**2 + y**2 < (SIZE // 2 - 1) ** 2
    return jnp.asarray(np.where(inside, picture, 0), jnp.float32)


known, unknown = load("coins"), load("camera")
noise = 0.01 * SIZE * np.where(np.arange(NUM_ANGLES) % 3 == 1, 5.0, 0.5)
noise = jnp.asarray(noise[:, None] / 2, jnp.float32)


def scan(picture, key):
    clean = scanner.mv(picture)
    return clean + noise * jax.random.normal(key, clean.shape, clean.dtype)


key_known, key_unknown, key_angles = jax.random.split(jax.random.key(1), 3)
known_scan, unknown_scan = scan(known, key_known), scan(unknown, key_unknown)


def psnr(picture, truth=unknown):
    return -10 * np.log10(np.mean((np.asarray(picture) - truth) ** 2))


# %% [markdown]
# ## Reconstruction
#
# Filtered back projection is the classical inverse. It knows neither the leaking
# detector nor the noise. Least squares knows the scanner, and without regularisation it
# fits the noise, too. With a penalty on the image's gradient it does not: `lf.lstsq`
# minimises ‖A x − b‖² + s² ‖∇x‖². Yet which strength s?

# %%
solver = lf.LSMR(rtol=1e-4, max_steps=1000)
filtered = skimage.transform.iradon(
    np.asarray(unknown_scan).T, np.rad2deg(angles), filter_name="hann"
)
plain = lf.lstsq(scanner, unknown_scan, solver).value

gradient = lf.Gradient((SIZE, SIZE), dtype=jnp.float32)
smooth = lf.Tikhonov(gradient, strength=jnp.float32(2.0))
guess = lf.lstsq(scanner, unknown_scan, solver, regularizers=[smooth]).value
for name, picture in {"filtered": filtered, "plain": plain, "guess": guess}.items():
    print(f"{name:<10}{psnr(picture):5.1f} dB")

# %% [markdown]
# ## The detector
#
# So far we took the detector's leak as known. It can be measured with the known object:
# a scan is a function of the leak, and its Jacobian is an operator like any other. One
# step of Gauss–Newton is all it takes, since our detector is linear in the leak.

# %%
ideal = radon.mv(known)
guessed_leak = jnp.float32(0.0)
jacobian = lf.JacobianOperator(
    lambda leak: Crosstalk(leak, ideal.shape).mv(ideal), guessed_leak
)
leak = guessed_leak + lf.lstsq(jacobian, known_scan - ideal).value
print(f"leak {leak:.3f} (true: 0.150)")
detector = Crosstalk(leak, ideal.shape)

# %% [markdown]
# ## Learning through the solver
#
# We scan the known object, reconstruct, and ask that it comes out right. What is not
# known is learned at once: the strength of the penalty, and the weight of each
# projection in the fit. Both are arguments of one differentiable function; a gradient
# costs one more solve.


# %%
def reconstruct(logs, sinogram, angles=angles):
    radon = lf.Radon(angles, (SIZE, SIZE), num_detectors=SIZE, dtype=jnp.float32)
    scanner = detector @ radon
    weights = jnp.exp(logs["weights"])[:, None]
    smooth = lf.Tikhonov(gradient, jnp.exp(logs["strength"]))
    return lf.lstsq(scanner, sinogram, solver, weights=weights, regularizers=[smooth])


def error(logs, sinogram, truth):
    picture = reconstruct(logs, sinogram).value
    return jnp.sqrt(jnp.mean((picture - truth) ** 2))


def descend(objective, start, rate, *args):
    """Gradient descent with Adam; parameters and objective, one a step."""
    optimiser = optax.adam(optax.cosine_decay_schedule(rate, NUM_UPDATES), b2=0.9)
    value_and_grad = jax.jit(jax.value_and_grad(objective))
    parameters, state, history = start, optimiser.init(start), []
    progress = tqdm(range(NUM_UPDATES), mininterval=2)
    for _ in progress:
        value, slope = value_and_grad(parameters, *args)
        history.append((float(value), parameters))
        updates, state = optimiser.update(slope, state)
        parameters = optax.apply_updates(parameters, updates)
    return parameters, history


start = {
    "strength": jnp.log(jnp.float32(2.0)),
    "weights": jnp.zeros(NUM_ANGLES, jnp.float32),
}
logs, history = descend(error, start, 0.3, known_scan, known)
learned = reconstruct(logs, unknown_scan).value
print(f"learned {psnr(learned):.1f} dB")

# %% [markdown]
# The learned settings serve for an object that they have not seen. With the truth at
# hand, how well can the best strength do: with equal weights, and with the inverse
# variances that are the right ones?


# %%
def in_hindsight(log_weights):
    logs = {"weights": log_weights}
    strengths = jnp.geomspace(0.2, 20.0, 3 if REDUCED else 13)
    return max(
        psnr(reconstruct({**logs, "strength": log}, unknown_scan).value)
        for log in jnp.log(strengths)
    )


equal = in_hindsight(start["weights"])
right = in_hindsight(-2 * jnp.log(noise[:, 0]))
print(f"best strength in hindsight: equal weights {equal:.1f} dB, right {right:.1f} dB")

# %%
figure, axes = plt.subplots(1, 5, figsize=(13, 3), layout="constrained")
pictures = {
    "truth": unknown,
    "filtered back projection": filtered,
    "unregularised": plain,
    "guessed strength": guess,
    "learned": learned,
}
for axis, (title, picture) in zip(axes, pictures.items(), strict=True):
    axis.imshow(picture, cmap="gray", vmin=0, vmax=1)
    label = title if title == "truth" else f"{title}: {psnr(picture):.1f} dB"
    axis.set_title(label, fontsize=10)
    axis.axis("off")

figure, (left, middle) = plt.subplots(1, 2, figsize=(10, 2.6), layout="constrained")
left.plot([value for value, _ in history])
left.set(title="error of the known object", xlabel="update")
relative = np.exp(logs["weights"] - jnp.median(logs["weights"]))
variances = noise[:, 0] ** 2
middle.semilogy(relative, "o", label="learned")
middle.semilogy(
    np.median(variances) / variances, "_", markersize=12, label="1 / variance"
)
middle.set(title="weight of each projection, relative", xlabel="projection")
_ = middle.legend(fontsize=8)

# %% [markdown]
# ## The scanner's angles are wrong
#
# One thing more: a stage that does not stop exactly where it should. Each projection is
# taken one or two degrees off, and nobody knows by how much. Now there is no
# known object. But at the right angles one image explains all projections, and at
# wrong ones none does: we minimise the minimum that the solve finds, its `objective`,
# over the angles. (Turning the object and all angles together changes nothing. We fix
# the mean, over the projections that we trust.)


# %%
trust = jax.nn.softmax(logs["weights"])


def centred(x):
    return x - jnp.dot(trust, x)


offsets = centred(0.03 * jax.random.normal(key_angles, (NUM_ANGLES,)))
misaligned = lf.Radon(
    angles + np.asarray(offsets), (SIZE, SIZE), num_detectors=SIZE, dtype=jnp.float32
)
crooked_scan = detector.mv(misaligned.mv(unknown))
crooked_scan += noise * jax.random.normal(key_unknown, crooked_scan.shape)


def misfit(estimate, logs, sinogram):
    turned = angles.astype(np.float32) + centred(estimate)
    return reconstruct(logs, sinogram, turned).objective / sinogram.size


estimate, misfits = descend(
    misfit, jnp.zeros(NUM_ANGLES, jnp.float32), 0.005, logs, crooked_scan
)
turned = angles.astype(np.float32) + centred(estimate)
crooked = reconstruct(logs, crooked_scan).value
straight = reconstruct(logs, crooked_scan, turned).value
long_exposed = np.arange(NUM_ANGLES) % 3 != 1


def degrees_off(estimate):
    """Of the projections that are good enough to tell."""
    off = (centred(estimate) - offsets)[long_exposed]
    return np.rad2deg(np.sqrt(np.mean(off**2)))


print(
    f"angles off by {degrees_off(0 * offsets):.2f}°, then {degrees_off(estimate):.2f}°"
)
print(f"as if the angles were right: {psnr(crooked):.1f} dB, calibrated: ", end="")
print(f"{psnr(straight):.1f} dB")

# %%
figure, axes = plt.subplots(1, 3, figsize=(10, 3), layout="constrained")
axes[0].imshow(crooked, cmap="gray", vmin=0, vmax=1)
axes[0].set_title(f"angles as set: {psnr(crooked):.1f} dB", fontsize=10)
axes[1].imshow(straight, cmap="gray", vmin=0, vmax=1)
axes[1].set_title(f"angles calibrated: {psnr(straight):.1f} dB", fontsize=10)
axes[0].axis("off")
axes[1].axis("off")
for chosen, label in ((long_exposed, "long"), (~long_exposed, "short exposure")):
    found = np.rad2deg(centred(estimate))[chosen]
    axes[2].plot(np.rad2deg(offsets)[chosen], found, ".", label=label)
axes[2].axline((0, 0), slope=1, color="gray", linestyle="--", linewidth=1)
axes[2].set(xlabel="true offset (degrees)", ylabel="found")
_ = axes[2].legend(fontsize=8)
