"""What a call reads off its prompt and its drafts: the free signals always, the rest where a calibrator names it."""

from __future__ import annotations

from router.core.call import Reply
from router.core.checks import REFUSED, Verdict
from router.core.effects import Request
from router.core.evidence import read_evidence
from router.core.plan import Plan, Rung
from router.core.signals import draft_text, read_own, read_signals, unsure_tokens
from router.core.views import View
from router.core.word_scores import PROMPT_WORDS


def prompt_signals(rung: Rung, request: Request) -> dict[str, float]:
    """What is known of a rung's draft before it is asked for."""
    found = {"input_chars": float(request.input_chars)}
    for name in rung.needs_words:
        if name in PROMPT_WORDS:
            found[name] = rung.words[name].chance_of(request.prompt, request.group)
    return found


def draft_signals(
    rung: Rung, request: Request, reply: Reply, verdict: Verdict, agrees: float | None = None
) -> dict[str, float]:
    """Every signal of a draft that is wanted; `agrees` says whether it gives the answer of the draft before it."""
    draft = View(draft_text(reply))
    # Put in order once for both who read them.
    unsure = unsure_tokens(reply.logprobs or ()) if "log-probabilities" in rung.blocks else ()
    found = read_signals(request.input_chars, reply, verdict, unsure)
    if agrees is not None:
        found["agreement"] = agrees
    if rung.blocks:
        answer = verdict.value if verdict.valid else None
        found |= read_evidence(request.prompt, draft, reply, answer, rung.blocks, unsure)
    if rung.own_signals:
        found |= read_own(rung.own_signals, request.prompt.text, draft.text)
    if rung.needs_words:
        found |= prompt_signals(rung, request)
        if "draft_words" in rung.needs_words:
            found["draft_words"] = rung.words["draft_words"].chance_of(draft)
    return found


def verdict_of(plan: Plan, request: Request, reply: Reply) -> Verdict:
    """Whether a reply is usable: by the call's tools, by its own shape, or by the task's check."""
    verdict = request.tools.verdict(reply.tool_calls) if request.tools else None
    if verdict or not request.shape:
        return verdict or plan.check(reply.text)
    verdict, own = request.shape.check(reply.text), plan.own_check
    refused = verdict.valid and own is not None and not own(verdict.value)
    return verdict._replace(valid=False, problem=REFUSED) if refused else verdict
