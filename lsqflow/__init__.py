"""Least squares in JAX as a differentiable operator."""

from importlib import metadata as _metadata

from lineax import QR as QR, SVD as SVD, Cholesky as Cholesky

from . import constraint as constraint, testing as testing, train as train
from ._convergence import plot_convergence as plot_convergence
from ._derivative.adjoint import (
    AbstractAdjoint as AbstractAdjoint,
    ImplicitAdjoint as ImplicitAdjoint,
    UnrolledAdjoint as UnrolledAdjoint,
)
from ._inverse import (
    NullSpaceProjector as NullSpaceProjector,
    PseudoInverse as PseudoInverse,
    RangeProjector as RangeProjector,
    pinv as pinv,
)
from ._iterate import (
    Iteration as Iteration,
    Progress as Progress,
    iterate as iterate,
)
from ._lstsq import lstsq as lstsq
from ._minimum_norm import minimum_norm as minimum_norm, project as project
from ._operator import protocol as _protocol
from ._operator.algebra import Composed as Composed, Scaled as Scaled, Sum as Sum
from ._operator.base import AbstractOperator as AbstractOperator
from ._operator.check import (
    AdjointReport as AdjointReport,
    check_adjoint as check_adjoint,
)
from ._operator.convert import as_operator as as_operator
from ._operator.diagonal import (
    Diagonal as Diagonal,
    Identity as Identity,
    Zero as Zero,
)
from ._operator.function import (
    FunctionOperator as FunctionOperator,
    JacobianOperator as JacobianOperator,
)
from ._operator.gauss_newton import GaussNewtonOperator as GaussNewtonOperator
from ._operator.kernel.features import RandomFeatures as RandomFeatures
from ._operator.kernel.kernel import KernelOperator as KernelOperator
from ._operator.matrix import MatrixOperator as MatrixOperator
from ._operator.signal.circulant import Circulant as Circulant, Toeplitz as Toeplitz
from ._operator.signal.convolution import Convolution as Convolution
from ._operator.signal.fourier import FFT as FFT
from ._operator.signal.gradient import Gradient as Gradient, Laplacian as Laplacian
from ._operator.signal.integration import Integration as Integration
from ._operator.signal.interpolation import Interpolation as Interpolation
from ._operator.signal.padding import Padding as Padding
from ._operator.signal.resampling import Resampling as Resampling
from ._operator.signal.stencil import Difference as Difference
from ._operator.sparse.operator import SparseOperator as SparseOperator
from ._operator.structure.block import Block as Block
from ._operator.structure.kronecker import (
    Kronecker as Kronecker,
    KroneckerSum as KroneckerSum,
)
from ._operator.structure.low_rank import (
    DiagonalPlusLowRank as DiagonalPlusLowRank,
    LowRank as LowRank,
)
from ._operator.structure.reshape import (
    Imag as Imag,
    Ravel as Ravel,
    Real as Real,
    Reshape as Reshape,
)
from ._operator.structure.selection import (
    LeafSelection as LeafSelection,
    Mask as Mask,
    Permutation as Permutation,
    Selection as Selection,
)
from ._operator.structure.stack import (
    BlockDiagonal as BlockDiagonal,
    HStack as HStack,
    VStack as VStack,
)
from ._operator.tomography.radon import Radon as Radon
from ._outcome import StopReason as StopReason
from ._problem.problem import Problem as Problem
from ._problem.regularizer import Tikhonov as Tikhonov
from ._regularization_path import (
    RegularizationPath as RegularizationPath,
    regularization_path as regularization_path,
)
from ._solution import (
    PrimalDual as PrimalDual,
    Solution as Solution,
)
from ._solver.auto import AutoSolver as AutoSolver
from ._solver.base import AbstractSolver as AbstractSolver
from ._solver.golub_kahan import AbstractGolubKahanSolver as AbstractGolubKahanSolver
from ._solver.loop import AbstractIterativeSolver as AbstractIterativeSolver
from ._solver.lsmr import LSMR as LSMR
from ._solver.lsqr import LSQR as LSQR
from ._solver.woodbury import Woodbury as Woodbury
from .constraint.affine import Affine as Affine
from .constraint.base import AbstractConstraint as AbstractConstraint
from .constraint.compose import Sampled as Sampled
from .constraint.field import (
    Conservative as Conservative,
    DivergenceFree as DivergenceFree,
)
from .constraint.function import Equality as Equality, Inequality as Inequality
from .constraint.infinitesimal import (
    InfinitesimalEquivariance as InfinitesimalEquivariance,
)
from .constraint.lipschitz import Lipschitz as Lipschitz
from .constraint.norms import NormBound as NormBound, Orthogonal as Orthogonal
from .constraint.periodic import Periodic as Periodic
from .constraint.pin import AbstractPin as AbstractPin, Fixed as Fixed
from .constraint.pruning import cubic_sparsity as cubic_sparsity
from .constraint.sparsity import Sparsity as Sparsity
from .constraint.surgeon import compensate as compensate
from .constraint.symmetry import Equivariance as Equivariance
from .train.null_space import null_space as null_space
from .train.retract import Retraction as Retraction, retract as retract
from .train.state import NullSpaceState as NullSpaceState

del _protocol  # imported to register the operators with lineax

__version__ = _metadata.version("lsqflow")
