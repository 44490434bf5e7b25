"""`meter`: a call that was not routed gets its place in the ledger, with its usage and its price."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, TypedDict

from router import events
from router.core.answer import Attempt, Step
from router.core.call import Call, Reply, Usage
from router.core.dated import own_price, price_source
from router.core.effects import Ask
from router.core.params import checked_metadata
from router.core.policy import Model, Price
from router.core.pricing import Amount, Rates, merged, settle, usd, used_source
from router.errors import InvalidCall, StateError, warn
from router.ledger import Fingerprints, LedgerWriter, Trace
from router.ledger.rows import intent_row, metered_row, settle_row
from router.models import Backend
from router.models.litellm_replies import read_usage, reported_cost_nusd, served_tier
from router.options import attribution
from router.spec import Loaded
from router.world import World

# Of no policy, which cannot name a task like this: what the ledger and the audit call calls that were not routed.
METERED_TASK = "(metered)"


class Meter:
    """Puts calls that were not routed on record."""

    def __init__(
        self,
        loaded: Loaded,
        backend: Backend,
        ledger: LedgerWriter,
        fingerprints: Fingerprints,
        world: World,
        on_spent: Callable[[Trace, str | None, int], None],
    ) -> None:
        self._loaded = loaded
        self._backend = backend
        self._ledger = ledger
        self._fingerprints = fingerprints
        self._world = world
        self._on_spent = on_spent

    def record(self, response: Any, model: str | None, options: Mapping[str, Any]) -> float | None:
        """Write the rows of one response; its cost in dollars, `None` when the price is unknown."""
        if hasattr(response, "router"):
            raise InvalidCall("response: comes from this library, so it is on record already", argument="response")
        seen = _seen(response)
        name = model or getattr(seen, "model", None)
        if not isinstance(name, str) or not name or not hasattr(seen, "usage"):
            raise InvalidCall(
                "response: has no model and usage; give what litellm or the OpenAI SDK returned, whole, or the last "
                "chunk of a stream with include_usage, and model= where it does not name one",
                argument="response",
            )
        who, route_id, now_s = attribution(options), self._world.new_id(), self._world.clock.time()
        prints = self._fingerprints.of(who.get("user"))
        trace = Trace(
            route_id,
            METERED_TASK,
            self._loaded.policy_hash,
            None,
            None,
            (),
            who.get("feature"),
            prints.name("user", who.get("user")),
            who.get("tenant"),
            prints.name("session", who.get("session")),
            checked_metadata(options.get("metadata")),
        )
        rates = self._rates(name, _provider(response), now_s)
        attempt = _attempt(f"{route_id}-1", name, seen, rates)
        ask = Ask(0, Call(name, Model(litellm=name), ()), 1, rates, attempt.amount.upper_nusd)
        self._ledger.intent(intent_row(trace, ask, attempt.attempt_id, 1, now_s))
        self._ledger.record(settle_row(attempt, now_s))
        step = Step(0, name, "accept", "metered", cost_nusd=attempt.amount.nusd, attempts=1)
        self._ledger.record(metered_row(trace, step, attempt, now_s))
        self._count(trace, who.get("user"), attempt.amount.nusd or 0)
        cost_usd = usd(attempt.amount.nusd)
        if events.wanted():
            people = {"feature": trace.feature, "tenant": trace.tenant, "user": trace.user}
            events.emit("meter", {"route_id": route_id, "model": name, "cost_usd": cost_usd, **people})
        return cost_usd

    def _count(self, trace: Trace, user: str | None, nusd: int) -> None:
        """Count it in the budgets. It is paid for: a disk that cannot be written must not take the response away."""
        try:
            self._on_spent(trace, user, nusd)
        except StateError as error:
            events.emit("router.state_failed", {"problem": str(error)}, level=logging.ERROR)
            warn(f"a metered call is not counted in its budgets: {error}")

    def _rates(self, name: str, provider: str | None, now_s: float) -> Rates:
        """The price of a model that a provider names: the policy's where it knows the model, else the price map's."""
        names = [name, f"{provider}/{name}"] if provider else [name]
        models = self._loaded.policy.models
        known = [model for own, model in models.items() if own == name or model.litellm in names]
        # A provider's own name of a model lacks the prefix that litellm wants.
        known = known or [model for model in models.values() if model.litellm.rpartition("/")[2] == name]
        prices = {self._priced(model, now_s) for model in known}
        if len(prices) == 1:
            return Rates(*prices.pop())
        listed = [] if prices else [self._priced(Model(litellm=one), now_s) for one in names]
        return Rates(*next((one for one in listed if one[0] != Price()), (Price(), "")))

    def _priced(self, model: Model, now_s: float) -> tuple[Price, str]:
        own, facts = own_price(model.price, now_s), self._backend.facts(model)
        return merged(own, facts.price), price_source(own, facts.price, facts.price_source)


class Metered(TypedDict, total=False):
    """What `meter` takes beside the response."""

    feature: str | None
    user: str | None
    tenant: str | None
    session: str | None
    metadata: Mapping[str, Any] | None


def _attempt(attempt_id: str, name: str, seen: Any, rates: Rates) -> Attempt:
    usage = _usage(seen.usage)
    took_ms = _latency_ms(seen)
    tier = served_tier(seen.usage, seen)
    reply = Reply("", usage, reported_cost_nusd=reported_cost_nusd(seen.usage), service_tier=tier)
    if reply.reported_cost_nusd is None and (took_ms is None if rates.by_second else usage is None):
        amount = Amount("unknown", None, None)
    else:
        amount = settle(reply, rates, upper_nusd=None, estimate=Usage(), seconds=(took_ms or 0.0) / 1000)
    return Attempt(
        attempt_id=attempt_id,
        rung=0,
        model=name,
        number=1,
        model_asked=name,
        model_served=getattr(seen, "model", None),
        fault=None,
        status=None,
        usage=usage,
        usage_source="none" if usage is None else "provider",
        amount=amount,
        latency_ms=took_ms or 0.0,
        service_tier=tier,
        price_source=used_source(amount, rates),
    )


def _usage(reported: Any) -> Usage | None:
    """Usage in any of three shapes: chat completions and embeddings, OpenAI's Responses, Anthropic's Messages."""
    if not hasattr(reported, "input_tokens") or hasattr(reported, "prompt_tokens"):
        return read_usage(reported)
    details = getattr(reported, "input_tokens_details", None)
    # Anthropic counts what was cached beside the input, OpenAI within it.
    read = getattr(details, "cached_tokens", 0) if details else getattr(reported, "cache_read_input_tokens", 0)
    written = 0 if details else getattr(reported, "cache_creation_input_tokens", 0)
    counts = [reported.input_tokens, getattr(reported, "output_tokens", 0), read or 0, written or 0]
    if any(type(count) is not int for count in counts):
        return None
    prompt, completion, cached, cache_written = counts
    return read_usage(
        SimpleNamespace(
            prompt_tokens=prompt if details else prompt + cached + cache_written,
            completion_tokens=completion,
            prompt_tokens_details=SimpleNamespace(cached_tokens=cached, cache_creation_tokens=cache_written),
            completion_tokens_details=getattr(reported, "output_tokens_details", None),
        )
    )


def _seen(response: Any) -> Any:
    """A response by its attributes, although it may be a mapping."""
    return (
        SimpleNamespace(**{str(k): _seen(v) for k, v in response.items()}) if isinstance(response, dict) else response
    )


def _provider(response: Any) -> str | None:
    """The provider that litellm asked; the OpenAI SDK does not say."""
    hidden = getattr(response, "_hidden_params", None) or {}
    found = hidden.get("custom_llm_provider") if isinstance(hidden, Mapping) else None
    return found if isinstance(found, str) else None


def _latency_ms(seen: Any) -> float | None:
    took = getattr(seen, "_response_ms", None)
    return float(took) if isinstance(took, int | float) and not isinstance(took, bool) else None
