"""The error tree: as drawn, picklable, and silent about prompts, keys and providers' words."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from typing import Any, get_type_hints

import pytest

from router import errors
from router.core.answer import Attempt
from router.core.call import Failure, Usage
from router.core.cascade import cascade
from router.core.checks import build_check
from router.core.effects import Asked, Do, Finish, Request
from router.core.faults import FAULTS, Fault
from router.core.plan import Plan, Rung
from router.core.policy import AnswerKind, Model, Price, Task, TextAnswer
from router.core.pricing import Amount
from router.errors import NoAnswer, PolicyError, RequestRefused, RouterError, RouterWarning, UnknownTask

ERRORS = [kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, RouterError)]
ATTEMPT = Attempt(
    attempt_id="a1",
    rung=0,
    model="small",
    number=1,
    model_asked="a/small",
    model_served=None,
    fault=Fault.TIMEOUT,
    status=408,
    usage=Usage(1),
    usage_source="provider",
    amount=Amount("maybe_billed", 0, 5),
    latency_ms=1.5,
)


def drawn() -> dict[str, tuple[str | None, str | None]]:
    """The tree in the module's docstring: each error's parent there, and its second base."""
    found: dict[str, tuple[str | None, str | None]] = {}
    parents: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.fullmatch(r" {4}((?:[│ ] {3})*)(?:[├└]── )?(\w+)(?: \(also (\w+)\)| \(a (\w+)\))?", line)
        if match:
            depth = len(match[1]) // 4 + ("── " in line)
            parents[depth:] = [match[2]]
            found[match[2]] = (parents[depth - 1] if depth else match[4], match[3])
    return found


def built() -> dict[str, tuple[str | None, str | None]]:
    """The tree of the classes themselves, in the same form."""
    found: dict[str, tuple[str | None, str | None]] = {}
    for kind in [*ERRORS, RouterWarning]:
        bases = [base.__name__ for base in kind.__bases__ if base is not Exception]
        found[kind.__name__] = (bases[0] if bases else None, bases[1] if len(bases) > 1 else None)
    return found


def fields_of(kind: type[RouterError]) -> dict[str, Any]:
    """A value for each field that a class declares; types do not matter to pickling."""
    values = {name: f"value of {name}" for name in get_type_hints(kind, {"Attempt": Attempt})}
    return {**values, **({"attempts": (ATTEMPT,)} if "attempts" in values else {})}


def make(kind: type[RouterError]) -> RouterError:
    """An error of a class with all its fields."""
    return kind("what is wrong; what to do", **fields_of(kind))


def test_the_tree_is_as_it_is_drawn() -> None:
    """The docstring is the documentation: every class, its parent and its second base."""
    assert drawn() == built()
    assert len(drawn()) > 10


def test_every_error_is_a_router_error_and_the_warning_is_not() -> None:
    """`except RouterError` catches everything that is raised on purpose."""
    assert RouterError.__bases__ == (Exception,)
    assert issubclass(RouterWarning, UserWarning)
    assert not issubclass(RouterWarning, RouterError)


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_says_what_it_means(kind: type[RouterError]) -> None:
    """Each class has a docstring of its own."""
    assert kind.__doc__
    assert kind.__doc__ not in {base.__doc__ for base in kind.__bases__}


@pytest.mark.parametrize("clone", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy], ids=["pickle", "copy"])
@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_an_error_survives_pickling_with_its_fields(kind: type[RouterError], clone: Any) -> None:
    """An error in a worker process arrives whole in the process that asked."""
    error = make(kind)
    twin = clone(error)
    assert type(twin) is kind
    assert (str(twin), twin.args) == (str(error), error.args)
    assert {name: getattr(twin, name) for name in fields_of(kind)} == {
        name: getattr(error, name) for name in fields_of(kind)
    }


def test_an_error_without_an_answer_keeps_its_attempts() -> None:
    """What was tried and what it cost is not lost with the answer."""
    error = NoAnswer("nothing", route_id="r1", task="t", attempts=(ATTEMPT, ATTEMPT))
    twin = pickle.loads(pickle.dumps(error))
    assert (twin.route_id, twin.task, twin.attempts) == ("r1", "t", (ATTEMPT, ATTEMPT))


def test_a_policy_error_names_place_path_and_problem() -> None:
    """File, line and dotted path stand before the problem, as far as they are known."""
    assert str(PolicyError("is wrong", path="p.yml", line=3, where="tasks.t")) == "p.yml:3: tasks.t: is wrong"
    assert str(PolicyError("is wrong", path="p.yml")) == "p.yml: is wrong"
    assert str(PolicyError("is wrong", where="tasks.t")) == "tasks.t: is wrong"
    assert str(PolicyError("is wrong")) == "is wrong"


def test_a_policy_error_with_others_survives_pickling() -> None:
    """Its message is put together once, not again on the other side."""
    error = PolicyError("one", path="p.yml", line=3, where="a.b", others=("p.yml:4: c: two",))
    twin = pickle.loads(pickle.dumps(error))
    assert str(twin) == str(error) == "p.yml:3: a.b: one\np.yml:4: c: two"
    assert (twin.path, twin.line, twin.where, twin.others) == ("p.yml", 3, "a.b", ("p.yml:4: c: two",))


@pytest.mark.parametrize(
    ("kind", "base"),
    [(PolicyError, ValueError), (errors.InvalidCall, ValueError), (UnknownTask, LookupError)],
    ids=lambda kind: kind.__name__,
)
def test_an_error_is_also_what_python_calls_it(kind: type[RouterError], base: type[Exception]) -> None:
    """Code that knows nothing of this library can catch it."""
    with pytest.raises(base):
        raise make(kind)


PROMPT, PROVIDER, KEY = "the customer's secret prompt", "Provider says: invalid key sk-12345", "sk-12345"


def ended(failure: Failure) -> Finish:
    """How a call ends whose only rung fails so."""
    rung = Rung("small", Model("a/small"), Price(), None)
    plan = Plan("t", Task(("small",)), (rung,), build_check(AnswerKind(text=TextAnswer())))
    flow = cascade(plan, Request("r1", ({"role": "user", "content": PROMPT},), len(PROMPT)))
    next(flow)
    effect = flow.send(Asked(failure, (ATTEMPT,), 0.1))
    assert isinstance(effect, Do)
    assert isinstance(effect.operation, Finish)
    return effect.operation


@pytest.mark.parametrize("fault", Fault)
def test_no_error_repeats_a_prompt_or_a_provider(fault: Fault) -> None:
    """Neither its message nor its representation nor the reasons of its steps: they are logged."""
    finish = ended(Failure(fault, 400, provider_message=PROVIDER))
    assert isinstance(finish.error, NoAnswer)
    told = [str(finish.error), repr(finish.error), *(step.reason for step in finish.steps), repr(finish.attempts)]
    assert [text for text in told if PROMPT in text or PROVIDER in text or KEY in text] == []
    assert FAULTS[fault].why in str(finish.error)


def test_the_provider_s_words_are_kept_apart() -> None:
    """Whoever catches a refused request can read them, on purpose."""
    error = ended(Failure(Fault.BAD_REQUEST, 422, provider_message=PROVIDER)).error
    assert isinstance(error, RequestRefused)
    assert (error.provider_message, error.status) == (PROVIDER, 422)
    assert repr(Failure(Fault.BAD_REQUEST, provider_message=PROVIDER)).count(PROVIDER) == 0
