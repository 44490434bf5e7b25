"""What one rung is sent: the request in the words of its model, and the most that can cost."""

from __future__ import annotations

import json
from dataclasses import replace

from router.core.call import TEMPLATE_TOKENS, Call, Message, byte_length, has_media, input_tokens_bound
from router.core.effects import Request
from router.core.judge import MOST_OUTPUT_TOKENS, QUESTIONS
from router.core.plan import Plan, Rung
from router.core.pricing import tier_name
from router.core.tools import translated

# Vendors put a text of their own before the tools; the longest that one documents has 804 tokens (Anthropic, 2026).
_TOOLS_TEMPLATE_TOKENS = 1024
# Parameters that ask for another price than the list's.
_TIER_PARAMS = ("service_tier", "speed", "inference_geo")


def call(plan: Plan, index: int, request: Request) -> Call:
    """The call that a rung is sent."""
    rung, task = plan.rungs[index], plan.task
    if rung.kind:
        params = {**QUESTIONS[rung.kind].params_for(rung.can), **rung.model.params}
        key = _key(rung, request)
        return Call(rung.name, rung.model, request.messages, params, MOST_OUTPUT_TOKENS, key, request.headers)
    params = {**task.params, **request.params, **rung.model.params}
    messages = translated(request.messages, index)
    if request.tools:
        params.update(request.tools.params())
    if request.shape:
        if rung.can("json_schema") and request.shape.is_native:
            params["response_format"] = request.shape.response_format()
        else:
            messages = _instructed(messages, request.shape.instruction())
    return Call(
        rung.name,
        rung.model,
        messages,
        params,
        _smaller(task.max_output_tokens, request.max_output_tokens),
        _key(rung, request),
        request.headers,
    )


def question(rung: Rung, request: Request, draft: str) -> Request:
    """What is asked about a draft, in place of what the caller asks."""
    messages = QUESTIONS[rung.kind or ""].messages(request.messages, draft)
    return replace(request, messages=messages, params={}, stream=False, tools=None, shape=None)


def _key(rung: Rung, request: Request) -> str | None:
    """The caller's own key for a rung."""
    keys = request.keys
    return (keys.get(rung.name) or keys.get(rung.model.litellm.partition("/")[0])) if keys else None


def lacking(rung: Rung, request: Request) -> str:
    """What the request needs and the rung is known not to have, or ""."""
    if rung.can("images") is False and has_media(request.messages):
        return "images"
    if request.tools and rung.can("tools") is False:
        return "tools"
    return ""


def upper_nusd(rung: Rung, call: Call, request: Request, input_bound: int | None) -> int | None:
    """The most that one request can cost, given a bound of the caller's messages; `None` when nothing bounds it."""
    if input_bound is None and rung.image_tokens is not None:
        input_bound = input_tokens_bound(request.messages, rung.image_tokens)
    if input_bound is not None:
        # Tools and schemas among the parameters are input too; their JSON has at least as many bytes as tokens.
        nested = [value for value in call.params.values() if isinstance(value, dict | list)]
        input_bound += len(json.dumps(nested, default=str)) if nested else 0
        input_bound += _TOOLS_TEMPLATE_TOKENS if call.wants_tools else 0
        if request.shape and "response_format" not in call.params:
            input_bound += byte_length(request.shape.instruction()) + TEMPLATE_TOKENS
    output = _smaller(call.max_output_tokens, rung.max_output_tokens)
    tier = tier_name(*map(call.params.get, _TIER_PARAMS)) if not call.params.keys().isdisjoint(_TIER_PARAMS) else ""
    return rung.rates.upper_nusd(input_bound, output, request.deadline_s, tier)


def surely_fits(limit: int | None, input_bound: int | None) -> bool:
    """Whether a prompt is within a limit without counting: counting is slow, and rarely needed."""
    return limit is None or (input_bound is not None and input_bound <= limit)


def unbounded(rung: Rung, call: Call, request: Request, input_bound: int | None) -> str:
    """Why nothing bounds what a request to this rung costs, and what helps."""
    name = f"a request to {rung.name!r} has no bound: "
    if rung.rates.by_second:
        return f"{name}it is priced by the second; give the task a `deadline_s:`"
    if rung.price.input_usd_per_mtok is None or rung.price.output_usd_per_mtok is None:
        return f"{name}its price is unknown; give the model a `price:`, or `ScriptedModels(price=...)` in a test"
    if input_bound is None:
        what = "an image, sound or file" if has_media(request.messages) else "a part that is no text"
        return (
            f"{name}the prompt holds {what}, and nothing says how many tokens that can be; "
            "for images, give the model its vendor's `image_tokens:`"
        )
    if _smaller(call.max_output_tokens, rung.max_output_tokens) is None:
        return f"{name}its longest output is unknown; give the task a `max_output_tokens:`"
    return (
        f"{name}its price holds neither for so long an input nor for the service tier that is asked for; "
        "give the model `tiers:` in its `price:`"
    )


def _instructed(messages: tuple[Message, ...], instruction: str) -> tuple[Message, ...]:
    """The messages with an instruction in their system text."""
    first = messages[0]
    if first.get("role") in ("system", "developer") and isinstance(first.get("content"), str):
        return ({**first, "content": f"{first['content']}\n\n{instruction}"}, *messages[1:])
    return ({"role": "system", "content": instruction}, *messages)


def _smaller(one: int | None, other: int | None) -> int | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)
