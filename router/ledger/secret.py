"""Fingerprints: keyed hashes that tell equal prompts and users apart without keeping either."""

from __future__ import annotations

import hmac
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Literal

from router.core.call import Message
from router.errors import LedgerError, StateError, warn
from router.ledger.users import UserKeys
from router.world import World

# 64 bits: among ten million prompts two share one with a chance of 3 in a million.
_HEX_DIGITS = 16
# Longer conversations keep their earliest boundaries, where a prompt cache can match.
_MAX_PREFIXES = 16
# Users whose keys a process holds; finding one again takes about as long as ten other rows.
_MAX_USERS = 10_000


class Fingerprints:
    """Keyed fingerprints of one installation, or of one user: equal inputs give equal ones, and nothing else shows."""

    def __init__(
        self,
        secret: bytes,
        keys: UserKeys | None = None,
        problem: LedgerError | None = None,
        *,
        user: str | None = None,
    ) -> None:
        self._key = hmac.new(secret, digestmod=sha256)
        self._keys = keys
        self._problem = problem  # Why no other process has this key.
        self._users: dict[str, Fingerprints] = {}
        self.user = self.name("user", user)
        """What stands for the user whose these are; `None` where they are no user's own."""

    def of(self, user: str | None) -> Fingerprints:
        """Those for the calls of a user, under the user's own key; without a user, these."""
        keys = self._keys
        if user is None or keys is None:
            return self
        if keys.anybody_forgotten() or len(self._users) >= _MAX_USERS:
            # A new one: a thread that has just read a key that is destroyed by now puts it into the old one.
            self._users = {}
        users = self._users
        found = users.get(user)
        if found is None:
            key = keys.key(self.name("user", user) or "")
            found = users[user] = Fingerprints(key, problem=keys.problem(key), user=user)
        return found

    def shared(self, user: str) -> Fingerprints:
        """Those of a user as every process has them.

        Raises
        ------
        StateError
            The secret or the user's key cannot be read or written, so that what others counted is not found.
        """
        found = self.of(user)
        if found._problem is not None:
            self._users.pop(user, None)  # The next call looks again.
            raise StateError(
                f"{found._problem}; budgets of users cannot be found without that, so nothing was sent",
                path=found._problem.path,
            ) from found._problem
        return found

    def name(self, kind: str, value: str | None) -> str | None:
        """Of a user or session id; `None` stays `None`."""
        if value is None:
            return None
        mac = self._key.copy()
        mac.update(f"{kind}\0{value}".encode("utf-8", "surrogatepass"))
        return mac.hexdigest()[:_HEX_DIGITS]

    def prompt(self, messages: Sequence[Message]) -> tuple[str, tuple[str, ...]]:
        """Of all messages, and of each beginning that ends at a message boundary, shortest first."""
        mac = self._key.copy()
        prefixes: list[str] = []
        for message in messages:
            role, content = message["role"], message.get("content")
            plain = content if isinstance(content, str) and len(message) == 2 else None
            text = json.dumps(dict(message), sort_keys=True, default=str) if plain is None else plain
            # The lengths come first, so that no text can pass for the end of one message and the start of another.
            mac.update(f"{len(role)},{len(text)},{plain is None:d}:{role}{text}".encode("utf-8", "surrogatepass"))
            prefixes.append(mac.hexdigest()[:_HEX_DIGITS])
        return prefixes[-1], tuple(prefixes[:-1][:_MAX_PREFIXES])


def _keep_to_owner(path: Path) -> None:
    """A key that others could read, from a copy or a backup perhaps, is closed to them and told."""
    if path.stat().st_mode & 0o077:
        with suppress(OSError):  # Another user's file.
            path.chmod(0o600)
        warn(f"{path}: others could read this key of the fingerprints and may have it; delete it for a new one")


def load_secret(home: Path, world: World) -> bytes:
    """The installation's secret: `ROUTER_SECRET`, else a file that only its owner can read, made on first use.

    A simulated world brings its own.

    Raises
    ------
    LedgerError
        The file can be neither read nor made.
    """
    if configured := os.environ.get("ROUTER_SECRET"):
        return os.fsencode(configured)
    if world.secret is not None:
        return world.secret
    path = home / "secret"
    try:
        if found := path.read_bytes():
            _keep_to_owner(path)
            return found
        path.unlink()  # An empty file is no secret: fingerprints under it could be made by anybody.
    except OSError:  # Missing, or to be told of below.
        pass
    secret = f"{world.random.getrandbits(256):064x}".encode()
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = home / f".secret-{world.new_id()}"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secret)
        try:
            os.link(draft, path)  # Fails when another process was first, so all processes agree on one.
        except FileExistsError:
            return path.read_bytes()
        finally:
            draft.unlink()
    except OSError as error:
        raise LedgerError(
            f"{path}: the key of the fingerprints can be neither read nor made ({error.strerror}); make it readable "
            "and writable, or set ROUTER_SECRET",
            path=str(path),
        ) from error
    return secret


def load_fingerprints(home: Path, world: World, sync: Literal["normal", "full"] = "normal") -> Fingerprints:
    """The fingerprints of an installation, with a key for each of its users; a simulated world leaves none behind.

    Where there is no secret to be had, those of a new one: they match nobody else's, and budgets of users are refused.
    """
    try:
        secret = load_secret(home, world)
    except LedgerError as error:
        if (home / "secret").exists():  # Else the ledger cannot be written either, and says so.
            warn(f"{error}; calls are recorded, and no other process can tell which users and prompts are the same")
        return Fingerprints(f"{world.random.getrandbits(256):064x}".encode(), problem=error)
    return Fingerprints(secret, UserKeys(home, world, sync=sync) if world.secret is None else None)


def stored_user(home: Path, world: World, user: str) -> str:
    """What the rows of a user carry; makes no key for one who has none.

    Raises
    ------
    LedgerError
        The keys of the users cannot be read.
    """
    prints, name = _prints_of(home, world, user)
    return str(prints.name("user", user)) if prints else name


def stored_session(home: Path, world: World, session: str, user: str | None = None) -> str:
    """What the rows of a session carry: a user's sessions are named under the user's key.

    Raises
    ------
    LedgerError
        The keys of the users cannot be read.
    """
    prints = _prints_of(home, world, user)[0] if user is not None else None
    return str((prints or Fingerprints(load_secret(home, world))).name("session", session))


def _prints_of(home: Path, world: World, user: str) -> tuple[Fingerprints | None, str]:
    """A user's own fingerprints, where there is a key, and what the installation's secret names the user."""
    name = str(Fingerprints(load_secret(home, world)).name("user", user))
    key = UserKeys(home, world).find(name)
    return (Fingerprints(key) if key else None), name
