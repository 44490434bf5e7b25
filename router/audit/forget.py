"""Forgetting a user: their key is destroyed, and nobody can find out any more which rows were theirs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from router.core.pricing import usd
from router.ledger import Fingerprints, fold, load_secret
from router.ledger.database import READ_MODEL, connect
from router.ledger.schema import ATTEMPTS, HOURLY_ATTEMPTS, HOURLY_ROUTES, HOURLY_STEPS, ROUTES
from router.ledger.scrub import scrub
from router.ledger.users import UserKeys
from router.state import AnswerStore
from router.world import World

STATE_FOLDER = "state"


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What stays in the sums under no name, and what went."""

    calls: int
    cost_nusd: int
    answers: int
    """Answers that were kept for idempotency keys, and are gone."""

    def as_json(self) -> dict[str, object]:
        """The same with the amount in dollars for people, and exactly as text."""
        return {
            "calls": self.calls,
            "cost_usd": usd(self.cost_nusd),
            "cost_nusd": str(self.cost_nusd),
            "answers": self.answers,
        }


def forget(home: Path, user: str, world: World | None = None) -> Forgotten | None:
    """Destroy what ties a user to the rows of the ledger; `None` when it knows no such user.

    The rows and every sum stay, under a name that nobody can make again. Running processes stop using that name within
    a second; when the user comes back, it is as a new one. Routers, folds and audits may run meanwhile.

    Parameters
    ----------
    home
        Folder of the ledger.
    user
        The id, as the application knows it.
    world
        Where time and randomness come from.

    Raises
    ------
    LedgerError
        The ledger cannot be changed, or a process of an earlier release still writes rows of this user. The user is
        not forgotten then.
    StateError
        The kept answers cannot be changed. The user is not forgotten then.
    """
    if not home.is_dir():
        return None
    world = world or World()
    installation, keys = Fingerprints(load_secret(home, world)), UserKeys(home, world)
    name = str(installation.name("user", user))
    fold(home)
    is_old = _has_rows(home, name)
    if keys.find(name) is None and not is_old:
        return None
    own = Fingerprints(keys.key(name))
    stored = str(own.name("user", user))
    if is_old:
        scrub(home, name, stored, own)
    calls, cost_nusd = _calls(home, stored)
    answers = 0

    def drop() -> None:
        nonlocal answers
        answers = AnswerStore(home / STATE_FOLDER).drop(stored)

    keys.destroy(name, drop)
    return Forgotten(calls, cost_nusd, answers)


def _has_rows(home: Path, stored: str) -> bool:
    """Whether a request or call has this name."""
    if not (home / READ_MODEL).exists():
        return False
    with connect(home) as database:
        tables = (ATTEMPTS, ROUTES, HOURLY_ATTEMPTS, HOURLY_ROUTES, HOURLY_STEPS)
        return any(table.get(database, '"user" = ?', stored) for table in tables)


def _calls(home: Path, stored: str) -> tuple[int, int]:
    """Calls and cost of a user, by the name in the rows."""
    if not (home / READ_MODEL).exists():
        return 0, 0
    with connect(home) as database:
        found = database.execute(
            'SELECT total(calls), total(cost_nusd) FROM hourly_routes WHERE "user" = ?', (stored,)
        ).fetchone()
    return int(found[0]), int(found[1])
