"""What happened and what it cost, read from the ledger."""

from router.audit.escalations import AuditReport, AuditRow, audit
from router.audit.policies import PolicyUse, policy_history
from router.audit.query import DIMENSIONS, Filters

__all__ = ["DIMENSIONS", "AuditReport", "AuditRow", "Filters", "PolicyUse", "audit", "policy_history"]
