"""The record of every request and decision: segments that only grow, folded into one read model."""

from router.ledger.fold import FoldReport, fold
from router.ledger.rows import SCHEMA_VERSION, Trace
from router.ledger.secret import Fingerprints, load_fingerprints, load_secret, stored_session, stored_user
from router.ledger.writer import LedgerWriter

__all__ = [
    "SCHEMA_VERSION",
    "Fingerprints",
    "FoldReport",
    "LedgerWriter",
    "Trace",
    "fold",
    "load_fingerprints",
    "load_secret",
    "stored_session",
    "stored_user",
]
