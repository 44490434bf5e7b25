"""Tools: which calls can be run, who goes on in a loop, and how a conversation changes models without a loss."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from router import Answer, Router
from router.core.call import Call, Message, Reply, ToolCall, to_messages
from router.core.checks import Verdict
from router.core.tools import Marks, Tools, marked, rung_of, translated
from router.errors import CostLimitExceeded, InvalidCall
from router.models import Facts
from router.spec import tools_of
from router.testing import ScriptedModels, SimulatedWorld
from tests.support import make_policy
from tests.upstream import Upstream

LOOK = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Looks something up.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}},
            "required": ["a"],
            "additionalProperties": False,
        },
    },
}
WAIT = {"type": "function", "function": {"name": "wait"}}
NAMED = {"type": "function", "function": {"name": "look"}}


def _call(name: str = "look", arguments: str = '{"a":1}', call_id: str = "x") -> ToolCall:
    return ToolCall(call_id, name, arguments)


def _reply(*calls: ToolCall, text: str = "", **fields: Any) -> Reply:
    return Reply(text, None, finish_reason="tool_calls" if calls else "stop", tool_calls=calls, **fields)


def _tools(choice: Any = None) -> Tools:
    tools = tools_of([LOOK, WAIT], choice)
    assert tools is not None
    return tools


def _router(scripts: Any, task: Any = None, **options: Any) -> tuple[Router, ScriptedModels]:
    models = ScriptedModels(scripts, facts=options.pop("facts", None))
    return Router(make_policy(task), backend=models, world=SimulatedWorld(), **options), models


def _user(text: str = "hello") -> Message:
    return {"role": "user", "content": text}


def _result(call: ToolCall, content: str = "7") -> Message:
    return {"role": "tool", "tool_call_id": call.id, "content": content}


# Which calls can be run


@pytest.mark.parametrize(
    ("choice", "calls", "expected"),
    [
        (None, [], None),
        ("auto", [], None),
        ("none", [], None),
        ("required", [], Verdict(False, None, "calls no tool, although one is required")),
        (NAMED, [], Verdict(False, None, "calls no tool, although one is required")),
        (None, [_call()], Verdict(True)),
        (None, [_call(), _call("wait", "")], Verdict(True)),
        ("required", [_call()], Verdict(True)),
        (NAMED, [_call()], Verdict(True)),
        (NAMED, [_call("wait", "{}")], Verdict(False, None, "calls 'wait', which the call's tool_choice rules out")),
        ("none", [_call()], Verdict(False, None, "calls 'look', which the call's tool_choice rules out")),
        (None, [_call("find")], Verdict(False, None, "calls a tool that was not offered")),
        (None, [_call(), _call("")], Verdict(False, None, "calls a tool that was not offered")),
        (None, [_call(arguments='{"a":')], Verdict(False, None, "calls 'look' with arguments that are no JSON")),
        (None, [_call(arguments='{"a":NaN}')], Verdict(False, None, "calls 'look' with arguments that are no JSON")),
        (None, [_call(arguments="[" * 99_999)], Verdict(False, None, "calls 'look' with arguments that are no JSON")),
        (None, [_call("wait", "5")], Verdict(False, None, "calls 'wait' with arguments that are no JSON object")),
        (
            None,
            [_call(arguments='{"a":"one"}')],
            Verdict(
                False,
                None,
                "calls 'look' with arguments that do not fit: does not fit the JSON Schema at properties/a/type",
            ),
        ),
    ],
)
def test_a_verdict_says_whether_the_calls_can_be_run(
    choice: Any, calls: list[ToolCall], expected: Verdict | None
) -> None:
    """`None` leaves the text to be judged; no reason repeats what the model made up."""
    assert _tools(choice).verdict(calls) == expected


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ('{"a":"one"}', "the draft calls 'look' with arguments that do not fit: does not fit the JSON Schema at "),
        ("{", "the draft calls 'look' with arguments that are no JSON"),
        ("[" * 99_999, "the draft calls 'look' with arguments that are no JSON"),
    ],
)
def test_a_draft_with_bad_arguments_climbs(arguments: str, reason: str) -> None:
    """What cannot be run is not usable, however sure the draft is."""
    router, _ = _router({"small": _reply(_call(arguments=arguments)), "large": _reply(_call())}, {"threshold": 0.0})
    answer = router.route("t", "hello", tools=[LOOK])
    assert answer.rung == 1
    assert answer.steps[0].reason.startswith(reason)
    assert [call.parsed for call in answer.tool_calls] == [{"a": 1}]


def test_a_draft_that_calls_an_unknown_tool_climbs() -> None:
    """A tool that was not offered cannot be run."""
    router, _ = _router({"small": _reply(_call("rm")), "large": "done"}, {"threshold": 0.0})
    answer = router.route("t", "hello", tools=[LOOK])
    assert (answer.text, answer.steps[0].reason) == ("done", "the draft calls a tool that was not offered")


@pytest.mark.parametrize("choice", ["required", NAMED])
def test_a_draft_that_calls_nothing_although_it_must_climbs(choice: Any) -> None:
    """`tool_choice` is part of what a usable draft is."""
    router, models = _router({"small": "no need", "large": _reply(_call())}, {"threshold": 0.0})
    answer = router.route("t", "hello", tools=[LOOK], tool_choice=choice)
    assert (answer.rung, answer.finish_reason) == (1, "tool_calls")
    assert models.history[0].params["tool_choice"] == choice


def test_a_call_needs_no_text_and_the_tasks_answer_kind_waits_for_the_text() -> None:
    """While tools are called there is nothing to find a label in; the last turn is judged as ever."""
    task = {"answer": {"choice": ["yes", "no"]}, "threshold": 0.0}
    router, _ = _router({"small": [_reply(_call()), "perhaps"], "large": "yes"}, task)
    asked = router.route("t", "hello", tools=[LOOK])
    assert (asked.rung, asked.text, asked.parsed) == (0, "", None)
    done = router.route("t", [_user(), asked.message, _result(asked.tool_calls[0])], tools=[LOOK])
    assert (done.text, done.steps[0].reason) == ("yes", "the draft names none of the 2 labels")


# Ids


def test_ids_name_their_rung_and_are_one_for_each_call() -> None:
    """A model that repeats an id, or gives none, still gets calls that results can be told apart by."""
    calls = marked([_call(call_id="x"), _call(call_id="x"), _call(call_id="")], 1, "r1")
    assert [call.id for call in calls] == ["x--r1", "call_r1_1--r1", "call_r1_2--r1"]


def test_parts_of_a_live_call_have_its_id_once() -> None:
    """The id comes with the first part, whoever made it up; later parts need none."""
    marks = Marks(0, "r1")
    first = marks.parts([{"index": 0, "id": "x"}, {"index": 1}])
    assert [part["id"] for part in first] == ["x--r0", "call_r1_1--r0"]
    assert marks.parts([{"index": 0, "id": "x"}, {"index": 1}]) == ({"index": 0, "id": "x"}, {"index": 1})


def _assistant(*ids: str, **more: Any) -> Message:
    calls = [{"id": i, "type": "function", "function": {"name": "look", "arguments": "{}"}} for i in ids]
    return {"role": "assistant", "content": None, "tool_calls": calls, **more}


@pytest.mark.parametrize(
    ("messages", "rung"),
    [
        ([_user()], None),
        ([_user(), _assistant("x--r1"), {"role": "tool", "tool_call_id": "x--r1", "content": "7"}], 1),
        ([_assistant("x", "y--r2"), *[{"role": "tool", "tool_call_id": i, "content": ""} for i in ("x", "y--r2")]], 2),
        ([_assistant("x"), {"role": "tool", "tool_call_id": "x", "content": "7"}], None),
        ([_assistant("x--r1"), {"role": "tool", "tool_call_id": "x--r1", "content": "7"}, _user()], None),
        ([_user(), {"role": "assistant", "content": "done"}], None),
        ([{"role": "tool", "tool_call_id": "x--r1", "content": "7"}], None),
        ([], None),
    ],
)
def test_the_rung_that_goes_on_is_the_one_whose_calls_were_answered_last(messages: Any, rung: int | None) -> None:
    """Outside a tool loop, and for calls that were not made here, there is none."""
    assert rung_of(messages) == rung


# Conversations that change models

_BARE = st.sampled_from(["call_0", "call_1", "x", "", "a.b", "ü", "toolu_01A", "x--r1", "c" * 41]) | st.text(max_size=5)
_TEXTS = st.none() | st.text(max_size=5)


@st.composite
def _turns(draw: st.DrawFn) -> list[Message]:
    """A conversation in which any rung made any of the turns, ids as small servers give them."""
    told: list[Message] = []
    for _ in range(draw(st.integers(1, 5))):
        told.append(_user(draw(st.text(max_size=5))))
        maker = draw(st.integers(0, 2))
        given_ids = draw(st.lists(_BARE, max_size=3))
        calls = marked([_call(call_id=i) for i in given_ids], maker, f"r{len(told)}")
        extras: dict[str, Any] = draw(
            st.sampled_from([{}, {"thinking_blocks": [{"signature": "s"}]}, {"reasoning_content": "r"}])
        )
        message: dict[str, Any] = {"role": "assistant", "content": draw(_TEXTS), **extras}
        if calls:
            message["tool_calls"] = [call.part for call in calls]
        told += [message, *(_result(call, draw(st.text(max_size=5))) for call in draw(st.permutations(calls)))]
    return told


def _ids(message: Message) -> list[str]:
    return [call["id"] for call in message.get("tool_calls") or ()]


@settings(max_examples=300)
@given(messages=_turns(), rung=st.integers(0, 2))
def test_a_translated_conversation_is_valid_for_any_vendor(messages: list[Message], rung: int) -> None:
    """Calls and results stay together; foreign ids are portable, used once, and nobody's marks are left."""
    told = translated(messages, rung)
    own = {i for m in messages for i in _ids(m) if i.endswith(f"--r{rung}")}
    own_bare = [re.sub(r"--r\d$", "", i) for m in messages for i in _ids(m) if i in own]
    sent = [i for message in told for i in _ids(message)]
    foreign = list(sent)
    for one in own_bare:
        foreign.remove(one)  # The rung's own ids are as it gave them.
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,40}", one) for one in foreign)
    assert len(set(foreign)) == len(foreign)
    assert not set(foreign) & set(own_bare)

    waiting: list[str] = []
    for before, after in zip(messages, told, strict=True):
        assert (after["role"], after.get("content")) == (before["role"], before.get("content"))
        if after["role"] == "tool":
            waiting.remove(after["tool_call_id"])  # Each result answers a call of the turn before it.
        else:
            assert waiting == []
            waiting = _ids(after)
    assert waiting == []


@given(messages=_turns(), rung=st.integers(0, 2))
def test_translation_is_idempotent_and_leaves_the_callers_messages_alone(messages: list[Message], rung: int) -> None:
    """What one rung is sent is a conversation like any other; the caller goes on with the original."""
    # An id that looks marked when it comes from a model is a router's own, behind ours; it loses one mark each time.
    assume(not any(re.search(r"--r\d--r\d$", i) for message in messages for i in _ids(message)))
    original = json.dumps(messages)
    told = translated(messages, rung)
    assert translated(told, rung) == told
    assert json.dumps(messages) == original


@given(messages=_turns(), rung=st.integers(0, 2))
def test_a_rungs_own_turns_come_back_as_it_gave_them(messages: list[Message], rung: int) -> None:
    """Signed thinking and its own ids go back to the model that made them, and to no other."""
    for before, after in zip(messages, translated(messages, rung), strict=True):
        if before["role"] != "assistant" or not _ids(before):
            continue
        extras = set(before) - {"role", "content", "tool_calls"}
        if _ids(before)[0].endswith(f"--r{rung}"):
            assert [f"{i}--r{rung}" for i in _ids(after)] == _ids(before)
            assert {key: after[key] for key in extras} == {key: before[key] for key in extras}
        else:
            assert not extras & set(after)


@given(st.lists(st.sampled_from([_user("a"), {"role": "system", "content": "b"}]), min_size=1, max_size=3))
def test_a_conversation_without_tools_is_sent_as_it_is(messages: list[Message]) -> None:
    """Nothing is copied or changed where there is nothing to translate."""
    assert all(after is before for before, after in zip(messages, translated(messages, 0), strict=True))


# The loop


def _loop(router: Router, asked: Answer) -> Answer:
    results = [_result(call) for call in asked.tool_calls]
    return router.route("t", [_user(), asked.message, *results], tools=[LOOK])


def test_the_rung_that_made_the_call_goes_on() -> None:
    """Below it nothing is asked; the reason says why, and the model gets its own id and thinking back."""
    task = {"threshold": 1.0}
    large = [_reply(_call(call_id="L.1"), extras={"reasoning_content": "hm"}), "seven"]
    router, models = _router({"small": "perhaps", "large": large}, task)
    asked = router.route("t", "hello", tools=[LOOK])
    assert asked.tool_calls[0].id == "L.1--r1"
    done = _loop(router, asked)
    assert (done.text, [step.action for step in done.steps]) == ("seven", ["skip", "accept"])
    assert done.steps[0].reason == "rung 'large' made the tool calls that are answered here, so it goes on"
    _, assistant, result = models.history[-1].messages
    assert (assistant["reasoning_content"], _ids(assistant), result["tool_call_id"]) == ("hm", ["L.1"], "L.1")


def test_a_loop_climbs_with_ids_that_the_next_vendor_takes() -> None:
    """The draft that goes on may be bad: the rung above sees the same calls and results under portable ids."""
    router, models = _router({"small": [_reply(_call(call_id="x.1")), "?"], "large": "seven"}, {"threshold": 0.86})
    asked = _router({"small": _reply(_call(call_id="x.1"))}, {"threshold": 0.0})[0].route("t", "hello", tools=[LOOK])
    done = _loop(router, asked)
    assert done.rung == 1
    _, assistant, result = models.history[-1].messages
    assert _ids(assistant) == [result["tool_call_id"]]
    assert re.fullmatch(r"call_[0-9a-f]{24}", result["tool_call_id"])
    assert models.history[0].messages[2]["tool_call_id"] == "x.1"


def test_a_loop_goes_on_after_its_rung_is_gone() -> None:
    """A ladder that became shorter in the middle of a loop starts at its first rung."""
    router, _ = _router({"small": "perhaps", "large": _reply(_call())}, {"threshold": 1.0})
    asked = router.route("t", "hello", tools=[LOOK])
    shorter, models = _router({"small": "seven"}, {"ladder": ["small"]})
    assert _loop(shorter, asked).text == "seven"
    assert models.history[0].messages[2]["tool_call_id"] == "x"


def test_a_new_question_begins_at_the_first_rung_again() -> None:
    """Only the loop belongs to the rung that called."""
    router, _ = _router({"small": ["?", "four"], "large": _reply(_call())}, {"threshold": 0.0, "ladder": ["small"]})
    asked = _router({"small": "?", "large": _reply(_call())}, {"threshold": 1.0})[0].route("t", "hi", tools=[LOOK])
    history = [_user(), asked.message, _result(asked.tool_calls[0]), _user("And two and two?")]
    assert router.route("t", history, tools=[LOOK]).rung == 0


@pytest.mark.parametrize("kind", ["openai", "litellm"])
def test_messages_may_be_objects_of_an_sdk(upstream: Upstream, kind: str) -> None:
    """What the OpenAI SDK and litellm return can be appended to a conversation as it is."""
    router = Router(make_policy({"ladder": ["large"]}, api_base=upstream.url))
    message = _sdk_message(upstream, kind)
    call = message.tool_calls[0]
    result = {"role": "tool", "tool_call_id": call.id, "content": "say=seven"}
    answer = router.route("t", [_user(), message, result], tools=[LOOK])
    assert answer.text == "seven"


def _sdk_message(upstream: Upstream, kind: str) -> Any:
    messages: Any = [_user('call=look:{"a":1}')]
    if kind == "litellm":
        import litellm

        done: Any = litellm.completion(
            "openai/large", messages, tools=[LOOK], api_base=upstream.url, _skip_mcp_handler=True
        )
        return done.choices[0].message
    from openai import OpenAI

    with OpenAI(base_url=upstream.url, api_key="x", max_retries=0) as client:
        return client.chat.completions.create(model="large", messages=messages, tools=[LOOK]).choices[0].message  # type: ignore[list-item]


@pytest.mark.parametrize("provider", ["openai", "hosted_vllm"])
def test_calls_and_results_go_over_the_wire(upstream: Upstream, provider: str) -> None:
    """Two calls, two results, one answer; each request is billed and settled."""
    router = Router(
        make_policy({"ladder": ["large"], "max_output_tokens": 99}, api_base=upstream.url, provider=provider)
    )
    asked = router.route("t", 'call=look:{"a":1}|look:{"a":2}', tools=[LOOK], tool_choice="auto")
    assert [call.parsed for call in asked.tool_calls] == [{"a": 1}, {"a": 2}]
    results = [_result(call, f"say=result_{call.parsed['a']}") for call in asked.tool_calls]
    done = router.route("t", [_user(), asked.message, *results], tools=[LOOK])
    assert done.text == "result 2"
    assert [answer.cost_nusd for answer in (asked, done)] == [billed.cost_nusd for billed in upstream.bill()]


# What a rung cannot take

_IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]}]
_NOTHING = Facts(capabilities=frozenset())


@pytest.mark.parametrize(
    ("prompt", "options", "lacking"), [("hello", {"tools": [LOOK]}, "tools"), (_IMAGE, {}, "images")]
)
def test_a_rung_that_lacks_what_a_call_needs_is_skipped(prompt: Any, options: Any, lacking: str) -> None:
    """It would refuse the request, or answer without having seen the half of it."""
    router, models = _router({"large": "done"}, facts={"openai/small": _NOTHING})
    answer = router.route("t", prompt, **options)
    assert (answer.text, len(models.history)) == ("done", 1)
    assert (answer.steps[0].action, answer.steps[0].reason) == (
        "skip",
        f"it cannot take {lacking}; if it can, say so in its `capabilities:`",
    )


def test_where_no_rung_takes_it_the_error_says_so() -> None:
    """Nothing was sent, and the remedy is named."""
    router, models = _router({}, facts={"openai/small": _NOTHING, "openai/large": _NOTHING})
    with pytest.raises(InvalidCall, match="small: it cannot take tools; if it can, say so in its `capabilities:`"):
        router.route("t", "hello", tools=[LOOK])
    assert models.history == []


def test_what_nobody_knows_is_tried() -> None:
    """A self-hosted model that no map lists is asked; `capabilities:` in the policy wins over what is known."""
    router, _ = _router({"small": _reply(_call())}, {"threshold": 0.0})
    assert router.route("t", "hello", tools=[LOOK]).rung == 0
    policy = make_policy({"threshold": 0.0})
    object.__setattr__(policy.models["small"], "capabilities", ("tools",))
    knowing = Router(policy, backend=ScriptedModels({"small": _reply(_call())}, facts={"openai/small": _NOTHING}))
    assert knowing.route("t", "hello", tools=[LOOK]).rung == 0


def test_an_image_passes_through_and_only_to_rungs_that_see(upstream: Upstream) -> None:
    """The server refuses an image for its blind model; the policy says that it is blind, so it is not asked."""
    policy = make_policy(api_base=upstream.url)
    object.__setattr__(policy.models["small"], "capabilities", ("tools",))
    parts = [{"type": "text", "text": "say=a_cat"}, *_IMAGE[0]["content"]]
    answer = Router(policy).route("t", [{"role": "user", "content": parts}])
    assert (answer.text, [billed.model for billed in upstream.bill()]) == ("a cat", ["large"])


# Cost


@settings(max_examples=50, deadline=None)
@given(
    description=st.text(max_size=300),
    properties=st.dictionaries(st.text(min_size=1, max_size=8), st.just({"type": "string"}), max_size=8),
)
def test_the_bound_with_tools_is_finite_and_counts_them(description: str, properties: Any) -> None:
    """Tools are input like any other: at least as many tokens are allowed for as their JSON has bytes."""
    parameters = {"type": "object", "properties": properties}
    tool = {"type": "function", "function": {"name": "look", "description": description, "parameters": parameters}}
    router, models = _router({})
    added = _bound(router, "hello", tools=[tool]) - _bound(router, "hello")
    assert added >= 100 * len(json.dumps(tool, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    assert models.history == []


def _bound(router: Router, prompt: str, **options: Any) -> int:
    """What one request to the first rung can cost at most, in nano-dollars: the error of a tiny limit tells it."""
    with pytest.raises(CostLimitExceeded) as caught:
        router.route("t", prompt, max_cost_usd=1e-9, **options)
    assert caught.value.needed_usd is not None
    return round(caught.value.needed_usd * 1e9)


def test_a_bill_with_tools_stays_below_its_bound(upstream: Upstream) -> None:
    """A cost limit that the bound fits into lets the call through; a smaller one does not."""
    router = Router(make_policy({"ladder": ["small"]}, api_base=upstream.url))
    prompt = 'call=look:{"a":1}'
    bound = _bound(router, prompt, tools=[LOOK])
    answer = router.route("t", prompt, tools=[LOOK], max_cost_usd=bound / 1e9 * 1.01)
    assert upstream.bill()[0].cost_nusd == answer.cost_nusd
    assert upstream.bill()[0].cost_nusd <= bound
    with pytest.raises(CostLimitExceeded, match="can cost"):
        router.route("t", prompt, tools=[LOOK], max_cost_usd=bound / 1e9 * 0.99)


def test_a_reply_of_calls_without_usage_is_estimated_by_what_it_said() -> None:
    """Names and arguments are output, tools are input; neither is free because there is no text."""
    router, _ = _router({"small": _reply(_call(arguments='{"a":' + "1" * 395 + "}"))}, {"threshold": 0.0})
    (attempt,) = router.route("t", "hello", tools=[LOOK]).attempts
    assert attempt.usage is not None
    assert attempt.usage.output_tokens == (4 + 401) // 4 + 1
    assert attempt.usage.input_tokens == (5 + len(json.dumps([LOOK]))) // 4


# Bad input


def _bad(**function: Any) -> Sequence[Mapping[str, Any]]:
    return [LOOK, {"type": "function", "function": {"name": "find", **function}}]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tools": "look"}, "tools: is a str; give a list of tools"),
        ({"tools": LOOK}, "tools: is a dict; give a list of tools"),
        ({"tools": 7}, "tools: is a int; give a list of tools"),
        ({"tools": [{1, 2}]}, "tools: hold something that is no JSON; give plain values"),
        (
            {"tools": _bad(parameters={"const": float("nan")})},
            "tools: hold something that is no JSON; give plain values",
        ),
        (
            {"tools": ["look"]},
            "tools[0]: is no function; give {'type': 'function', 'function': {'name': ..., 'parameters': ...}}",
        ),
        (
            {"tools": [LOOK, {"type": "web_search"}]},
            "tools[1]: is no function; give {'type': 'function', 'function': {'name': ..., 'parameters': ...}}",
        ),
        (
            {"tools": _bad(name="two words")},
            "tools[1]: has the name 'two words'; give 1 to 64 letters, digits, '_' or '-'",
        ),
        ({"tools": _bad(name=None)}, "tools[1]: has the name None; give 1 to 64 letters, digits, '_' or '-'"),
        ({"tools": [LOOK, LOOK]}, "tools[1]: is the second with the name 'look'; rename one"),
        (
            {"tools": _bad(parameters=[])},
            "tools[1].function.parameters: is no JSON Schema: it is no mapping",
        ),
        (
            {"tools": _bad(parameters={"type": "thing"})},
            "tools[1].function.parameters: is no JSON Schema: 'thing' is not valid under any of the given schemas",
        ),
        (
            {"tools": _bad(parameters={"$ref": "http://example.com/schema"})},
            "tools[1].function.parameters: is no JSON Schema: its $ref 'http://example.com/schema' is not in the "
            "schema; put the definition into `$defs`",
        ),
        ({"tool_choice": "required"}, "tool_choice: is given without tools; give tools=[...], too"),
        ({"tools": [], "tool_choice": NAMED}, "tool_choice: is given without tools; give tools=[...], too"),
        *(
            (
                {"tools": [LOOK, WAIT], "tool_choice": choice},
                f"tool_choice: is {choice!r}; give 'auto', 'none', 'required', or {{'type': 'function', 'function': "
                "{'name': ...}} with one of 'look', 'wait'",
            )
            for choice in (
                "look",
                7,
                {"type": "function", "function": {"name": "find"}},
                {"type": "function", "function": {"name": ["look"]}},
                {"function": {"name": "look"}},
                {"type": "function", "function": "look"},
            )
        ),
    ],
)
def test_bad_tools_are_refused_before_anything_is_sent(options: Any, message: str) -> None:
    """Each message names the argument, the place in it and the remedy."""
    router, models = _router({})
    with pytest.raises(InvalidCall) as caught:
        router.route("t", "hello", **options)
    assert str(caught.value) == message
    assert (caught.value.argument, models.history) == ("tools" if message.startswith("tools") else "tool_choice", [])


@pytest.mark.parametrize("tools", [None, [], ()])
@pytest.mark.parametrize("choice", [None, "auto", "none"])
def test_no_tools_are_no_tools(tools: Any, choice: Any) -> None:
    """An empty list is what a caller's code has when it has none; providers refuse it, so it is not sent."""
    router, models = _router({"small": "done"}, {"threshold": 0.0})
    router.route("t", "hello", tools=tools, tool_choice=choice)
    assert models.history[0].params == {}


@settings(max_examples=200, deadline=None)
@given(
    calls=st.lists(
        st.builds(ToolCall, st.text(max_size=3), st.sampled_from(["look", "wait", "rm"]), st.text()), max_size=3
    ),
    choice=st.sampled_from([None, "auto", "none", "required", NAMED]),
)
def test_whatever_a_model_calls_is_judged_and_never_crashes(calls: list[ToolCall], choice: Any) -> None:
    """A usable draft's calls are offered tools with arguments that are a JSON object."""

    def script(call: Call) -> Reply:
        return _reply(*calls, text="" if calls else "text")

    router, _ = _router({"small": script, "large": "text of the large one"}, {"threshold": 0.0})
    answer = router.route("t", "hello", tools=[LOOK, WAIT], tool_choice=choice)
    if answer.rung == 0:
        assert all(isinstance(call.parsed, dict) and call.name in ("look", "wait") for call in answer.tool_calls)


def test_a_schema_without_an_end_is_the_drafts_fault() -> None:
    """The model was paid for it, so the call climbs instead of breaking."""
    tools = tools_of([{"type": "function", "function": {"name": "f", "parameters": {"$ref": "#"}}}], None)
    assert tools is not None
    verdict = tools.verdict([ToolCall("c", "f", "{}")])
    assert verdict is not None
    assert not verdict.valid


@pytest.mark.parametrize("calls", [5, "abc", [5], {"a": 1}])
def test_tool_calls_that_are_none_are_refused(calls: Any) -> None:
    """A history that a program has mangled is told where."""
    with pytest.raises(ValueError, match="message 0 has tool_calls that are no list of calls"):
        to_messages([{"role": "assistant", "content": "x", "tool_calls": calls}], None)
