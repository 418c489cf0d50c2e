from ._solver.lsmr import LSMR as LSMR
from ._solver.lsqr import LSQR as LSQR
from ._operator.matrix import MatrixOperator as MatrixOperator
from ._operator import protocol as _p
from ._operator.base import AbstractOperator
from ._operator.function import FunctionOperator, JacobianOperator
from ._solution import StopReason
