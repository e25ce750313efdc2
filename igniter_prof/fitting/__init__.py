"""Latency models fitted to a profile: parameters, error, intervals, predictions, queueing."""

from igniter_prof.fitting.fitter import fit
from igniter_prof.fitting.latency_models import MODELS
from igniter_prof.fitting.predictor import Predictor, load_coefficients, predictor
from igniter_prof.fitting.queueing import QueueEstimate, request_latency

__all__ = [
    "MODELS",
    "Predictor",
    "QueueEstimate",
    "fit",
    "load_coefficients",
    "predictor",
    "request_latency",
]
