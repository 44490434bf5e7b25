"""Processes as servers and workers start them: `python -m tests.lifecycle_harness KIND URL HOME`.

`preload` has the order of events of gunicorn's `preload_app`: the application, and with it the router, is made once
(here it has even answered a call), then workers are forked, and one that dies is forked anew. `prefork` has that of
Celery's prefork pool: the module is imported in the parent, workers are forked, and each makes its router in its
initializer. `spawn` starts fresh interpreters. Each worker prints the ids of its calls.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sys
import threading
from pathlib import Path

from router import Router
from tests.support import make_policy

WORKERS, CALLS = 3, 4


def _router(url: str, home: str) -> Router:
    return Router(make_policy({"ladder": ["large"]}, api_base=url), home=Path(home), record=Path(home) / "r.jsonl")


def _recordless(url: str, home: str) -> Router:
    return Router(make_policy({"ladder": ["large"]}, api_base=url), home=Path(home))


def _serve(router: Router) -> None:
    """As a worker does: blocking, from a thread, in two event loops one after the other, many at once, as a stream."""
    ids = [router.route("t", "say=yes").route_id]
    thread = threading.Thread(target=lambda: ids.append(router.route("t", "say=yes").route_id))
    thread.start()
    thread.join()
    ids += [asyncio.run(router.aroute("t", "say=yes")).route_id for _ in range(2)]
    ids += [one.answer.route_id for one in router.map("t", ["say=yes"] * CALLS, concurrency=2) if one.answer]
    with router.route("t", "say=yes", stream=True) as parts:
        list(parts)
    ids.append(parts.answer.route_id)
    os.write(1, "".join(f"{os.getpid()} {one}\n" for one in ids).encode())


def preload(url: str, home: str) -> None:
    """The application is made before the fork, and has answered; one worker is killed and replaced."""
    router = _router(url, home)
    _serve(router)
    children = [_fork(router) for _ in range(WORKERS)]
    os.kill(children[0], signal.SIGKILL)
    children.append(_fork(router))
    for child in children:
        os.waitpid(child, 0)
    _serve(router)


def _fork(router: Router) -> int:
    child = os.fork()
    if child == 0:
        _serve(router)
        router.close()
        os._exit(0)
    return child


def prefork(url: str, home: str, method: str = "fork") -> None:
    """A pool of processes, each of which makes its router when it starts."""
    context = multiprocessing.get_context(method)
    with context.Pool(WORKERS, initializer=_initialize, initargs=(url, home)) as pool:
        pool.map(_task, range(WORKERS * 2), chunksize=1)
        pool.close()
        pool.join()


_worker: Router | None = None


def _initialize(url: str, home: str) -> None:
    global _worker
    _worker = _recordless(url, home)


def _task(_: int) -> None:
    assert _worker
    _serve(_worker)


if __name__ == "__main__":
    kind, url, home = sys.argv[1:]
    match kind:
        case "preload":
            preload(url, home)
        case "prefork":
            prefork(url, home)
        case "spawn":
            prefork(url, home, "spawn")
