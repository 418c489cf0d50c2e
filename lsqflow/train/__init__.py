"""Training under constraints, with any Optax optimizer."""

from ..constraint.surgeon import compensate as compensate
from .families import (
    AdamMetric as AdamMetric,
    EuclideanMetric as EuclideanMetric,
    SGDMetric as SGDMetric,
    adam_metric as adam_metric,
    euclidean as euclidean,
    sgd_metric as sgd_metric,
)
from .fit import History as History, fit as fit
from .metric import (
    AbstractMetric as AbstractMetric,
    MetricForm as MetricForm,
    OptimizerStep as OptimizerStep,
)
from .null_space import null_space as null_space
from .retract import Retraction as Retraction, retract as retract
from .state import NullSpaceState as NullSpaceState

__all__ = [
    "AbstractMetric",
    "AdamMetric",
    "EuclideanMetric",
    "History",
    "MetricForm",
    "NullSpaceState",
    "OptimizerStep",
    "Retraction",
    "SGDMetric",
    "adam_metric",
    "compensate",
    "euclidean",
    "fit",
    "null_space",
    "retract",
    "sgd_metric",
]
