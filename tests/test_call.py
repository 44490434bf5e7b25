"""What a model is asked: messages from prompts, bounds and estimates of their tokens, sums of usage."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.core.call import (
    TEMPLATE_TOKENS,
    Message,
    Usage,
    input_tokens_bound,
    input_tokens_estimate,
    output_tokens_estimate,
    texts,
    to_messages,
)
from tests.strategies import usages

USER = {"role": "user", "content": "Hello"}
SYSTEM = {"role": "system", "content": "Be brief."}
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}

# Messages

PROMPTS: dict[str, tuple[Any, str | None, tuple[Message, ...]]] = {
    "text": ("Hello", None, (USER,)),
    "text_with_system": ("Hello", "Be brief.", (SYSTEM, USER)),
    "empty_system": ("Hello", "", (USER,)),
    "messages": ([USER], None, (USER,)),
    "tuple": ((USER,), None, (USER,)),
    "messages_with_system": ([USER], "Be brief.", (SYSTEM, USER)),
    "own_system_wins": (
        [{"role": "system", "content": "Mine"}, USER],
        "Be brief.",
        ({"role": "system", "content": "Mine"}, USER),
    ),
    "conversation": (
        [USER, {"role": "assistant", "content": None}, USER],
        "Be brief.",
        (SYSTEM, USER, {"role": "assistant", "content": None}, USER),
    ),
    "parts": (
        [{"role": "user", "content": [IMAGE, {"type": "text", "text": "What is it?"}]}],
        None,
        ({"role": "user", "content": [IMAGE, {"type": "text", "text": "What is it?"}]},),
    ),
}


@pytest.mark.parametrize(
    ("prompt", "system", "messages"), [pytest.param(*case, id=name) for name, case in PROMPTS.items()]
)
def test_a_prompt_becomes_chat_messages(prompt: Any, system: str | None, messages: tuple[Message, ...]) -> None:
    """The task's system text stands first, once, unless the prompt brings its own."""
    assert to_messages(prompt, system) == messages


def test_messages_are_passed_as_they_are() -> None:
    """Nothing is rewritten, so that cache marks and tool calls arrive; the copy is safe from later changes."""
    message = {"role": "user", "content": "Hello", "cache_control": {"type": "ephemeral"}}
    taken = to_messages([message], "Be brief.")[1]
    assert taken == message
    message["cache_control"]["type"] = "changed"  # type: ignore[index]
    assert taken["cache_control"] == {"type": "ephemeral"}


BAD_PROMPTS: dict[str, tuple[Any, str]] = {
    "nothing": (None, "is a NoneType; give text or a list of chat messages"),
    "number": (5, "is a int; give text or a list of chat messages"),
    "bytes": (b"Hello", "is a bytes; give text or a list of chat messages"),
    "one_message": (USER, "is a dict; give text or a list of chat messages"),
    "iterator": (iter([USER]), "is a list_iterator; give text or a list of chat messages"),
    "no_role": ([USER, {"content": "x"}], "message 1 has no role; give {'role': 'user', 'content': ...}"),
    "role_is_no_text": ([{"role": 5}], "message 0 has no role; give {'role': 'user', 'content': ...}"),
    "list_of_text": (["Hello"], "message 0 has no role; give {'role': 'user', 'content': ...}"),
    "empty": ("", "is empty; give some text"),
    "blank": (" \n\t", "is empty; give some text"),
    "no_messages": ([], "is empty; give some text"),
    "empty_message": ([{"role": "user", "content": ""}], "is empty; give some text"),
    "empty_part": ([{"role": "user", "content": [{"type": "text", "text": " "}]}], "is empty; give some text"),
}


@pytest.mark.parametrize(("prompt", "problem"), [pytest.param(*case, id=name) for name, case in BAD_PROMPTS.items()])
def test_a_prompt_that_cannot_be_sent_is_told(prompt: Any, problem: str) -> None:
    """The message says what it is and what to give; it never repeats the prompt."""
    with pytest.raises(ValueError) as caught:
        to_messages(prompt, "Be brief.")
    assert str(caught.value) == problem


def test_the_texts_of_messages_are_all_their_text_in_order() -> None:
    """Content parts included, whatever else they hold."""
    messages: list[Message] = [
        SYSTEM,
        {"role": "user", "content": [{"type": "text", "text": "one"}, IMAGE, {"type": "text", "text": "two"}, 5]},
        {"role": "assistant", "content": None},
        {"role": "tool", "content": "three"},
        {"role": "user"},
    ]
    assert texts(messages) == ["Be brief.", "one", "two", "three"]


# Bounds and estimates


@pytest.mark.parametrize(
    ("messages", "bound"),
    [
        ([USER], 5 + 2 * TEMPLATE_TOKENS),
        ([SYSTEM, USER], 14 + 3 * TEMPLATE_TOKENS),
        ([{"role": "user", "content": "é€😀"}], 9 + 2 * TEMPLATE_TOKENS),
        ([{"role": "user", "content": [{"type": "text", "text": "Hello"}, "you"]}], 8 + 2 * TEMPLATE_TOKENS),
        ([{"role": "user", "content": "Hello", "name": "Ann"}], 8 + 2 * TEMPLATE_TOKENS),
        ([{"role": "tool", "content": "Hello", "tool_call_id": "c1"}], 7 + 2 * TEMPLATE_TOKENS),
        ([{"role": "user", "content": "Hello", "cache_control": {"type": "ephemeral"}}], 5 + 2 * TEMPLATE_TOKENS),
        ([{"role": "assistant", "content": "Hello", "name": None, "tool_calls": None}], 5 + 2 * TEMPLATE_TOKENS),
        (
            [{"role": "assistant", "content": None, "tool_calls": [{"id": "c1"}]}],
            len('[{"id": "c1"}]') + 3 * TEMPLATE_TOKENS,
        ),
    ],
    ids=[
        "text",
        "two_messages",
        "bytes_not_characters",
        "parts",
        "name",
        "tool_result",
        "cache_mark",
        "keys_not_set",
        "tool_calls",
    ],
)
def test_text_has_at_most_a_token_for_each_byte(messages: list[Message], bound: int) -> None:
    """And some for the chat template, for each message and once."""
    assert input_tokens_bound(messages) == bound


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": [{"type": "text", "text": "What is it?"}, IMAGE]},
        {"role": "assistant", "content": None},
        {"role": "user", "content": "Hello", "name": 5},
        {"role": "user", "content": 5},
        {"role": "user"},
    ],
    ids=["image", "no_content", "name_is_no_text", "content_is_no_text", "content_missing"],
)
def test_messages_that_hold_more_than_text_have_no_bound(message: Message) -> None:
    """How many tokens an image makes is the provider's affair."""
    assert input_tokens_bound([USER, message]) is None


@pytest.mark.parametrize(("text", "tokens"), [("", 0), ("a", 1), ("abcd", 1), ("abcde", 2), ("😀", 1)])
def test_an_estimate_is_a_token_for_four_bytes(text: str, tokens: int) -> None:
    """Output rounds up; input has at least one token."""
    assert output_tokens_estimate(text) == tokens
    assert input_tokens_estimate([{"role": "user", "content": text}]) == max(1, len(text.encode()) // 4)


@given(st.lists(st.text(st.characters()), max_size=4))
def test_a_bound_is_never_below_the_estimate(contents: list[str]) -> None:
    """For any text, lone surrogates included."""
    messages = [{"role": "user", "content": content} for content in contents]
    bound = input_tokens_bound(messages)
    assert bound is not None
    assert bound >= input_tokens_estimate(messages)


# Files that litellm ships, by the names that tiktoken gives them in its cache.
ENCODINGS = {
    "cl100k_base": "9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
    "o200k_base": "fb374d419588a4632f3f557e76b4b70aebbca790",
}


@pytest.fixture(scope="module", params=sorted(ENCODINGS))
def encoding(request: pytest.FixtureRequest) -> Any:
    """A real tokenizer, from the files inside litellm: nothing is downloaded."""
    tiktoken = pytest.importorskip("tiktoken", reason="tiktoken is not installed")
    spec = find_spec("litellm")
    folder = Path(spec.origin if spec and spec.origin else "").parent / "litellm_core_utils" / "tokenizers"
    if not (folder / ENCODINGS[request.param]).is_file():
        pytest.skip(f"litellm ships no file of {request.param}, and tests download nothing")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(folder))
        return tiktoken.get_encoding(request.param)


@given(st.lists(st.text(max_size=200), min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_a_bound_is_never_below_what_a_tokenizer_counts(encoding: Any, contents: list[str]) -> None:
    """With four tokens around each message and three before the answer, as OpenAI counts."""
    messages = [{"role": "user", "content": content} for content in contents]
    counted = 3 + sum(4 + len(encoding.encode(content, disallowed_special=())) for content in contents)
    bound = input_tokens_bound(messages)
    assert bound is not None
    assert bound >= counted


# Usage


def test_the_buckets_of_a_usage_add_up() -> None:
    """They are disjoint: their sum is what the provider counted."""
    usage = Usage(1, 2, 4, 8, 16, 32)
    assert (usage.all_input_tokens, usage.all_output_tokens, usage.total_tokens) == (15, 48, 63)


def test_usages_add_bucket_by_bucket() -> None:
    """The sum of two requests."""
    assert Usage(1, 2, 4, 8, 16, 32) + Usage(10, 20, 40, 80, 160, 320) == Usage(11, 22, 44, 88, 176, 352)


@given(usages(), usages())
def test_the_total_of_a_sum_is_the_sum_of_the_totals(one: Usage, other: Usage) -> None:
    """In any order, and nothing adds nothing."""
    assert (one + other).total_tokens == one.total_tokens + other.total_tokens
    assert one + other == other + one
    assert one + Usage() == one
