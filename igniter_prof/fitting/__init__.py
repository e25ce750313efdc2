"""Latency models fitted to a profile: parameters, error, intervals, predictions, queueing."""

from igniter_prof.fitting.explaining import Explanation, explain
from igniter_prof.fitting.families import (
    MODELS,
    CellPredictor,
    cell_predictor,
    fit,
    load_coefficients,
    predictor,
)
from igniter_prof.fitting.predictor import Predictor
from igniter_prof.fitting.queueing import QueueEstimate, request_latency

__all__ = [
    "MODELS",
    "CellPredictor",
    "Explanation",
    "Predictor",
    "QueueEstimate",
    "cell_predictor",
    "explain",
    "fit",
    "load_coefficients",
    "predictor",
    "request_latency",
]
