"""Training under constraints, with any Optax optimiser."""
