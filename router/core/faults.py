"""The fault table: every way a request can fail, whether it is tried again, and what follows when it is not.

This is the only place that decides. `router.models.litellm` turns exceptions and statuses into a `Fault`; the
retry loop and the flow read the table.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, NamedTuple


class Fault(StrEnum):
    """One way a request can fail."""

    BAD_REQUEST = "bad_request"
    CONTENT_FILTER = "content_filter"
    AUTH = "auth"
    PAYMENT = "payment"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    CONTEXT_TOO_LONG = "context_too_long"
    UNSUPPORTED = "unsupported"
    RATE_LIMITED = "rate_limited"
    TIMEOUT = "timeout"
    SERVER_ERROR = "server_error"
    CONNECTION = "connection"
    EMPTY = "empty"
    MALFORMED = "malformed"
    CANCELLED = "cancelled"
    CRASHED = "crashed"
    NOT_SENT = "not_sent"


class Rule(NamedTuple):
    """What one fault leads to."""

    retry: bool
    """Worth another attempt at the same rung."""
    then: Literal["climb", "raise", "on_filter"]
    """What follows when it is not retried, or not any more."""
    billed: Literal["no", "unlikely", "even", "likely"]
    """Whether the provider charges for it, as far as vendors say. A reported usage is always charged."""
    why: str
    lasting: bool = False
    """It will meet the next call too, until somebody mends it."""


BILLED_SHARE: dict[str, float] = {"no": 0.0, "unlikely": 0.0, "even": 0.5, "likely": 1.0}
"""How much of its expected cost a request without an answer counts for. Half where vendors disagree or are silent:
Anthropic and Novita bill a request whose caller left, others say nothing. Bounds do not depend on it."""

FAULTS: dict[Fault, Rule] = {
    Fault.BAD_REQUEST: Rule(False, "raise", "no", "the request itself is wrong; every model would refuse it"),
    Fault.CONTENT_FILTER: Rule(False, "on_filter", "unlikely", "the policy says whether another vendor may be asked"),
    Fault.AUTH: Rule(False, "climb", "no", "the key is missing or wrong; another rung has another key", lasting=True),
    Fault.PAYMENT: Rule(False, "climb", "no", "this account is out of credit", lasting=True),
    Fault.FORBIDDEN: Rule(False, "climb", "no", "this key may not use this model", lasting=True),
    Fault.NOT_FOUND: Rule(False, "climb", "no", "the model was retired or renamed", lasting=True),
    Fault.CONTEXT_TOO_LONG: Rule(False, "climb", "unlikely", "a later rung may take a longer input; one host bills it"),
    Fault.UNSUPPORTED: Rule(False, "climb", "no", "the model lacks a capability that the call needs", lasting=True),
    Fault.RATE_LIMITED: Rule(True, "climb", "no", "passes; the provider says when"),
    Fault.TIMEOUT: Rule(True, "climb", "even", "the work may have been done after we stopped waiting"),
    Fault.SERVER_ERROR: Rule(True, "climb", "unlikely", "mostly unbilled, but no provider promises it"),
    Fault.CONNECTION: Rule(True, "climb", "even", "the request may have arrived before the connection broke"),
    Fault.EMPTY: Rule(True, "climb", "likely", "an answer without content is no answer, but it was produced"),
    Fault.MALFORMED: Rule(True, "climb", "likely", "a page of a proxy, or half a body, in place of an answer"),
    Fault.CANCELLED: Rule(False, "raise", "even", "the caller left while the request was on its way"),
    Fault.CRASHED: Rule(False, "raise", "even", "the backend raised something that it should not have"),
    Fault.NOT_SENT: Rule(False, "raise", "no", "the backend refused before anything left"),
}


def is_free(fault: Fault, arrived: bool | None) -> bool:
    """Whether a failed request surely costs nothing."""
    return FAULTS[fault].billed == "no" or arrived is False


def billed_share(fault: Fault, status: int | None, arrived: bool | None) -> float:
    """The share of its expected cost that a failed request counts for.

    Where the table says `even`, a refusal with a status is unlikely to be billed, and an answer that began is likely.
    """
    billed = FAULTS[fault].billed
    if billed == "even":
        refused = status is not None and status >= 400
        billed = "unlikely" if refused else "likely" if arrived else "even"
    return BILLED_SHARE[billed]
