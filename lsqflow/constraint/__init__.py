"""Constraint specifications: linearisable residuals that should be zero."""

from .affine import Affine as Affine
from .base import AbstractConstraint as AbstractConstraint
from .compose import Sampled as Sampled
from .field import Conservative as Conservative, DivergenceFree as DivergenceFree
from .function import Equality as Equality, Inequality as Inequality
from .infinitesimal import InfinitesimalEquivariance as InfinitesimalEquivariance
from .lipschitz import Lipschitz as Lipschitz
from .norms import NormBound as NormBound, Orthogonal as Orthogonal
from .periodic import Periodic as Periodic
from .pin import AbstractPin as AbstractPin, Fixed as Fixed
from .pruning import cubic_sparsity as cubic_sparsity
from .sparsity import Sparsity as Sparsity
from .surgeon import compensate as compensate
from .symmetry import Equivariance as Equivariance

__all__ = [
    "AbstractConstraint",
    "AbstractPin",
    "Affine",
    "Conservative",
    "DivergenceFree",
    "Equality",
    "Equivariance",
    "Fixed",
    "Inequality",
    "InfinitesimalEquivariance",
    "Lipschitz",
    "NormBound",
    "Orthogonal",
    "Periodic",
    "Sampled",
    "Sparsity",
    "compensate",
    "cubic_sparsity",
]
