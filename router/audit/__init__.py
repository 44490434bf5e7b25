"""What happened and what it cost, read from the ledger."""

from router.audit.escalations import DIMENSIONS, AuditReport, AuditRow, Filters, audit
from router.audit.policies import PolicyUse, policy_history

__all__ = ["DIMENSIONS", "AuditReport", "AuditRow", "Filters", "PolicyUse", "audit", "policy_history"]
