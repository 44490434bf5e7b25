"""What happened and what it cost, read from the ledger."""

from router.audit.escalations import DIMENSIONS, AuditReport, AuditRow, Filters, audit

__all__ = ["DIMENSIONS", "AuditReport", "AuditRow", "Filters", "audit"]
