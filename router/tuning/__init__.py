"""Offline work on a user's own data: fitting, the only door to scikit-learn."""

from router.tuning.distill import Distilled, distill
from router.tuning.labels import LabelledText, read_labels

__all__ = ["Distilled", "LabelledText", "distill", "read_labels"]
