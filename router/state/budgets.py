"""Budgets within one process: room is reserved before a request leaves and settled with what it cost.

The process takes blocks of each budget from the shared store and spends them here, so that a request costs a few
microseconds and no two processes can spend the same cent.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from router.core.counters import Line, Refusal
from router.errors import StateError
from router.forks import visiting
from router.state.blocks import BlockStore, Budget, InUse, Place, Visit
from router.state.sheets import Sheet
from router.windows import dated, moment_text, span
from router.world import World

# A block is this part of the limit while there is plenty.
_BLOCKS_IN_LIMIT = 50
# Blocks that a process keeps at most where nothing is under way; users come and go.
_MOST_BLOCKS = 1000
# No limit is higher, and a few of these still fit into a cell of the sheet.
_MOST_UNITS = 10**18


class _Block:
    """Room of one budget that this process may spend."""

    __slots__ = ("budget", "cells", "granted", "held", "holds", "place", "replaced", "scarce", "sheet", "used")

    def __init__(self, budget: Budget, sheet: Sheet) -> None:
        self.budget = budget
        self.sheet = sheet
        self.cells = sheet.cells
        self.place = sheet.free.pop()
        self.used, self.held = 2 * self.place, 2 * self.place + 1  # Where its figures stand in the sheet.
        self.granted = 0
        self.holds = 0  # Requests under way.
        self.scarce = False
        self.replaced = False  # It ends with its last request.

    @property
    def at(self) -> Place:
        return Place(self.sheet.name, self.place)

    def free(self) -> None:
        """Let its place be used again: nothing refers to it any more."""
        self.cells[self.used] = self.cells[self.held] = 0
        self.sheet.free.append(self.place)


class Hold:
    """Room that is reserved for one request."""

    __slots__ = ("age", "lines", "parts")

    def __init__(self, age: int, lines: Sequence[Line]) -> None:
        self.age = age
        self.lines = lines
        self.parts: list[tuple[_Block, int, bool]] = []
        """Blocks with the units that are taken from them, and whether those are dollars."""


class SharedBudgets:
    """The budgets of one installation as this process spends them; safe to use from threads and forked children."""

    def __init__(self, folder: Path, world: World, *, synchronous: bool = False) -> None:
        self._store = BlockStore(folder, world, synchronous=synchronous)
        self._world = world
        self._blocks: dict[str, _Block] = {}
        self._ended: list[_Block] = []  # To be given back with the next visit.
        self._sheets: list[Sheet] = []
        self._closing = False
        self._age = 0  # Of the process: a forked child has nothing to do with its parent's holds.
        # Reentrant, because a signal handler may route, too.
        self._lock = threading.RLock()
        forked = weakref.WeakMethod(self._forked)
        os.register_at_fork(after_in_child=lambda: (method := forked()) and method())

    def reserve(self, lines: Sequence[Line], nusd: int, *, escalates: bool = False) -> Hold | Refusal:
        """Room for a request of at most this cost in every budget, or what is said of the first without room.

        Raises
        ------
        StateError
            The shared state cannot be read or written.
        """
        with self._lock:
            now_s, escalations = dated(self._world.clock.time()), int(escalates)
            hold = Hold(self._age, lines)
            try:
                for line in lines:
                    in_dollars = line.counter.unit == "usd"
                    units = nusd if in_dollars else escalations
                    if not units:
                        continue
                    found = self._room(line, units, now_s)
                    if isinstance(found, Refusal):
                        self._undo(hold)
                        return found
                    found.cells[found.used] += units
                    if in_dollars:
                        found.cells[found.held] += units
                    found.holds += 1
                    hold.parts.append((found, units, in_dollars))
            except StateError:
                self._undo(hold)
                raise
            return hold

    def drop(self, hold: Hold) -> None:
        """Take a hold back: its request never left."""
        with self._lock:
            if hold.age == self._age:
                self._undo(hold)

    def settle(self, hold: Hold, nusd: int) -> None:
        """Count what a request cost, or may have cost, in place of what was reserved for it."""
        with self._lock:
            if hold.age != self._age:
                return
            nusd = min(nusd, _MOST_UNITS)
            if nusd and not any(in_dollars for _, _, in_dollars in hold.parts):
                with suppress(StateError):
                    self.charge(hold.lines, nusd)  # It was to be free, so that nothing was reserved.
            for block, units, in_dollars in hold.parts:
                if in_dollars:
                    block.cells[block.used] += nusd - units
                    block.cells[block.held] -= units
                    if block.cells[block.used] > block.granted:
                        self._cover(block)
                self._let_go(block)
            hold.parts = []
            self._flush()

    def charge(self, lines: Sequence[Line], nusd: int) -> None:
        """Count what was spent already, whether there is room for it or not.

        Raises
        ------
        StateError
            The shared state cannot be read or written.
        """
        with self._lock:
            now_s, nusd = dated(self._world.clock.time()), min(nusd, _MOST_UNITS)
            for line in lines:
                if nusd and line.counter.unit == "usd":
                    found = self._room(line, nusd, now_s, force=True)
                    assert isinstance(found, _Block)
                    found.cells[found.used] += nusd

    def in_use(self) -> list[InUse]:
        """Every budget whose window is open, all processes together.

        Raises
        ------
        StateError
            The shared state cannot be read or written.
        """
        with self._store.visit() as visit:
            visit.recover()
            return visit.in_use(dated(self._world.clock.time()))

    def close(self) -> None:
        """Give every block back, as soon as nothing is under way."""
        with self._lock:
            self._closing = True
            for block in [block for block in self._blocks.values() if not block.holds]:
                self._end(block)
            self._flush()

    def _room(self, line: Line, units: int, now_s: float, *, force: bool = False) -> _Block | Refusal:
        self._closing = False
        counter = line.counter
        block = self._blocks.get(line.name)
        if block is not None:
            budget = block.budget
            start_s, end_s = budget.span
            if not start_s <= now_s < end_s or budget.limit != counter.limit:
                self._replace(block)
                block = None
        if block is None:
            window = span(counter.window, counter.time_zone, now_s)
            block = _Block(Budget(line.name, window, counter.limit, counter.time_zone), self._sheet())
        if block.granted - block.cells[block.used] >= units:
            return block
        return self._enlarged(line, block, units, now_s, force)

    def _enlarged(self, line: Line, block: _Block, units: int, now_s: float, force: bool) -> _Block | Refusal:
        """A block that holds as much as is needed; where there is not enough, none keeps more than it uses."""
        budget, used, is_new = block.budget, block.cells[block.used], not block.granted
        self._evict(block)
        try:
            with self._store.visit() as visit:
                self._give_back(visit)
                wish = budget.limit // _BLOCKS_IN_LIMIT
                taken = visit.take(budget, block.at, units - (block.granted - used), wish, force=force)
                # In the same visit: nobody is refused for room that another who was refused has no more use for.
                if not taken.granted and block.holds:
                    visit.shrink(block.at, used)
                elif not taken.granted:
                    visit.give_back(block.at, used)
        except StateError:
            if is_new:
                block.free()
            raise
        self._gave_back()
        if taken.granted:
            block.granted += taken.granted
            block.scarce = taken.scarce
            self._blocks[budget.name] = block
            return block
        if block.holds:
            block.granted = used
        else:
            self._blocks.pop(budget.name, None)
            block.free()
        resets_s = budget.span.end_s
        return Refusal(line, taken.spent, units, moment_text(resets_s, budget.time_zone), resets_s - now_s)

    def _cover(self, block: _Block) -> None:
        """Where a request cost more than its bound, others must not spend what is gone already."""
        missing = block.cells[block.used] - block.granted
        wish = block.budget.limit // _BLOCKS_IN_LIMIT
        with suppress(StateError):  # It is tried again when the block is used, and counted when it is given back.
            with self._store.visit() as visit:
                taken = visit.take(block.budget, block.at, missing, wish, force=True)
            block.granted += taken.granted
            block.scarce = taken.scarce

    def _undo(self, hold: Hold) -> None:
        for block, units, in_dollars in hold.parts:
            block.cells[block.used] -= units
            if in_dollars:
                block.cells[block.held] -= units
            self._let_go(block)
        hold.parts = []
        self._flush()

    def _let_go(self, block: _Block) -> None:
        block.holds -= 1
        if not block.holds and (block.scarce or block.replaced or self._closing):
            self._end(block)

    def _replace(self, block: _Block) -> None:
        """Its window is over, or its limit another."""
        block.replaced = True
        self._blocks.pop(block.budget.name, None)
        if not block.holds:
            self._ended.append(block)

    def _end(self, block: _Block) -> None:
        if self._blocks.get(block.budget.name) is block:
            del self._blocks[block.budget.name]
        self._ended.append(block)

    def _evict(self, wanted: _Block) -> None:
        """Where there are too many blocks, end some of the oldest that nothing is under way in."""
        if len(self._blocks) > _MOST_BLOCKS:
            idle = [block for block in self._blocks.values() if not block.holds and block is not wanted]
            for block in idle[: _MOST_BLOCKS // 10]:
                self._end(block)

    def _flush(self) -> None:
        """Give back what has ended; where that cannot be written now, the next visit or another process does."""
        if self._ended:
            with suppress(StateError):
                with self._store.visit() as visit:
                    self._give_back(visit)
                self._gave_back()
        if self._closing and not self._blocks and not self._ended:
            self._closing = False
            for sheet in self._sheets:
                sheet.remove()
            self._sheets = []

    def _give_back(self, visit: Visit) -> None:
        for block in self._ended:
            visit.give_back(block.at, block.cells[block.used])

    def _gave_back(self) -> None:
        for block in self._ended:
            block.free()
        self._ended = []

    def _sheet(self) -> Sheet:
        for sheet in self._sheets:
            if sheet.free:
                return sheet
        with visiting():  # A child that inherits one has to find it here.
            self._sheets.append(self._store.sheet())
        return self._sheets[-1]

    def _forked(self) -> None:
        # The child's copies share the parent's locks and must not outlive the parent's.
        self._lock = threading.RLock()
        self._age += 1
        for sheet in self._sheets:
            sheet.close()
        self._blocks, self._ended, self._sheets, self._closing = {}, [], [], False
