"""The tune report: figures from held-out rows, drawn as one page that needs nothing from outside."""

from router.tuning.report.numbers import Report, report_of
from router.tuning.report.page import page

__all__ = ["Report", "page", "report_of"]
