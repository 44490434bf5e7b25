"""What a call reads off its prompt and its drafts: the free signals always, the rest where a calibrator names it."""

from __future__ import annotations

from collections.abc import Sequence

from router.core.call import Message, Reply, texts
from router.core.checks import Verdict
from router.core.effects import Request
from router.core.evidence import read_evidence
from router.core.plan import Rung
from router.core.signals import agreement, draft_text, read_own, read_signals
from router.core.word_scores import PROMPT_WORDS


def text_of(messages: tuple[Message, ...] | list[Message]) -> str:
    """A prompt as one text, as tuning has it too."""
    return "\n".join(texts(messages))


def prompt_signals(rung: Rung, request: Request) -> dict[str, float]:
    """What is known of a rung's draft before it is asked for."""
    found = {"input_chars": float(request.input_chars)}
    for name in rung.needs_words:
        if name in PROMPT_WORDS:
            found[name] = rung.words[name].chance(text_of(request.messages), request.group)
    return found


def draft_signals(
    rung: Rung, request: Request, reply: Reply, verdict: Verdict, before: Verdict | None, agree_on: Sequence[str] = ()
) -> dict[str, float]:
    """Every signal of a draft that is wanted; `before` is the verdict on the draft before it."""
    found = read_signals(request.input_chars, reply, verdict)
    if before is not None:
        found["agreement"] = agreement(before, verdict, agree_on)
    if rung.blocks:
        answer = verdict.value if verdict.valid else None
        found |= read_evidence(text_of(request.messages), reply, answer, rung.blocks)
    if rung.own_signals:
        found |= read_own(rung.own_signals, text_of(request.messages), draft_text(reply))
    if rung.needs_words:
        found |= prompt_signals(rung, request)
        if "draft_words" in rung.needs_words:
            found["draft_words"] = rung.words["draft_words"].chance(draft_text(reply))
    return found
