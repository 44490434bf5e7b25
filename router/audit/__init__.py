"""What happened and what it cost, read from the ledger."""

from router.audit.call import CallReport, show
from router.audit.escalations import AuditReport, AuditRow, audit
from router.audit.export import export
from router.audit.movers import Mover, MoversReport, movers
from router.audit.packed import packed
from router.audit.policies import PolicyUse, policy_history
from router.audit.query import DIMENSIONS, Filters
from router.audit.reconcile import Reconciliation, reconcile
from router.audit.slo import SloReport, SloRow, prices_in_force, slo
from router.audit.units import Margin, margins, read_units, unmatched

__all__ = [
    "DIMENSIONS",
    "AuditReport",
    "AuditRow",
    "CallReport",
    "Filters",
    "Margin",
    "Mover",
    "MoversReport",
    "PolicyUse",
    "Reconciliation",
    "SloReport",
    "SloRow",
    "audit",
    "export",
    "margins",
    "movers",
    "packed",
    "policy_history",
    "prices_in_force",
    "read_units",
    "reconcile",
    "show",
    "slo",
    "unmatched",
]
