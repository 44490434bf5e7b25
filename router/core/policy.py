"""The policy: which models a task may use, in which order, and within which limits.

These frozen dataclasses are the one definition of every field. `router.spec` validates YAML straight into them
and generates the JSON Schema and the reference page from them, so each field's docstring is its documentation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from router.core.grammar import STRICT, Count, Limit, Name, Seconds, Share, Text, Unbuilt, Usd
from router.core.limits import Budgets
from router.core.slos import Slo, Slos


@dataclass(frozen=True, slots=True)
class PriceTier:
    """Prices that hold in place of the usual ones: for a long input, in a service tier, or for both at once.

    A part that is omitted is unknown there, whatever the price says of it, and so is the cost of a request that needs
    it; only reasoning then costs what output does. `router check` names such parts.
    """

    __pydantic_config__ = STRICT

    above_input_tokens: Annotated[int, Limit(ge=0)] = 0
    """They hold for the whole request when its input is longer than this; 0 for every length."""
    service_tier: Annotated[str, Limit(pattern=r"^[a-z0-9_-]{0,40}$")] = ""
    """They hold when the provider says that it served this tier, such as `flex`, `priority` or `batch`."""
    input_usd_per_mtok: Usd | None = None
    """Per million input tokens, as in `price`; so are the others."""
    cached_read_usd_per_mtok: Usd | None = None
    """Per million input tokens read from the provider's prompt cache."""
    cache_write_usd_per_mtok: Usd | None = None
    """Per million input tokens written to the provider's prompt cache with its default lifetime."""
    cache_write_1h_usd_per_mtok: Usd | None = None
    """Per million input tokens written to the provider's prompt cache for one hour."""
    output_usd_per_mtok: Usd | None = None
    """Per million output tokens."""
    reasoning_usd_per_mtok: Usd | None = None
    """Per million reasoning tokens; the output price when missing."""
    input_audio_usd_per_mtok: Usd | None = None
    """Per million tokens of sound in the input."""
    output_audio_usd_per_mtok: Usd | None = None
    """Per million tokens of sound in the output."""
    output_image_usd_per_mtok: Usd | None = None
    """Per million tokens of images in the output."""


@dataclass(frozen=True, slots=True)
class Price:
    """What one model costs, in US dollars. A part that is missing is taken from the price map; `0` means free."""

    __pydantic_config__ = STRICT

    input_usd_per_mtok: Usd | None = None
    """Per million input tokens that were neither read from nor written to a prompt cache."""
    cached_read_usd_per_mtok: Usd | None = None
    """Per million input tokens read from the provider's prompt cache."""
    cache_write_usd_per_mtok: Usd | None = None
    """Per million input tokens written to the provider's prompt cache with its default lifetime."""
    cache_write_1h_usd_per_mtok: Usd | None = None
    """Per million input tokens written to the provider's prompt cache for one hour."""
    output_usd_per_mtok: Usd | None = None
    """Per million output tokens."""
    reasoning_usd_per_mtok: Usd | None = None
    """Per million reasoning tokens; the output price when missing, which is how providers bill them."""
    input_audio_usd_per_mtok: Usd | None = None
    """Per million tokens of sound in the input."""
    output_audio_usd_per_mtok: Usd | None = None
    """Per million tokens of sound in the output."""
    output_image_usd_per_mtok: Usd | None = None
    """Per million tokens of images in the output."""
    request_usd: Usd | None = None
    """Per request, whatever its size."""
    gpu_second_usd: Usd | None = None
    """Per second that a self-hosted model works on the request; replaces the price map, tokens are then free."""
    gpu_hour_usd: Usd | None = None
    """Per hour of the machine of a self-hosted model, all its accelerators together; in place of `gpu_second_usd`."""
    gpu_concurrency: Annotated[float, Limit(gt=0.0)] = 1.0
    """Requests that the machine works on at a time; they share its price."""
    gpu_utilisation: Annotated[float, Limit(gt=0.0, le=1.0)] = 1.0
    """Share of its hours in which the machine works; its requests carry the idle ones too."""
    up_to_input_tokens: Count | None = None
    """Longest input that these prices hold for; a longer one has another price, so its cost is unknown."""
    tiers: tuple[PriceTier, ...] = ()
    """Prices for long inputs and service tiers; those of the price map hold when no price is given here at all."""
    changes: Mapping[Text, Price] | None = field(default=None, hash=False)
    """By the date that they begin at, in order, such as `2026-12-01`: the parts that are another price from then on.
    UTC where a time has no zone. A request costs what is in force when it leaves."""


Kind = Literal["judge", "p_true", "stated"]
Capability = Literal["images", "json_schema", "logprobs", "reasoning", "system", "tools"]


@dataclass(frozen=True, slots=True)
class Model:
    """One callable model: its litellm name, the parameters it is always called with, and its price."""

    __pydantic_config__ = STRICT

    litellm: Text
    """The name litellm knows it by, with the provider's prefix: `anthropic/claude-haiku-4-5`."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """Parameters sent with every request, such as `temperature`, `reasoning_effort` or `logprobs`."""
    api_base: str | None = None
    """Address of a self-hosted or proxied endpoint, such as `http://localhost:8000/v1`."""
    api_key_env: Annotated[str, Limit(pattern=r"^[A-Z][A-Z0-9_]{1,63}$")] | None = None
    """Name of the environment variable that holds the key; the provider's usual one when missing."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """HTTP headers sent with every request. Never a key: use `api_key_env`."""
    context_tokens: Count | None = None
    """Largest input the model takes, in tokens; litellm's figure when missing."""
    max_output_tokens: Count | None = None
    """Largest output the model can give, in tokens; litellm's figure when missing. Bounds costs, truncates nothing."""
    image_tokens: Count | None = None
    """Most tokens that one image in a prompt can count for, as its vendor documents. Bounds costs; a cost limit refuses
    images without it. Known for models of `anthropic/`."""
    capabilities: tuple[Capability, ...] | None = None
    """Everything the model can do, in place of what litellm knows; a call that needs something else skips it."""
    price: Price = field(default_factory=Price)
    """What the model costs; every part that is given here wins over litellm's price map."""


@dataclass(frozen=True, slots=True)
class PanelQuestion:
    """A question about the draft of a panel's first member: exactly one kind, with the model that is asked.

    It has no vote. What is said enters the confidence that tuning fits; before any tuning it is not asked.
    """

    __pydantic_config__ = STRICT

    judge: Name | None = None
    """Another model that grades the draft. It is no other model of the ladder."""
    p_true: Name | None = None
    """A model that says yes or no to the draft; with `logprobs` among its parameters, how likely that is."""
    stated: Name | None = None
    """A model that states the chance of the draft being right."""

    def __post_init__(self) -> None:
        if sum(getattr(self, name) is not None for name in self.__slots__) != 1:
            raise ValueError(f"name exactly one of {', '.join(self.__slots__)}, each with a model")

    @property
    def kind(self) -> Kind:
        """What is asked."""
        return "judge" if self.judge is not None else "p_true" if self.p_true is not None else "stated"

    @property
    def model(self) -> str:
        """The model that is asked."""
        return self.judge or self.p_true or self.stated or ""


@dataclass(frozen=True, slots=True)
class PanelRung:
    """A rung of several cheap models, asked one after the other until enough of them agree.

    Its answer is the one that most of them give, the earliest of several; all that were asked are paid for. Before any
    tuning it is kept when more than half of the members give it; a tuned panel ends as soon as it is sure enough, or
    when it is hopeless.
    """

    __pydantic_config__ = STRICT

    panel: Annotated[tuple[Name | PanelQuestion, ...], Limit(min_length=2, max_length=8)]
    """Models of the panel, in the order in which they are asked. One that stands twice is asked again: a second
    sample, for which it needs a `temperature` above 0. A further member may be a question about the first one's draft:
    `{judge: mid}`, `{p_true: small}` or `{stated: small}`."""


@dataclass(frozen=True, slots=True)
class FallbackRung:
    """A rung of one model with substitutes that are asked only when it is down."""

    __pydantic_config__ = STRICT

    fallback: Annotated[tuple[Name, ...], Limit(min_length=2)]
    """Models in the order in which they are tried."""


@dataclass(frozen=True, slots=True)
class NumberAnswer:
    """Bounds of a numeric answer."""

    __pydantic_config__ = STRICT

    min: float | None = None
    """Smallest allowed value."""
    max: float | None = None
    """Largest allowed value."""


@dataclass(frozen=True, slots=True)
class TextAnswer:
    """Bounds of a free-text answer."""

    __pydantic_config__ = STRICT

    min_chars: Count | None = None
    """Fewest characters of a usable answer."""
    max_chars: Count | None = None
    """Most characters of a usable answer."""


@dataclass(frozen=True, slots=True)
class AnswerKind:
    """What a usable answer looks like: exactly one of the kinds. A draft that does not fit climbs."""

    __pydantic_config__ = STRICT

    choice: Annotated[tuple[Text, ...], Limit(min_length=2)] | None = None
    """One of these labels."""
    number: NumberAnswer | None = None
    """A number; `{}` for any."""
    json: Mapping[str, Any] | None = None
    """JSON that fits this JSON Schema; `{}` for any JSON."""
    pattern: Text | None = None
    """Text that this regular expression matches from end to end."""
    text: TextAnswer | None = None
    """Free text; `{}` for any that is not empty."""

    def __post_init__(self) -> None:
        given = [name for name in self.__slots__ if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"name exactly one kind of {', '.join(self.__slots__)}; found {given or 'none'}")


@dataclass(frozen=True, slots=True)
class Retry:
    """How often one rung is asked again after a passing fault."""

    __pydantic_config__ = STRICT

    attempts: Annotated[int, Limit(ge=1, le=10)] = 3
    """Requests to one rung at the most, the first included."""
    max_wait_s: Annotated[float, Limit(ge=0.0)] = 8.0
    """Longest pause before another attempt. A provider that asks for more is not waited for: the call climbs."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a tuned plan must hold."""

    __pydantic_config__ = STRICT

    max_quality_loss: Share
    """Largest loss of quality against the top rung, as a share: `0.02` is two points of accuracy."""
    at_confidence: Share = 0.95
    """How sure the certificate must be."""
    never_worse: bool = False
    """Count every call that the cascade answers worse, with no credit for those it answers better."""


@dataclass(frozen=True, slots=True)
class Cache:
    """Keeping whole answers for identical calls."""

    __pydantic_config__ = STRICT

    ttl_s: Seconds
    """How long an answer is kept."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits on what a task may spend."""

    __pydantic_config__ = STRICT

    usd_per_call: Usd | None = None
    """Limit of one call, all rungs and retries included; `route(max_cost_usd=...)` may lower it."""
    usd_per_day: Usd | None = None
    """Limit of all calls of one day, in the time zone of `budgets:` and with its `at_limit`."""


@dataclass(frozen=True, slots=True)
class Task:
    """One type of work: its ladder, when to climb, what an answer looks like, and its limits."""

    __pydantic_config__ = STRICT

    ladder: Annotated[tuple[Name | PanelRung | FallbackRung, ...], Limit(min_length=1, max_length=8)]
    """Models of `models:`, cheapest first. A rung may also be `{panel: [a, b]}` or `{fallback: [a, b]}`."""
    threshold: Share | Annotated[tuple[Share, ...], Limit(min_length=1)] = 0.8
    """Accept a draft whose confidence is at or above this; one number, or one for each rung but the last."""
    answer: AnswerKind = field(default_factory=lambda: AnswerKind(text=TextAnswer()))
    """What a usable answer looks like."""
    agree_on: tuple[Text, ...] = ()
    """Fields of a JSON answer that must be equal for two answers to agree; all of it when empty."""
    system: str | None = None
    """System text put before the prompt, unless the caller's messages bring their own."""
    template_version: str | None = None
    """Version of the prompt template where the caller builds the prompt; changing it makes a certificate stale."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """Parameters sent with every request of the task; a model's own win."""
    max_input_tokens: Count | None = None
    """Longest prompt the task takes; a longer one is refused before anything is sent."""
    max_output_tokens: Count | None = None
    """Longest answer a model may give, in tokens; this library sets none when missing. Anthropic's interface wants
    one, so that litellm then sends the model's largest, and 4,096 for a model it does not know."""
    deadline_s: Seconds | None = None
    """Seconds for the whole call: all rungs, retries and pauses."""
    retry: Retry = field(default_factory=Retry)
    """Retries of one rung."""
    on_filter: Literal["raise", "climb"] = "raise"
    """What a provider's content filter leads to."""
    budget: Budget = field(default_factory=Budget)
    """Limits on spending."""
    target: Target | None = None
    """What tuning has to hold."""
    cache: Annotated[Cache | None, Unbuilt] = None
    """Keep answers of identical calls."""
    prompt_cache: Annotated[Literal["off", "system"] | None, Unbuilt] = None
    """Which part of the prompt is marked for the provider's prompt cache."""
    slo: Slo | None = None
    """Service-level objectives."""
    shadow_rate: Annotated[Share | None, Unbuilt] = None
    """Share of accepted calls that also ask the top rung, off the caller's path."""
    cluster: Text | None = None
    """Metadata key of eval rows whose equal values are kept on one side of a split: a document, a customer."""
    group: Text | None = None
    """Metadata key whose values are certified and routed one by one; a value that was not certified asks the top."""
    on_stale: Literal["top", "keep", "refuse"] = "top"
    """When a certificate does not cover the policy or a call, or the tuned file was edited: ask the top rung, keep the
    tuned plan, or refuse."""
    on_expired: Literal["keep", "top"] = "keep"
    """When a certificate is past its date: keep the tuned plan, or ask the top rung. Both warn, from 14 days before."""

    def __post_init__(self) -> None:
        if isinstance(self.threshold, tuple) and len(self.threshold) != len(self.ladder) - 1:
            raise ValueError(
                f"threshold lists {len(self.threshold)} numbers for {len(self.ladder)} rungs; "
                "give one number, or one for each rung but the last"
            )

    def thresholds(self) -> tuple[float, ...]:
        """The threshold of each rung but the last."""
        if isinstance(self.threshold, tuple):
            return self.threshold
        return (self.threshold,) * (len(self.ladder) - 1)


@dataclass(frozen=True, slots=True)
class Ledger:
    """How the record of calls is kept."""

    __pydantic_config__ = STRICT

    on_failure: Literal["allow", "refuse"] = "allow"
    """When the ledger cannot be written: go on with one alarm, or refuse calls."""
    sync: Literal["normal", "full"] = "normal"
    """`full` also waits for the disk after every row, for power loss; `normal` survives a killed process."""
    keep_days: Annotated[int, Limit(ge=1, le=36_500)] | None = None
    """How long single calls are kept: `router ledger compact` packs what is older. For ever where none is given."""
    store_content: Annotated[bool | None, Unbuilt] = None
    """Keep prompts and answers, which are otherwise never stored."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A whole policy: the models and the tasks that use them."""

    __pydantic_config__ = STRICT

    version: Literal[1]
    """Version of this grammar."""
    models: Mapping[Name, Model] = field(default_factory=dict)
    """Models by the name that ladders use."""
    tasks: Mapping[Name, Task] = field(default_factory=dict)
    """Tasks by the name that callers use."""
    ledger: Ledger = field(default_factory=Ledger)
    """The record of calls."""
    slos: Slos = field(default_factory=Slos)
    """Service-level objectives by feature; a task has its own."""
    budgets: Budgets = field(default_factory=Budgets)
    """Limits that calls share, by task, feature, user and tenant."""
    environment: Name | None = None
    """Makes this file an overlay: it is merged over the others when `ROUTER_ENV` names the same environment."""
