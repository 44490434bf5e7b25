"""What calls share beside the ledger: budgets, and answers that an idempotency key may ask for again."""

from router.state.answers import AnswerStore, Claim, Kept
from router.state.blocks import InUse
from router.state.budgets import Hold, SharedBudgets

__all__ = ["AnswerStore", "Claim", "Hold", "InUse", "Kept", "SharedBudgets"]
