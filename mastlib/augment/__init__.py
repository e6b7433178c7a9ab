"""Augmentations of whole batches, each image with parameters of its own, and the parameters returned with the views."""

from mastlib.augment.blur import GaussianBlur
from mastlib.augment.colour import ColorJitter, Grayscale
from mastlib.augment.geometry import HorizontalFlip, RandomResizedCrop
from mastlib.augment.ops import Op
from mastlib.augment.pipeline import PAIRINGS, Pipeline, Views, audit
from mastlib.augment.presets import get_pipeline, list_presets

__all__ = [
    "PAIRINGS",
    "ColorJitter",
    "GaussianBlur",
    "Grayscale",
    "HorizontalFlip",
    "Op",
    "Pipeline",
    "RandomResizedCrop",
    "Views",
    "audit",
    "get_pipeline",
    "list_presets",
]
