"""The arguments of a chat completion, as `litellm.completion` and the OpenAI SDK take them, in the words of `route`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from router.core.params import CALL_PARAMS, RESERVED_PARAMS, suggestion
from router.errors import InvalidCall
from router.options import OPTION_NAMES, Options, Prompt
from router.shapes.routes import Routes

TASK_PREFIX = "task:"

_OF_THE_MODEL = "use `params:` of the model in the policy"
# Arguments that have no place in a call, and what to do instead.
REMEDIES: Mapping[str, str] = {
    **RESERVED_PARAMS,
    "api_version": "set it in the environment, as litellm reads it",
    "audio": _OF_THE_MODEL,
    "base_url": RESERVED_PARAMS["api_base"],
    "custom_llm_provider": "use the prefix of `litellm:` of the model",
    "drop_params": "give each model the parameters that it takes, in its `params:`",
    "function_call": "use tool_choice=",
    "functions": "use tools=",
    "modalities": _OF_THE_MODEL,
    "prediction": _OF_THE_MODEL,
    "response_model": "use response_format= or schema=; it takes a pydantic model",
    "service_tier": _OF_THE_MODEL,
    "thinking": _OF_THE_MODEL,
    "web_search_options": _OF_THE_MODEL,
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a chat completion asks for, in the words of `route`."""

    task: str
    prompt: Prompt
    stream: bool
    include_usage: bool
    """Whether the last chunk of a stream is to have the usage."""
    options: Options


def read(router: Routes, model: Any, messages: Any, arguments: Mapping[str, Any]) -> Wanted:
    """What a chat completion with these arguments asks of a router.

    Raises
    ------
    InvalidCall
        The model is no task, or an argument has no place in a routed call; the message says what to do instead.
    UnknownTask
        The policies name no such task.
    """
    task = _task(router, model)
    given = {name: value for name, value in arguments.items() if _is_given(value)}
    given |= _extra_body(given.pop("extra_body", None))
    stream = bool(given.pop("stream", False))
    include_usage = _include_usage(given.pop("stream_options", None), stream=stream)
    if given.get("n", 1) == 1:
        given.pop("n", None)
    options = {name: given.pop(name) for name in OPTION_NAMES if name in given}
    params = {name: given.pop(name) for name in CALL_PARAMS if name in given}
    if params and isinstance(options.setdefault("params", {}), Mapping):
        options["params"] = {**options["params"], **params}
    if "timeout" in given:
        _put(options, "deadline_s", "timeout", _seconds(given.pop("timeout")))
    if "response_format" in given:
        schema = schema_of(given.pop("response_format"))
        if schema is not None:
            _put(options, "schema", "response_format", schema)
    if "api_key" in given:
        _put(options, "credentials", "api_key", _credentials(router, task, given.pop("api_key")))
    for name in given:
        raise InvalidCall(f"{name}: has no place in a routed call; {_remedy(name)}", argument=name)
    prompt = messages if isinstance(messages, str | Mapping) or not hasattr(messages, "__iter__") else list(messages)
    return Wanted(task, prompt, stream, include_usage, cast(Options, options))


def schema_of(response_format: Any) -> Any:
    """The `schema=` that a response format stands for; `None` for plain text."""
    if not isinstance(response_format, Mapping):
        return response_format
    match response_format:
        case {"type": "text"}:
            return None
        case {"type": "json_object"}:
            return {"type": "object"}
        case {"type": "json_schema", "json_schema": {"schema": Mapping() as schema, **described}}:
            return {"title": described["name"], **schema} if isinstance(described.get("name"), str) else schema
    raise InvalidCall(
        f"response_format: the type {response_format.get('type')!r} cannot be checked; give a pydantic model, "
        "{'type': 'json_schema', 'json_schema': {'name': ..., 'schema': ...}}, {'type': 'json_object'} or "
        "{'type': 'text'}",
        argument="response_format",
    )


def _task(router: Routes, model: Any) -> str:
    if isinstance(model, str) and model.startswith(TASK_PREFIX):
        task = model.removeprefix(TASK_PREFIX)
        router.plan(task)
        return task
    known = ", ".join(repr(TASK_PREFIX + name) for name in sorted(router.policy.tasks))
    raise InvalidCall(
        f"model: is {model!r}; a routed call names a task, and the task's ladder the models: give one of {known}",
        argument="model",
    )


def _is_given(value: Any) -> bool:
    """Whether an argument says anything: the OpenAI SDK has words of its own for "not given"."""
    return value is not None and type(value).__name__ not in ("NotGiven", "Omit")


def _extra_body(extra: Any) -> dict[str, Any]:
    """The SDK's place for what its signature does not know: here, what `route` takes."""
    if extra is None:
        return {}
    if not isinstance(extra, Mapping):
        raise InvalidCall(f"extra_body: is a {type(extra).__name__}; give a mapping", argument="extra_body")
    for name in extra:
        if name not in OPTION_NAMES:
            raise InvalidCall(
                f"extra_body: {name!r} has no place in a routed call; {_remedy(str(name))}", argument="extra_body"
            )
    return dict(extra)


def _include_usage(stream_options: Any, *, stream: bool) -> bool:
    if stream_options is None:
        return False
    if not stream:
        raise InvalidCall("stream_options: is for streams; give stream=True, too", argument="stream_options")
    match stream_options:
        case {"include_usage": bool() as wanted, **others} if not others.keys() - {"include_obfuscation"}:
            return wanted
    raise InvalidCall(
        f"stream_options: is {stream_options!r}; give {{'include_usage': True}}", argument="stream_options"
    )


def _put(options: dict[str, Any], name: str, said_as: str, value: Any) -> None:
    if options.get(name) is not None:
        raise InvalidCall(f"{said_as}: {name}= is given, too, and means the same; give one", argument=said_as)
    options[name] = value


def _seconds(timeout: Any) -> Any:
    if isinstance(timeout, int | float):
        return timeout
    raise InvalidCall(
        f"timeout: is a {type(timeout).__name__}; give the seconds that the whole call may take, as one number",
        argument="timeout",
    )


def _credentials(router: Routes, task: str, key: Any) -> dict[str, Any]:
    """One key for the one provider that a ladder has."""
    providers = {rung.model.litellm.partition("/")[0] for rung in router.plan(task).rungs}
    if len(providers) == 1:
        return {providers.pop(): key}
    raise InvalidCall(
        f"api_key: the ladder of task {task!r} has models of {', '.join(sorted(providers))}, and one key is for one "
        f"of them; give credentials={{{min(providers)!r}: ...}}",
        argument="api_key",
    )


def _remedy(name: str) -> str:
    if name in REMEDIES:
        return REMEDIES[name]
    near = suggestion(name, OPTION_NAMES | CALL_PARAMS)
    return near if near.startswith("did you mean") else f"if a model needs it, {_OF_THE_MODEL}"
