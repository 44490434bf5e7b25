"""Free signals: numbers read off a prompt and its draft, with no further request.

A signal that cannot be read is absent from the mapping; it is never 0. Every value is finite.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence

from router.core.call import Reply
from router.core.checks import Verdict

# To be raised whenever a signal's meaning changes: what was tuned on the old meaning is then stale.
SIGNALS_VERSION = 3

# The name of every free signal and what it means; the docs table is made from it.
FREE_SIGNALS: dict[str, str] = {
    "invalid": "1 when the draft does not fit the task's answer kind or fails the task's own check, else 0",
    "empty": "1 when the draft has no visible character, else 0",
    "truncated": "1 when the model stopped at its output limit, else 0",
    "refusal": "1 when the draft opens with the words of a refusal, else 0",
    "repetition": "share of the word triples among the draft's last 128 words that repeat an earlier one, 0 to 1",
    "input_chars": "characters of all messages, system text included",
    "output_chars": "characters of the draft",
    "output_tokens": "output tokens that the provider counted, reasoning excluded",
    "lp_mean": "mean log-probability of the draft's tokens, in nats, -20 to 0",
    "lp_min": "smallest log-probability of any token of the draft, in nats, -20 to 0",
    "lp_first": "log-probability of the draft's first token, in nats, -20 to 0",
    "agreement": "1 when the draft's answer equals that of the draft before it, else 0; a first draft has none",
}

# A signal of the application: a function of a prompt and its draft; `None` where it has nothing to say.
OwnSignal = Callable[[str, str], float | None]

# A token below e^-20 (2e-9) is as unlikely as evidence gets, and providers write -inf or -9999 for it.
LP_FLOOR = -20.0
# Tokens above it are as good as certain. Most are, and need not be put in order. Chosen, not measured.
LP_CERTAIN = math.log(0.95)

# So many words of a draft's end are looked at for triples that repeat. Chosen, not measured.
_LAST_WORDS = 128

# Openings only: the same words later in a text are mostly about its subject.
_REFUSAL = re.compile(
    r"""\s*(?:
        i(?:['’]?m|\ am)\ (?:very\ |really\ |so\ )?sorry
      | sorry(?=,|\ but\ )
      | i\ apologi[sz]e
      | i\ (?:cannot|can['’]?t|can\ not|am\ unable|am\ not\ able|['’]?m\ unable|['’]?m\ not\ able|won['’]?t)
      | i['’]m\ (?:unable|not\ able)
      | as\ an\ ai
      | unfortunately,?\ i\ (?:cannot|can['’]?t)
    )\b""",
    re.IGNORECASE | re.VERBOSE,
)


def read_signals(input_chars: int, reply: Reply, verdict: Verdict, unsure: Sequence[float] = ()) -> dict[str, float]:
    """Every free signal that this draft has, by name; its unsure tokens in order where these are known already."""
    text = draft_text(reply)
    signals = {
        "invalid": float(not verdict.valid),
        "empty": float(not text.strip()),
        "truncated": float(reply.finish_reason == "length"),
        "refusal": float(_REFUSAL.match(text) is not None),
        "repetition": repetition(text),
        "input_chars": float(input_chars),
        "output_chars": float(len(text)),
    }
    if reply.usage is not None:
        signals["output_tokens"] = float(reply.usage.output_tokens)
    if reply.logprobs:
        signals.update(_logprob_signals(reply.logprobs, unsure))
    return signals


def read_own(signals: Mapping[str, OwnSignal], prompt: str, draft: str) -> dict[str, float]:
    """The application's own signals that this draft has."""
    found = ((name, read(prompt, draft)) for name, read in signals.items())
    return {name: value for name, value in found if value is not None}


def draft_text(reply: Reply) -> str:
    """What a model wrote; where it calls tools, the arguments of the calls."""
    return reply.text or " ".join(call.arguments for call in reply.tool_calls)


def unsure_tokens(lps: Sequence[float]) -> list[float]:
    """The log-probabilities below `LP_CERTAIN`, the least first."""
    return sorted([lp for lp in lps if lp < LP_CERTAIN])


def _logprob_signals(lps: Sequence[float], unsure: Sequence[float]) -> dict[str, float]:
    total = sum(lps)
    if math.isnan(total):  # A provider that sends NaN has said nothing about its tokens.
        return {}
    lowest = unsure[0] if unsure else min(lps)
    if lowest < LP_FLOOR or max(lps) > 0.0:
        lps = [max(LP_FLOOR, min(0.0, lp)) for lp in lps]
        total, lowest = sum(lps), min(lps)
    return {"lp_mean": total / len(lps), "lp_min": lowest, "lp_first": lps[0]}


def agreement(one: str | None, other: str | None) -> float:
    """1 when two drafts give the same usable answer, else 0."""
    return float(one is not None and one == other)


def repetition(text: str) -> float:
    """The share of word triples that repeat an earlier one: near 1 for a model that loops, 0 for a short text.

    Of the last `_LAST_WORDS` words: a model that loops does so until it is stopped. A loop of more than half as many
    words repeats little within them and one that is longer than them nothing.
    """
    words = text.rsplit(None, _LAST_WORDS)[-_LAST_WORDS:]
    triples = len(words) - 2
    if triples < 4:  # Two or three triples repeat by chance ("a b a b").
        return 0.0
    return 1.0 - len(set(zip(words, words[1:], words[2:], strict=False))) / triples
