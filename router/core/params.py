"""Parameters of a request: which ones a caller may set, and which ones have a place of their own."""

from __future__ import annotations

# What `route(params=...)` takes. Nothing here changes who is asked, how often, or who pays.
CALL_PARAMS = frozenset(
    {
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "presence_penalty",
        "reasoning_effort",
        "seed",
        "stop",
        "temperature",
        "top_k",
        "top_logprobs",
        "top_p",
        "verbosity",
    }
)

# Parameters that a policy may not smuggle in, and what to use instead.
RESERVED_PARAMS: dict[str, str] = {
    "api_base": "use `api_base:` of the model",
    "api_key": "a key has no place in a file; use `api_key_env:` of the model",
    "extra_headers": "use `headers:` of the model",
    "fallbacks": "the ladder is the fallback",
    "headers": "use `headers:` of the model",
    "input_cost_per_token": "use `price:` of the model",
    "max_completion_tokens": "use `max_output_tokens:` of the task",
    "max_retries": "use `retry:` of the task",
    "max_tokens": "use `max_output_tokens:` of the task",
    "messages": "they are the caller's",
    "mock_response": "use router.testing.ScriptedModels",
    "model": "use `litellm:` of the model",
    "n": "one answer is one decision",
    "num_retries": "use `retry:` of the task",
    "output_cost_per_token": "use `price:` of the model",
    "stream": "it is the caller's to choose",
    "timeout": "use `deadline_s:` of the task",
}
