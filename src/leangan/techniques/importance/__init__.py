"""Which channels are worth keeping: one family of the field's criteria per file."""

from __future__ import annotations

from leangan.techniques.importance.base import Context, Criterion, Scores
from leangan.techniques.importance.describe import describe_groups
from leangan.techniques.importance.registry import CRITERIA, criterion

__all__ = ["CRITERIA", "Context", "Criterion", "Scores", "criterion", "describe_groups"]
