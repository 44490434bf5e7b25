"""What calls share beside the ledger: answers that an idempotency key may ask for again."""

from router.state.answers import AnswerStore, Claim, Kept

__all__ = ["AnswerStore", "Claim", "Kept"]
