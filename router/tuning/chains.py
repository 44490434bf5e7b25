"""Two chains over the certify rows, each with a share of the error budget: the family's settings, and rungs alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from router.core.tuned import Statement, TunedRung
from router.tuning.certify import LossKind, Test, Tried, saves, statement, walk
from router.tuning.plans import Family, Scores, follow
from router.tuning.search import Chain, direct_to, outcome_of
from router.tuning.table import Table

# Of the error budget, the part for "one cheaper rung alone", where the training rows call that hopeful. A rung alone
# needs more room than a cascade, and either chain hands its part on when it runs through.
SIDE_SHARE = 0.2


class Goal(NamedTuple):
    """What a plan must hold."""

    target: float
    budget: float
    """The error budget of both chains together."""
    loss: LossKind


class Kept(NamedTuple):
    """The plan that was kept, and what was shown of it."""

    rungs: tuple[TunedRung, ...]
    statement: Statement
    family: Family | None
    """`None` for a rung alone."""


class _Pass(NamedTuple):
    tried: Tried
    rungs: tuple[TunedRung, ...]
    family: Family | None
    share: float
    p_value: float


@dataclass
class Chains:
    """The two chains on certify rows."""

    table: Table
    chain: Chain
    scores: Scores
    """Of the certify rows, for the chain's family."""
    alone: tuple[int, ...]
    """Columns of the rungs that might do alone, in the order they are tested."""
    test: Test
    goal: Goal
    _tried: dict[int, Tried] = field(default_factory=dict)

    def best(self) -> Kept | None:
        """The cheapest plan that passed and saves, or `None`.

        Every plan that passed is certified, so that choosing among them by cost costs no confidence.
        """
        passed, tested = self._walk()
        top_cost = self.table.cost[:, self.table.top]
        for one in sorted(passed, key=lambda one: (float(one.tried.cost.mean()), len(one.rungs))):
            if saves(one.tried, top_cost, self.test.unit):
                said = statement(one.tried, top_cost, self.test, one.share, tested, one.p_value)
                return Kept(one.rungs, said, one.family)
        return None

    def _walk(self) -> tuple[list[_Pass], int]:
        """Test both chains; one that runs through to its end hands its share to the other."""
        budget = self.goal.budget
        side_share = SIDE_SHARE * budget if self.alone else 0.0
        side = walk(len(self.alone), self._alone, self.test, self.goal.target, side_share)
        share = budget if side.finished else budget - side_share
        main = walk(len(self.chain.settings), self._setting, self.test, self.goal.target, share)
        if main.finished and not side.finished:
            side_share = budget
            side = walk(len(self.alone), self._alone, self.test, self.goal.target, side_share)
        names, family = self.table.names, self.chain.family
        passed = [
            _Pass(self._alone(at), (TunedRung(names[self.alone[at]]),), None, side_share, side.p_values[at])
            for at in side.passed
        ]
        passed += [_Pass(self._setting(at), self._rungs(at), family, share, main.p_values[at]) for at in main.passed]
        return passed, len(side.p_values) + len(main.p_values)

    def _alone(self, at: int) -> Tried:
        outcome = follow(self.table, Family((self.alone[at],)))
        return Tried(outcome.cost, outcome.loss, outcome.asked_more)

    def _setting(self, at: int) -> Tried:
        if at not in self._tried:
            outcome = outcome_of(self.table, self.chain.family, self.scores, self.chain.settings[at])
            self._tried[at] = Tried(outcome.cost, outcome.loss, outcome.asked_more)
        return self._tried[at]

    def _rungs(self, at: int) -> tuple[TunedRung, ...]:
        names, family = self.table.names, self.chain.family
        setting = self.chain.settings[at].threshold
        if setting is None:
            return (TunedRung(names[direct_to(family)]),)
        start, stop = family.panel
        climbing = []
        for at, (model, threshold, by) in enumerate(
            zip(family.rungs[:-1], family.thresholds(setting), family.by, strict=True)
        ):
            if start < at < stop:
                continue
            panel = tuple(names[one] for one in family.rungs[start + 1 : stop]) if at == start else ()
            gate, low = family.gate if at == 0 else None, family.low if panel else None
            climbing.append(TunedRung(names[model], threshold, by, gate, panel, low))
        return (*climbing, TunedRung(names[family.rungs[-1]]))
