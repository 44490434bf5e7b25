"""What happened and what it cost, read from the ledger."""

from router.audit.escalations import DIMENSIONS, AuditReport, AuditRow, Filters, audit
from router.audit.policies import PolicyUse, policy_history
from router.audit.slo import SloReport, SloRow, prices_in_force, slo

__all__ = [
    "DIMENSIONS",
    "AuditReport",
    "AuditRow",
    "Filters",
    "PolicyUse",
    "SloReport",
    "SloRow",
    "audit",
    "policy_history",
    "prices_in_force",
    "slo",
]
