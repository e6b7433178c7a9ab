"""Augmentations of whole batches, each image with parameters of its own, and the parameters returned with the views."""

from mastlib.augment.algebra import DESCRIPTORS, TARGETS, descriptors, differences, seen_crop
from mastlib.augment.blur import GaussianBlur, Sharpness
from mastlib.augment.colour import ColorJitter, Grayscale
from mastlib.augment.geometry import HorizontalFlip, RandomResizedCrop, Rot90, VerticalFlip
from mastlib.augment.levels import AutoContrast, Equalize, Invert, Posterize, Solarize, SolarizeAdd
from mastlib.augment.moves import Rotate, ShearX, ShearY, TranslateX, TranslateY
from mastlib.augment.ops import Op, Range
from mastlib.augment.pipeline import PAIRINGS, Pipeline, Views, audit
from mastlib.augment.presets import get_pipeline, list_presets

__all__ = [
    "DESCRIPTORS",
    "PAIRINGS",
    "TARGETS",
    "AutoContrast",
    "ColorJitter",
    "Equalize",
    "GaussianBlur",
    "Grayscale",
    "HorizontalFlip",
    "Invert",
    "Op",
    "Pipeline",
    "Posterize",
    "RandomResizedCrop",
    "Range",
    "Rot90",
    "Rotate",
    "Sharpness",
    "ShearX",
    "ShearY",
    "Solarize",
    "SolarizeAdd",
    "TranslateX",
    "TranslateY",
    "VerticalFlip",
    "Views",
    "audit",
    "descriptors",
    "differences",
    "get_pipeline",
    "list_presets",
    "seen_crop",
]
