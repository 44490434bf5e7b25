"""The fault table: complete, and consistent with itself."""

from __future__ import annotations

import pytest

from router.core.faults import FAULTS, Fault

RETRIED = {Fault.RATE_LIMITED, Fault.TIMEOUT, Fault.SERVER_ERROR, Fault.CONNECTION, Fault.EMPTY, Fault.MALFORMED}
RAISED = {Fault.BAD_REQUEST, Fault.CANCELLED, Fault.CRASHED, Fault.NOT_SENT}
UNBILLED = {
    Fault.BAD_REQUEST,
    Fault.AUTH,
    Fault.PAYMENT,
    Fault.FORBIDDEN,
    Fault.NOT_FOUND,
    Fault.UNSUPPORTED,
    Fault.RATE_LIMITED,
    Fault.NOT_SENT,
}


def test_every_fault_has_one_rule() -> None:
    """The table is complete and knows nothing else."""
    assert set(FAULTS) == set(Fault)


@pytest.mark.parametrize("fault", Fault)
def test_every_rule_has_a_reason(fault: Fault) -> None:
    """The reason is what a step shows when the failure itself says nothing."""
    why = FAULTS[fault].why
    assert why == why.strip().rstrip(".")
    assert len(why.split()) >= 3


@pytest.mark.parametrize("fault", Fault)
def test_what_is_retried_never_raises(fault: Fault) -> None:
    """A passing fault that does not pass climbs: a model that is down must not take the caller down."""
    rule = FAULTS[fault]
    assert not (rule.retry and rule.then != "climb")


def test_exactly_the_passing_faults_are_retried() -> None:
    """A key, a bill or a missing model does not heal within a call."""
    assert {fault for fault, rule in FAULTS.items() if rule.retry} == RETRIED


def test_exactly_the_caller_s_faults_raise() -> None:
    """Every fault of the rung climbs, and the policy decides about the content filter."""
    assert {fault for fault, rule in FAULTS.items() if rule.then == "raise"} == RAISED
    assert {fault for fault, rule in FAULTS.items() if rule.then == "on_filter"} == {Fault.CONTENT_FILTER}


def test_only_what_certainly_did_no_work_is_unbilled() -> None:
    """Everything else may be on the bill, between 0 and the request's upper bound."""
    assert {fault for fault, rule in FAULTS.items() if rule.billed == "no"} == UNBILLED


def test_a_fault_is_written_as_its_own_lower_case_name() -> None:
    """Ledger rows and reasons use the value."""
    assert [str(fault) for fault in Fault] == [fault.name.lower() for fault in Fault]
