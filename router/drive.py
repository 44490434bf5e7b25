"""The drivers: perform what the flow yields, send the results back, give its answer.

`drive` blocks and `adrive` awaits; `drive_live` and `adrive_live` also give the parts of the answer as they come.
Everything else is written once, in `router.ride`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import aclosing
from typing import Any

from router.core.answer import Answer
from router.core.call import Chunk
from router.core.effects import Ask, Asked, Flow
from router.models import whole_chunk
from router.pending import Live
from router.ride import Ride


def drive(flow: Flow, ride: Ride) -> Answer:
    """Run one call to its end, blocking."""
    result: Any = None
    try:
        while True:
            try:
                effect = flow.send(result)
            except StopIteration as stop:
                answer: Answer = stop.value
                return answer
            result = ride.perform(effect)
    finally:
        flow.close()
        ride.leave()


async def adrive(flow: Flow, ride: Ride) -> Answer:
    """Run one call to its end, without blocking."""
    result: Any = None
    try:
        while True:
            try:
                effect = flow.send(result)
            except StopIteration as stop:
                answer: Answer = stop.value
                return answer
            result = await ride.aperform(effect)
    finally:
        flow.close()
        ride.leave()


def drive_live(flow: Flow, ride: Ride) -> Generator[Chunk | Answer, None, None]:
    """Run one call to its end, blocking: parts of the answer as they come, and the answer last."""
    result: Any = None
    shown = False
    try:
        while True:
            try:
                effect = flow.send(result)
            except StopIteration as stop:
                yield from _rest(stop.value, shown)
                return
            match effect:
                case Ask(live=True):
                    result = ride.open(effect)
                    if isinstance(result, Live):
                        shown = True
                        result = yield from ride.show(result)
                case _:
                    result = ride.perform(effect)
    finally:
        flow.close()
        ride.leave()


async def adrive_live(flow: Flow, ride: Ride) -> AsyncGenerator[Chunk | Answer, None]:
    """Run one call to its end, without blocking: parts of the answer as they come, and the answer last."""
    result: Any = None
    shown = False
    try:
        while True:
            try:
                effect = flow.send(result)
            except StopIteration as stop:
                for part in _rest(stop.value, shown):
                    yield part
                return
            match effect:
                case Ask(live=True):
                    result = await ride.aopen(effect)
                    if isinstance(result, Live):
                        shown = True
                        async with aclosing(ride.ashow(result)) as showing:
                            async for shown_part in showing:
                                if isinstance(shown_part, Asked):
                                    result = shown_part
                                else:
                                    yield shown_part
                case _:
                    result = await ride.aperform(effect)
    finally:
        flow.close()
        ride.leave()


def _rest(answer: Answer, shown: bool) -> Iterator[Chunk | Answer]:
    """What is left to give when the flow has ended: the answer, after its text where that was not live."""
    if not shown:
        yield whole_chunk(answer.text, answer.tool_calls)
    yield answer
