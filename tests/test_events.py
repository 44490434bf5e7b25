"""Events: one for each call, strict JSON on one line, and never a word of prompt, answer, key or user."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import math
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from router import Router, RouterWarning, events
from router.core.call import Failure, Reply, Usage
from router.core.faults import Fault
from router.errors import LadderExhausted, NoAnswer, RouterError
from router.events import Event, clean, emit, guarded
from router.testing import Script, ScriptedModels, SimulatedWorld, capture
from router.world import SystemClock
from tests.support import make_policy, read_table

LABELS = {"answer": {"choice": ["yes", "no"]}}
USAGE = Usage(input_tokens=10, output_tokens=1)
_ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=[]), max_size=20)
_HOSTILE = st.sampled_from(
    ["a\nb", "\x1b[31mred", "\u2028", "\u202eabc", '"}\n{"event": "forged', "\ud800", "x" * 5000]
)


def _router(scripts: Any, task: Any = None, **options: Any) -> Router:
    world = SimulatedWorld()
    models = ScriptedModels(scripts, clock=world.clock, latency_s=options.pop("latency_s", None))
    return Router(make_policy({**LABELS, **(task or {})}), backend=models, world=world, **options)


class _Collect(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextmanager
def _logged(level: int = logging.INFO) -> Iterator[list[logging.LogRecord]]:
    """What the standard logger `router` gets at a level."""
    handler = _Collect()
    logger = logging.getLogger("router")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(level)
    try:
        yield handler.records
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)


@pytest.fixture
def configured() -> Iterator[list[Event]]:
    """structlog as an application configures it; the events that its processors saw."""
    seen: list[Event] = []

    def collect(logger: Any, method: str, event: Any) -> Any:
        seen.append({**event, "method": method})
        raise structlog.DropEvent

    structlog.configure(processors=[collect])
    yield seen
    structlog.reset_defaults()


def test_an_answered_call_is_one_event() -> None:
    """Everything that a dashboard needs of a call, in dollars, in one flat event."""
    replies = {"small": Reply("maybe", USAGE), "large": [Failure(Fault.RATE_LIMITED), Reply("no", USAGE)]}
    router = _router(replies, {"retry": {"attempts": 2, "max_wait_s": 0}}, latency_s={"small": 0.5, "large": 1.0})
    with capture() as seen:
        answer = router.route("t", "hi", feature="inbox", tenant="acme", user="ann", session="s1", metadata={"a": 1})
    (event,) = seen
    assert re.fullmatch("[0-9a-f]{16}", event.pop("user"))
    assert event == {
        "event": "route",
        "route_id": answer.route_id,
        "task": "t",
        "outcome": "answered",
        "model": "large",
        "rung": 1,
        "escalated": True,
        "confidence": answer.confidence,
        "confidence_source": "prior",
        "reason": "last rung",
        "attempts": 3,
        "cost_usd": 29_400 / 1e9,
        "marginal_cost_usd": 28_000 / 1e9,
        "baseline_cost_usd": 28_000 / 1e9,
        "latency_ms": 2500.0,
        "feature": "inbox",
        "tenant": "acme",
    }


def test_a_call_without_an_answer_is_one_event() -> None:
    """It names the error's class and the last reason, and has what was spent."""
    router = _router({"small": Reply("maybe", USAGE), "large": Failure(Fault.SERVER_ERROR, 500)})
    with capture() as seen, pytest.raises(LadderExhausted):
        router.route("t", "hi")
    (event,) = seen
    expected: Event = {"outcome": "LadderExhausted", "model": None, "rung": None, "confidence": None, "attempts": 3}
    expected |= {"escalated": True, "cost_usd": 1_400 / 1e9, "baseline_cost_usd": None, "user": None}
    assert {name: event[name] for name in expected} == expected
    assert event["reason"].startswith("server_error (HTTP 500) after 2 attempts: ")


def test_a_cancelled_call_is_one_event() -> None:
    """Leaving is an outcome of its own."""
    models = ScriptedModels({"small": "yes"}, latency_s={"small": 3600.0}, clock=SystemClock())
    router = Router(make_policy(), backend=models, world=SimulatedWorld())

    async def leave() -> None:
        task = asyncio.create_task(router.aroute("t", "hi"))
        for _ in range(3):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with capture() as seen:
        asyncio.run(leave())
    assert [(event["event"], event["outcome"], event["attempts"]) for event in seen] == [("route", "aborted", 1)]


@pytest.mark.parametrize("arguments", [("x", "hi"), ("t", ""), ("t", "hi", "params")], ids=["task", "prompt", "params"])
def test_a_call_that_never_started_is_no_event(arguments: tuple[str, ...]) -> None:
    """A mistake in the arguments is the caller's to see; nothing was asked and nothing is counted."""
    options: Any = {"params": {"n": 2}} if len(arguments) == 3 else {}
    with capture() as seen, pytest.raises(RouterError):
        _router({}).route(*arguments[:2], **options)
    assert seen == []


def test_a_rung_that_is_gone_is_one_warning() -> None:
    """A retired model is told once, however many calls climb past it."""
    router = _router({"small": Failure(Fault.NOT_FOUND, 404), "large": "no"})
    with capture() as seen, pytest.warns(RouterWarning, match="rung 'small' cannot be used") as caught:
        assert [router.route("t", "hi").text for _ in range(3)] == ["no"] * 3
    failed = [event for event in seen if event["event"] == "router.rung_failed"]
    assert failed == [{"event": "router.rung_failed", "task": "t", "model": "small", "fault": "not_found"}]
    assert len(caught) == 1


@pytest.mark.parametrize(
    ("scripts", "told"),
    [
        ({"small": Failure(Fault.AUTH, 401), "large": "no"}, "calls climb past it until that is mended"),
        ({"small": "maybe", "large": Failure(Fault.AUTH, 401)}, "calls that reach it fail until that is mended"),
    ],
    ids=["below", "top"],
)
def test_what_a_lost_rung_means_is_told(scripts: dict[str, Script], told: str) -> None:
    """Nothing climbs past the top rung: its loss is told for what it is."""
    with pytest.warns(RouterWarning, match=told), suppress(LadderExhausted):
        _router(scripts).route("t", "hi")


@functools.cache
def _agreeing_router() -> Router:
    return _router({"small": "yes"})


def _one_line(text: str) -> Event:
    """An event as strict JSON on one line of plain characters."""

    def refuse(constant: str) -> float:
        raise AssertionError(constant)

    assert len(text.splitlines()) == 1
    assert text.isprintable()
    event: Event = json.loads(text, parse_constant=refuse)
    return event


@settings(max_examples=60, deadline=None)
@given(feature=_ANY_TEXT | _HOSTILE, tenant=_ANY_TEXT | _HOSTILE)
def test_hostile_names_stay_on_one_line_of_strict_json(feature: str, tenant: str) -> None:
    """Whatever a caller puts into feature and tenant, a log line is one line, one object, and cannot be forged."""
    with _logged() as records:
        _agreeing_router().route("t", "hi", feature=feature, tenant=tenant)
    (record,) = records
    event = _one_line(record.getMessage())
    assert (event["event"], event["level"], event["outcome"]) == ("route", "info", "answered")
    assert len(event["feature"]) <= 4097
    if feature.isprintable() and len(feature) < 4096:
        assert event["feature"] == feature


@given(fields=st.dictionaries(st.sampled_from(["task", "problem", "hook"]), _ANY_TEXT | _HOSTILE | st.floats()))
def test_any_field_of_any_event_is_clean(fields: dict[str, Any]) -> None:
    """The sink cleans every event, so that no caller of it has to think of that."""
    with _logged() as records, capture() as seen:
        emit("router.test", fields, level=logging.ERROR)
    event = _one_line(records[0].getMessage())
    assert {name: event[name] for name in fields} == {name: seen[0][name] for name in fields}


@pytest.mark.parametrize(
    ("value", "cleaned"),
    [
        ("plain é 漢", "plain é 漢"),
        ("a\nb\x7f\x9b\u2029\u2066\ud800c", "a" + "\ufffd" + "b" + "\ufffd" * 5 + "c"),
        ("x" * 4096, "x" * 4096),
        ("x" * 4097, "x" * 4096 + "…"),
        (math.nan, None),
        (-math.inf, None),
        (0.5, 0.5),
        (True, True),
        (10**30, 10**30),
        (None, None),
        ({"a\n": [math.nan, ("b\0",)]}, {"a\ufffd": [None, ["b\ufffd"]]}),
        (Path("a\nb"), "a\ufffdb"),
        (Fault.TIMEOUT, "timeout"),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_a_value_is_made_to_fit_one_line(value: Any, cleaned: Any) -> None:
    """Control characters, direction marks and lone surrogates are replaced, long text is cut, odd numbers are null."""
    assert clean(value) == cleaned


def test_events_go_through_the_applications_structlog(configured: list[Event]) -> None:
    """Where structlog is configured, its processors get the event as fields, and the standard logger does not."""
    with _logged() as records:
        _router({"small": "yes"}).route("t", "hi", feature="a\nb")
    (event,) = configured
    assert (event["event"], event["method"], event["feature"]) == ("route", "info", "a\ufffdb")
    assert records == []


@pytest.mark.parametrize(
    "wrapper",
    [structlog.make_filtering_bound_logger(logging.INFO), structlog.stdlib.BoundLogger, structlog.BoundLogger],
    ids=["filtering", "stdlib", "generic"],
)
def test_any_wrapper_class_of_structlog_will_do(wrapper: Any, configured: list[Event]) -> None:
    """An application chooses its own bound logger; levels arrive as methods."""
    structlog.configure(wrapper_class=wrapper)
    emit("route", {"task": "t"})
    emit("router.rung_failed", {"task": "t"}, level=logging.WARNING)
    emit("router.ledger_failed", {"problem": "p"}, level=logging.ERROR)
    assert [(event["event"], event["method"]) for event in configured] == [
        ("route", "info"),
        ("router.rung_failed", "warning"),
        ("router.ledger_failed", "error"),
    ]


def test_a_level_that_the_application_filters_is_filtered(configured: list[Event]) -> None:
    """structlog's own threshold holds."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    emit("route", {"task": "t"})
    emit("router.rung_failed", {"task": "t"}, level=logging.WARNING)
    assert [event["event"] for event in configured] == ["router.rung_failed"]


def test_a_broken_log_pipeline_takes_no_answer_away() -> None:
    """A processor that raises costs its event: the call is answered, and a warning names the class and no content."""

    def broken(logger: Any, method: str, event: Any) -> Any:
        raise BrokenPipeError("the prompt")

    structlog.configure(processors=[broken])
    try:
        with pytest.warns(RouterWarning, match="or structlog processors raised BrokenPipeError$"):
            answer = _router({"small": "yes"}).route("t", "hi")
    finally:
        structlog.reset_defaults()
    assert answer.text == "yes"


def test_without_structlog_events_are_json_lines_of_the_standard_logger() -> None:
    """Set the logger `router` to INFO and each call is a line; at WARNING only what went wrong is."""
    router = _router({"small": [Reply("yes", USAGE), Failure(Fault.AUTH)], "large": "no"})
    with _logged() as records:
        router.route("t", "hi")
    assert [_one_line(record.getMessage())["cost_usd"] for record in records] == [1_400 / 1e9]
    with _logged(logging.WARNING) as records, warnings.catch_warnings(action="ignore"):
        router.route("t", "hi")
    assert [(record.levelname, _one_line(record.getMessage())["event"]) for record in records] == [
        ("WARNING", "router.rung_failed")
    ]


def test_nothing_is_printed_by_default(tmp_path: Path) -> None:
    """A library that nobody asked to log is silent, whether calls succeed or fail."""
    code = """
from router import Router
from router.core.call import Failure
from router.core.faults import Fault
from router.errors import NoAnswer
from router.testing import ScriptedModels
from tests.support import make_policy, read_table
models = ScriptedModels({"small": ["yes", Failure(Fault.BAD_REQUEST)]})
with Router(make_policy(), backend=models) as router:
    router.route("t", "hi")
    try:
        router.route("t", "hi")
    except NoAnswer:
        pass
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_an_event_for_nobody_is_not_built() -> None:
    """Without a listener, a logger at INFO or structlog, a call builds no event."""
    assert not events.wanted()
    with capture():
        assert events.wanted()
    with _logged():
        assert events.wanted()
    with _logged(logging.WARNING) as records:
        assert (events.wanted(), events.wanted(logging.WARNING)) == (False, True)
        emit("route", {"task": "t"})
    assert not events.wanted()
    assert records == []


def test_a_users_function_that_raises_is_isolated() -> None:
    """Its exception becomes the default and one event with the class: the text may hold the prompt."""

    def check(value: str) -> bool:
        raise ValueError(f"cannot judge {value}")

    with capture() as seen:
        assert guarded(check, "default")("the prompt") == "default"
    (event,) = seen
    assert event["event"] == "router.hook_failed"
    assert event["error"] == "ValueError"
    assert event["hook"].endswith("check")
    assert "the prompt" not in repr(seen)


def test_a_users_function_that_works_is_left_alone() -> None:
    """Its value comes back, and an interrupt is no exception of its own."""

    def interrupt(value: Any) -> Any:
        raise KeyboardInterrupt

    with capture() as seen:
        assert guarded(len, 0)("four") == 4
        with pytest.raises(KeyboardInterrupt):
            guarded(interrupt, None)("x")
    assert seen == []


CANARIES = {name: f"canary-{name}-7f3a" for name in ("prompt", "answer", "system", "user", "session", "key", "error")}


class _Echo(BaseHTTPRequestHandler):
    """A provider that repeats the whole request in its errors; the path's first part is the status."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
        said = f"{CANARIES['error']}: {asked} with {self.headers['Authorization']}"
        body = json.dumps({"error": {"message": said, "type": "t", "param": None, "code": said}}).encode()
        self.send_response(int(self.path.split("/")[1]))
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def echo() -> Iterator[str]:
    """The address of a provider that repeats everything in its errors."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Echo)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@contextmanager
def _watched(home: Path) -> Iterator[list[str]]:
    """Everything that leaves a call beside its answer: events, log lines, warnings, and afterwards the ledger."""
    said: list[str] = []
    with capture() as seen, _logged(logging.DEBUG) as records, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield said
    said += [repr(event) for event in seen]
    said += [record.getMessage() for record in records]
    said += [str(one.message) for one in caught]
    said += [path.read_text() for path in (home / "segments").iterdir()]


def _leaks(said: list[str]) -> set[str]:
    return {name for name, canary in CANARIES.items() if any(canary in text for text in said)}


def _prompt() -> list[dict[str, str]]:
    return [{"role": "system", "content": CANARIES["system"]}, {"role": "user", "content": CANARIES["prompt"]}]


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500])
@pytest.mark.parametrize("awaited", [False, True], ids=["route", "aroute"])
def test_a_provider_that_repeats_the_request_is_not_quoted(
    status: int, awaited: bool, echo: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompt, key, user and the provider's own words are in no event, log line, warning, ledger row or message."""
    monkeypatch.setenv("OPENAI_API_KEY", CANARIES["key"])
    policy = make_policy({**LABELS, "retry": {"attempts": 1}}, api_base=f"{echo}/{status}")
    options: Any = {"user": CANARIES["user"], "session": CANARIES["session"]}
    with _watched(home) as said, Router(policy) as router, pytest.raises(NoAnswer) as caught:
        asyncio.run(router.aroute("t", _prompt(), **options)) if awaited else router.route("t", _prompt(), **options)
    said += [str(caught.value), repr(caught.value), repr(caught.value.attempts)]
    assert len(said) > 4
    assert _leaks(said) == set()


_ANSWER = CANARIES["answer"]


@pytest.mark.parametrize(
    ("answer_kind", "reply"),
    [
        ({"choice": ["yes", "no"]}, _ANSWER),
        ({"number": {"max": 1}}, f"{_ANSWER} 5"),
        ({"json": {"type": "object", "properties": {"a": {"type": "integer"}}}}, json.dumps({"a": _ANSWER})),
        ({"json": {"enum": [1]}}, json.dumps(_ANSWER)),
        ({"pattern": "[0-9]+"}, _ANSWER),
        ({"text": {"max_chars": 3}}, _ANSWER),
        ({"text": {}}, _ANSWER),
    ],
    ids=["choice", "number", "schema", "enum", "pattern", "text", "accepted"],
)
def test_an_answer_is_not_quoted_in_the_reason(answer_kind: Any, reply: str, home: Path) -> None:
    """Why a draft was not usable is told in our words, whichever kind of answer it failed to be."""
    models = ScriptedModels({"small": reply, "large": reply})
    with _watched(home) as said, Router(make_policy({"answer": answer_kind}), backend=models) as router:
        router.route("t", _prompt(), user=CANARIES["user"])
    assert len(said) >= 3
    assert _leaks(said) == set()


def _raises(value: Any) -> bool:
    raise ValueError(value, CANARIES["error"])


@pytest.mark.parametrize(
    "script",
    [
        Failure(Fault.BAD_REQUEST, provider_message=CANARIES["error"]),
        Failure(Fault.CONTENT_FILTER, provider_message=CANARIES["error"]),
        Failure(Fault.NOT_FOUND, provider_message=CANARIES["error"]),
        ValueError(CANARIES["error"]),
        _ANSWER,
    ],
    ids=["refused", "filtered", "gone", "exception", "own-check"],
)
def test_a_failure_is_told_in_our_own_words(script: Any, home: Path) -> None:
    """Messages of a provider and exceptions of a backend or a user's check may repeat the prompt: they are not kept."""
    models = ScriptedModels({"small": script, "large": _ANSWER})
    router = Router(make_policy(), backend=models, checks={"t": _raises})
    with _watched(home) as said, router:
        try:
            router.route("t", _prompt(), user=CANARIES["user"], session=CANARIES["session"])
        except NoAnswer as error:
            said += [str(error), repr(error), repr(error.attempts)]
        except ValueError:
            pass  # The backend's own exception is the caller's to see.
    assert len(said) >= 3
    assert _leaks(said) == set()


def test_a_broken_ledger_quotes_nothing() -> None:
    """The alarm names the folder and the system's reason."""
    world = SimulatedWorld()
    world.disk.error = OSError(28, "No space left on device", CANARIES["prompt"])
    router = Router(make_policy(), backend=ScriptedModels({"small": _ANSWER}), world=world)
    with capture() as seen, pytest.warns(RouterWarning, match="No space left on device") as caught:
        router.route("t", _prompt(), user=CANARIES["user"])
    assert _leaks([repr(seen), *(str(one.message) for one in caught)]) == set()


# What the application's own code may do to a paid answer: nothing.


class _Broken(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise OSError("disk full")


def _refuse(record: logging.LogRecord) -> bool:
    raise KeyError("no such field")


@pytest.mark.parametrize("part", ["handler", "filter"])
def test_a_broken_log_handler_takes_no_answer_away(part: str, home: Path) -> None:
    """A handler or filter of the logger `router` that raises costs its event; the call is answered and recorded."""
    handler = _Broken()
    with Router(make_policy(), backend=ScriptedModels({"small": "yes"})) as router, _logged():
        logger = logging.getLogger("router")
        if part == "handler":
            logger.addHandler(handler)
        else:
            logger.addFilter(_refuse)
        try:
            with pytest.warns(RouterWarning, match="log handlers or structlog processors raised (OSError|KeyError)$"):
                answer = router.route("t", "hi")
        finally:
            logger.removeHandler(handler)
            logger.removeFilter(_refuse)
    assert answer.text == "yes"
    assert [row["state"] for row in read_table(home, "attempts")] == ["settled"]


@pytest.mark.parametrize("trouble", ["log", "hook", "rung", "disk"])
def test_warnings_as_errors_take_no_answer_away(trouble: str) -> None:
    """Under `-W error` whatever warns still answers: a lost event, a broken check, a dead rung, a full disk."""
    world = SimulatedWorld()
    checks = {"t": _raises} if trouble == "hook" else {}
    small = Failure(Fault.AUTH, 401) if trouble == "rung" else "yes"
    models = ScriptedModels({"small": small, "large": "yes"})
    router = Router(make_policy(), backend=models, world=world, checks=checks)
    world.disk.error = OSError(28, "No space left on device") if trouble == "disk" else None
    handler = _Broken()
    with _logged(), warnings.catch_warnings(action="error"):
        if trouble == "log":
            logging.getLogger("router").addHandler(handler)
        answer = router.route("t", "hi")
        logging.getLogger("router").removeHandler(handler)
    assert answer.text == "yes"


def test_a_warning_that_cannot_be_shown_takes_no_answer_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """An application may replace how warnings are shown, with a function that raises."""

    def show(*_: Any, **__: Any) -> None:
        raise ValueError("cannot show")

    router = _router({"small": Failure(Fault.AUTH, 401), "large": "yes"})
    with warnings.catch_warnings(action="always"):
        monkeypatch.setattr(warnings, "showwarning", show)
        assert router.route("t", "hi").text == "yes"


class _Undecided:
    def __bool__(self) -> bool:
        raise ValueError("ambiguous")


@pytest.mark.parametrize("verdict", [_Undecided(), np.array([True, False])], ids=["odd", "array"])
def test_a_check_that_returns_no_truth_counts_as_no(verdict: Any) -> None:
    """What a check returns is read inside its guard: the draft climbs, and one event tells."""
    models = ScriptedModels({"small": "yes", "large": "yes"})
    router = Router(make_policy(), backend=models, world=SimulatedWorld(), checks={"t": lambda value: verdict})
    with capture() as seen, pytest.warns(RouterWarning, match="raised ValueError; what it was asked counts as False"):
        answer = router.route("t", "hi")
    assert (answer.text, answer.steps[0].action) == ("yes", "escalate")
    assert [event["event"] for event in seen].count("router.hook_failed") == 2


def test_a_warning_names_the_caller_s_line() -> None:
    """A warning points at the code that called `route`, so that each caller's filter and eye can find it."""
    router = _router({"small": Failure(Fault.AUTH, 401), "large": "yes"})
    with pytest.warns(RouterWarning) as caught:
        router.route("t", "hi")
    assert [one.filename for one in caught] == [__file__]
