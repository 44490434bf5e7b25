"""Whether a tuned plan is in force: it binds to what changes answers or decisions, runs out, and watches who serves."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from router import Router, RouterWarning
from router.core.binding import binding
from router.core.calibration import Calibrator
from router.core.call import Failure, Reply, Usage
from router.core.faults import Fault
from router.core.plan import Standing
from router.core.policy import Policy
from router.core.tuned import Certificate, Statement, TunedPlan, TunedRung
from router.errors import InvalidCall, PolicyError
from router.models.local import classifier_path
from router.resolve import bound, stand
from router.spec import Artefact, ModelCalibrators, Tuned, adopt, load, load_tuned, write_artefact, write_tuned
from router.testing import ScriptedModels, SimulatedWorld
from tests.tuning_support import make_policy, policy_data, write_policy

MODELS = ("tiny", "small", "large")
SURE = Calibrator((), (), (), (), 2.0)  # 0.88, whatever the draft.
STATEMENT = Statement(500, 0.05, 3, 0.01, 0.01, 0.03, 0.4, (0.35, 0.45), 0.3)


def certificate(policy: Policy, **changes: Any) -> Certificate:
    """A certificate that binds to this policy."""
    made = Certificate(
        max_quality_loss=0.04,
        at_confidence=0.9,
        loss="signed",
        test="exact",
        method="split",
        guarantee="guaranteed",
        label_source="labels",
        data_hash="d",
        train_rows=300,
        dropped_rows=0,
        seed=0,
        look=1,
        open_ended=True,
        statements={"all": STATEMENT},
        binds_to=binding(policy, "colours"),
    )
    return replace(made, **changes)


def artefact(policy: Policy, plan: TunedPlan, **changes: Any) -> Artefact:
    """An artefact with this plan, whose calibrators are sure of every draft."""
    models = tuple(ModelCalibrators(name, f"x/{name}", (SURE,), (SURE,), (SURE,)) for name in MODELS)
    statements = dict.fromkeys(plan.groups or ["all"], STATEMENT)
    made = Artefact(1, "colours", models, plan, certificate(policy, statements=statements))
    return replace(made, **changes)


PAIR = TunedPlan((TunedRung("small", 0.8), TunedRung("large")))
STRICT_PAIR = TunedPlan((TunedRung("small", 0.99), TunedRung("large")))


def folder_of(tmp_path: Path, plan: TunedPlan = PAIR, *, now: dict[str, Any] | None = None, **changes: Any) -> Path:
    """Policies with an artefact that was made for them; `now` is what the task says today."""
    folder = write_policy(tmp_path / "policies", MODELS, threshold=0.5)
    write_artefact(folder, artefact(make_policy(MODELS, threshold=0.5), plan, **changes))
    write_policy(folder, MODELS, **{"threshold": 0.5, **(now or {})})
    return folder


def said(colour: str = "red") -> ScriptedModels:
    """Three models of one opinion."""
    return ScriptedModels(dict.fromkeys(MODELS, colour))


def asked(folder: Path, **more: Any) -> list[str]:
    """Whom a call asks, in order."""
    backend = said()
    with warnings.catch_warnings(), Router(folder, backend=backend) as router:
        warnings.simplefilter("ignore", RouterWarning)
        router.route("colours", "item 1", **more)
    return [call.name for call in backend.history]


PLANS: dict[str, tuple[TunedPlan, list[str]]] = {
    "pair_keeps": (PAIR, ["small"]),
    "pair_climbs": (STRICT_PAIR, ["small", "large"]),
    "lowest_pair": (TunedPlan((TunedRung("tiny", 0.99), TunedRung("small"))), ["tiny", "small"]),
    "direct": (TunedPlan((TunedRung("small"),)), ["small"]),
    "top": (TunedPlan((TunedRung("large"),)), ["large"]),
    "three": (TunedPlan((TunedRung("tiny", 0.99), TunedRung("small", 0.8), TunedRung("large"))), ["tiny", "small"]),
    "comparison": (TunedPlan((TunedRung("tiny"), TunedRung("small", 0.8), TunedRung("large"))), ["tiny", "small"]),
    "gain_small": (TunedPlan((TunedRung("small", 0.4, by="gain"), TunedRung("large"))), ["small"]),
    "gain_large": (TunedPlan((TunedRung("small", 0.6, by="gain"), TunedRung("large"))), ["small", "large"]),
    "gate_open": (TunedPlan((TunedRung("small", 0.8, gate=0.8), TunedRung("large"))), ["small"]),
    "gate_shut": (TunedPlan((TunedRung("small", 0.8, gate=0.9), TunedRung("large"))), ["large"]),
}


TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
BROUGHT: dict[str, dict[str, Any]] = {
    "tools": {"tools": [TOOL]},
    "schema": {"schema": {"type": "object"}},
    "params": {"params": {"temperature": 1}},
    "max_tokens": {"params": {"max_tokens": 5}},
}


def test_images_and_another_system_text_are_not_covered_either(tmp_path: Path) -> None:
    """They come with the prompt; the task's own system text, given again, changes nothing."""
    own = certificate(make_policy(MODELS, threshold=0.5, system="Name the colour."))
    folder = folder_of(tmp_path, now={"system": "Name the colour."}, certificate=own)
    image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}

    def models(*messages: dict[str, Any]) -> list[str]:
        backend = said()
        with Router(folder, backend=backend) as router:
            router.route("colours", list(messages))
        return [call.name for call in backend.history]

    user = {"role": "user", "content": "item 1"}
    assert models(user) == models({"role": "system", "content": "Name the colour."}, user) == ["small"]
    assert models({"role": "system", "content": "Guess."}, user) == ["large"]
    assert models({"role": "user", "content": [{"type": "text", "text": "item 1"}, image]}) == ["large"]


@pytest.mark.parametrize("brought", BROUGHT.values(), ids=BROUGHT.keys())
@pytest.mark.parametrize("plan", [PAIR, TunedPlan((TunedRung("small"),))], ids=["pair", "direct"])
def test_a_call_that_the_certificate_does_not_cover_asks_the_top(
    tmp_path: Path, plan: TunedPlan, brought: dict[str, Any]
) -> None:
    """The eval run had no tools, schema or parameters of a call's own, so nothing is known of such drafts."""
    assert asked(folder_of(tmp_path, plan), **brought) == ["large"]


def test_on_stale_says_what_becomes_of_such_a_call(tmp_path: Path) -> None:
    """`keep` follows the plan all the same, `refuse` refuses, and calls that are covered go on as before."""
    kept = folder_of(tmp_path / "keep", now={"on_stale": "keep"})
    assert asked(kept, tools=[TOOL]) == ["small"]
    refusing = folder_of(tmp_path / "refuse", now={"on_stale": "refuse"})
    assert asked(refusing) == ["small"]
    with pytest.raises(InvalidCall, match="tools: the tuned plan was certified without tools of the call's own"):
        asked(refusing, tools=[TOOL])


def test_a_tool_loop_goes_on_with_a_rung_outside_the_plan(tmp_path: Path) -> None:
    """It made the calls while another plan, or none, was in force, or while the plan's own rung was down."""
    folder = folder_of(tmp_path, TunedPlan((TunedRung("tiny"),)))
    call = {"id": "c--r1", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}
    history: list[dict[str, Any]] = [
        {"role": "user", "content": "item 1"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c--r1", "content": "red"},
    ]
    backend = said()
    with Router(folder, backend=backend) as router:
        answer = router.route("colours", history)
    assert (answer.model, [one.name for one in backend.history]) == ("small", ["small"])


def test_a_group_of_the_name_none_is_not_that_of_calls_without_one() -> None:
    """Metadata that does not name the group gets the plan for unseen groups, the top rung."""
    cheap = (TunedRung("small"),)
    plan = TunedPlan((TunedRung("large"),), "language", {"None": cheap})
    assert [plan.rungs_for(one) for one in (None, "None", "de")] == [plan.rungs, cheap, plan.rungs]


@pytest.mark.parametrize("plan", [PAIR, TunedPlan((TunedRung("small"),))], ids=["pair", "direct"])
def test_the_switch_to_the_top_goes_over_a_tuned_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plan: TunedPlan
) -> None:
    """`ROUTER_DISABLE=top` means the top of the ladder, not of the plan."""
    folder = folder_of(tmp_path, plan)
    monkeypatch.setenv("ROUTER_DISABLE", "top")
    assert asked(folder) == ["large"]


@pytest.mark.parametrize(("plan", "expected"), PLANS.values(), ids=PLANS.keys())
def test_calls_follow_the_tuned_plan(tmp_path: Path, plan: TunedPlan, expected: list[str]) -> None:
    """Whatever the policy's own threshold says."""
    assert asked(folder_of(tmp_path, plan)) == expected


def test_an_answer_says_which_rungs_the_plan_leaves_out(tmp_path: Path) -> None:
    """And a direct plan does not count as an escalation: nothing was climbed past."""
    with Router(folder_of(tmp_path, TunedPlan((TunedRung("small"),))), backend=said()) as router:
        answer = router.route("colours", "item 1")
    assert [(step.model, step.action) for step in answer.steps] == [("tiny", "skip"), ("small", "accept")]
    assert (answer.escalated, answer.rung, answer.marginal_cost_nusd) == (False, 1, 0)
    assert answer.confidence_source.startswith("tuned:")


def test_the_rungs_above_a_plan_stand_in_when_its_last_one_is_down(tmp_path: Path) -> None:
    """A retired model must not take production down; an unusable answer alone does not ask them."""
    folder = folder_of(tmp_path, TunedPlan((TunedRung("tiny", 0.99), TunedRung("small"))))
    gone = ScriptedModels({"tiny": "red", "small": Failure(Fault.NOT_FOUND, 404), "large": "blue"})
    with Router(folder, backend=gone) as router, pytest.warns(RouterWarning, match="rung 'small' cannot be used"):
        assert router.route("colours", "item 1").model == "large"
    unusable = ScriptedModels({"tiny": "red", "small": "no idea", "large": "blue"})
    with Router(folder, backend=unusable) as router:
        answer = router.route("colours", "item 1")
    assert (answer.model, [call.name for call in unusable.history]) == ("tiny", ["tiny", "small"])


def test_a_tuned_threshold_holds_for_fitted_confidence_only(tmp_path: Path) -> None:
    """A draft that lacks a signal of every calibrator climbs: the prior has no place in a certificate."""
    needy = ModelCalibrators("small", "x/small", (Calibrator(("lp_mean",), (0.0,), (1.0,), (1.0,), 9.0),))
    with Router(folder_of(tmp_path, models=(needy,)), backend=said()) as router:
        answer = router.route("colours", "item 1")
    assert answer.model == "large"
    assert "lacks signals that the tuned plan needs" in answer.steps[1].reason


GROUPS = TunedPlan(
    (TunedRung("large"),),
    "language",
    {"de": (TunedRung("small", 0.8), TunedRung("large")), "en": (TunedRung("tiny"),)},
)


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"language": "de"}, ["small"]),
        ({"language": "en"}, ["tiny"]),
        ({"language": "fr"}, ["large"]),
        ({"language": None}, ["large"]),
        ({"other": "de"}, ["large"]),
        ({}, ["large"]),
        (None, ["large"]),
    ],
)
def test_each_group_has_its_plan(tmp_path: Path, metadata: Any, expected: list[str]) -> None:
    """By the call's metadata; what was never certified asks the top rung."""
    assert asked(folder_of(tmp_path, GROUPS), metadata=metadata) == expected


OTHER_HAND: dict[str, tuple[Callable[[Any], Any], str]] = {
    "no_certificate": (lambda data: data.pop("certificate"), "plan: has no certificate behind it; restore the file"),
    "group_added": (
        lambda data: data["plan"]["groups"].update(fr=[{"model": "tiny"}]),
        "plan: plan and certificate are not of the same groups: only one of them has 'fr'",
    ),
    "group_removed": (lambda data: data["plan"]["groups"].pop("en"), "only one of them has 'en'"),
    "default": (
        lambda data: data["plan"].update(rungs=[{"model": "small"}]),
        "plan: calls of a group without a certificate must ask 'large' alone",
    ),
    "model": (
        lambda data: data["models"][0].update(litellm="x/other"),
        "models.0: was fitted on 'x/other', but the certificate is of 'x/tiny'",
    ),
    "half_a_gain": (
        lambda data: (data["plan"]["groups"]["de"][0].update(by="gain"), data["models"][1].pop("last")),
        "plan: the plan asks small by gain, and `last` has no calibrators of that",
    ),
}


@pytest.mark.parametrize(("change", "says"), OTHER_HAND.values(), ids=OTHER_HAND.keys())
def test_a_plan_that_was_changed_by_hand_is_refused(tmp_path: Path, change: Callable[[Any], Any], says: str) -> None:
    """Only what the certificate speaks of is followed; the message says how to make it anew."""
    path = folder_of(tmp_path, GROUPS, now={"group": "language"}) / "tuned" / "colours.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(PolicyError) as caught:
        load_tuned(path.parents[1], "colours", make_policy(MODELS, group="language"))
    assert says in str(caught.value)
    assert "router tune" in str(caught.value)


HARMLESS: dict[str, dict[str, Any]] = {
    "budget": {"budget": {"usd_per_call": 5}},
    "deadline": {"deadline_s": 9.0},
    "retry": {"retry": {"attempts": 1}},
    "threshold": {"threshold": 0.9},
    "target": {"target": {"max_quality_loss": 0.5}},
    "max_input_tokens": {"max_input_tokens": 900},
    "on_filter": {"on_filter": "climb"},
}


@pytest.mark.parametrize("now", HARMLESS.values(), ids=HARMLESS.keys())
def test_what_changes_no_answer_changes_nothing(tmp_path: Path, now: dict[str, Any]) -> None:
    """A budget, a deadline or a retry is free to change."""
    with Router(folder_of(tmp_path, now=now), backend=said()) as router:
        assert router.plan("colours").standing == Standing("tuned")


STALE: dict[str, tuple[dict[str, Any], str]] = {
    "system": ({"system": "Name the colour."}, "the system text"),
    "template": ({"template_version": "2"}, "template_version was None, is now '2'"),
    "params": ({"params": {"temperature": 1.0}}, "the task's parameters was {}, is now {'temperature': 1.0}"),
    "answer": ({"answer": {"choice": ["red", "blue"]}}, "the answer kind"),
    "max_output_tokens": ({"max_output_tokens": 5}, "max_output_tokens was None, is now 5"),
    "group": ({"group": "language"}, "`group:` was None, is now 'language'"),
    "ladder": ({"ladder": ["small", "large"]}, "the ladder was ['tiny', 'small', 'large'], is now ['small', 'large']"),
}


@pytest.mark.parametrize(("now", "says"), STALE.values(), ids=STALE.keys())
def test_what_changes_answers_makes_the_plan_stale(tmp_path: Path, now: dict[str, Any], says: str) -> None:
    """Every call asks the top rung then, and is told once what changed and what to run."""
    folder = folder_of(tmp_path, now=now)
    with Router(folder, backend=said()) as router:
        with pytest.warns(RouterWarning, match="the tuned plan is stale") as caught:
            assert router.route("colours", "item 1").model == "large"
        assert says in str(caught[0].message)
        assert "Run `router eval` and `router tune`" in str(caught[0].message)
        router.route("colours", "item 2")  # Warnings are errors here: a second one would raise.


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ({"litellm": "x/newer"}, "model 'small' was 'x/small', is now 'x/newer'"),
        (
            {"litellm": "x/small", "params": {"seed": 1}},
            "model 'small' was 'x/small', is now 'x/small' with {'seed': 1}",
        ),
    ],
)
def test_another_model_makes_the_plan_stale(tmp_path: Path, model: dict[str, Any], says: str) -> None:
    """Its name at litellm and its parameters; its price may change."""
    folder = folder_of(tmp_path)
    data = policy_data(MODELS, threshold=0.5)
    data["models"]["large"]["price"]["request_usd"] = 9
    (folder / "policy.yml").write_text(json.dumps(data))
    with Router(folder, backend=said()) as router:
        assert router.plan("colours").standing.force == "tuned"
    data["models"]["small"] = model
    (folder / "policy.yml").write_text(json.dumps(data))
    with Router(folder, backend=said()) as router, pytest.warns(RouterWarning) as caught:
        assert router.plan("colours").standing.force == "top"
    assert says in str(caught[0].message)


def test_an_own_check_that_came_or_went_makes_the_plan_stale(tmp_path: Path) -> None:
    """Its verdict is a signal; the run was made without it."""
    checks: dict[str, Callable[[Any], bool]] = {"colours": bool}
    with Router(folder_of(tmp_path), backend=said(), checks=checks) as router, pytest.warns(RouterWarning) as caught:
        assert router.plan("colours").standing.force == "top"
    assert "whether an own check is registered" in str(caught[0].message)


def test_a_stale_plan_may_be_kept(tmp_path: Path) -> None:
    """`on_stale: keep` follows it, with the warning; a plan that no longer fits the ladder cannot be kept."""
    folder = folder_of(tmp_path, now={"on_stale": "keep", "system": "Name it."})
    with Router(folder, backend=said()) as router, pytest.warns(RouterWarning, match="it is kept, as `on_stale: keep`"):
        assert router.route("colours", "item 1").model == "small"
    folder = folder_of(tmp_path, now={"on_stale": "keep", "ladder": ["tiny", "large"]})
    with Router(folder, backend=said()) as router, pytest.warns(RouterWarning, match="every call asks the top rung"):
        assert router.route("colours", "item 1").model == "large"


def test_a_stale_plan_may_refuse_calls(tmp_path: Path) -> None:
    """`on_stale: refuse` sends nothing and names the file."""
    backend = said()
    with (
        Router(folder_of(tmp_path, now={"on_stale": "refuse", "system": "Name it."}), backend=backend) as router,
        pytest.raises(PolicyError, match=r"colours\.json: the tuned plan is stale: the system text.*refuse"),
    ):
        router.route("colours", "item 1")
    assert backend.history == []


def serving(name: str) -> ScriptedModels:
    """The small model is served by this id."""
    reply = Reply("red", Usage(1, output_tokens=1), model_served=name)
    return ScriptedModels({"tiny": "red", "small": reply, "large": "blue"})


SERVED = {"small": ("x/small-2026-01-01",), "large": ("x/large",)}


def test_a_served_model_that_the_run_never_saw_makes_the_plan_stale(tmp_path: Path) -> None:
    """From the next call on: the provider changed the model behind the name."""
    folder = folder_of(tmp_path, served=SERVED)
    with Router(folder, backend=serving("x/small-2026-01-01")) as router:
        assert [router.route("colours", f"item {n}").model for n in range(3)] == ["small"] * 3
    with Router(folder, backend=serving("x/small-2026-06-01")) as router:
        assert router.route("colours", "item 1").model == "small"
        with pytest.warns(RouterWarning) as caught:
            assert router.route("colours", "item 2").model == "large"
        assert router.route("colours", "item 3").model == "large"
    told = str(caught[0].message)
    assert "model 'small' was served by 'x/small-2026-06-01', which the eval run never saw" in told
    assert "(it saw x/small-2026-01-01)" in told


@pytest.mark.parametrize(
    ("served", "name"),
    [({}, "x/any"), ({"large": ("x/large",)}, "x/any"), (SERVED, None)],
    ids=["none", "other", "mute"],
)
def test_a_provider_that_says_nothing_is_not_doubted(tmp_path: Path, served: Any, name: str | None) -> None:
    """Without an id then or now there is nothing to compare."""
    reply = Reply("red", Usage(1, output_tokens=1), model_served=name)
    backend = ScriptedModels({"small": reply})
    with Router(folder_of(tmp_path, served=served), backend=backend) as router:
        assert [router.route("colours", f"item {n}").model for n in range(2)] == ["small"] * 2


DAY_S = 86400.0


def dated(tmp_path: Path, expires: str, **now: Any) -> Path:
    """Policies with a certificate that runs out on this day."""
    return folder_of(tmp_path, now=now, certificate=certificate(make_policy(MODELS, threshold=0.5), expires=expires))


def test_a_certificate_runs_out(tmp_path: Path) -> None:
    """It is announced 14 days before; after its day the plan is kept, with a warning, unless the policy says top."""
    for now, force in ({}, "tuned"), ({"on_expired": "top"}, "top"):
        world = SimulatedWorld()
        with Router(dated(tmp_path, "2023-12-14", **now), backend=said(), world=world) as router:
            assert router.plan("colours").standing.problem == ""
            world.clock.sleep(16 * DAY_S)
            with pytest.warns(RouterWarning, match="the certificate runs out on 2023-12-14; run `router eval`"):
                assert router.plan("colours").standing.force == "tuned"
            router.plan("colours")  # Told once.
            world.clock.sleep(14 * DAY_S)
            with pytest.warns(RouterWarning, match="the certificate ran out on 2023-12-14") as caught:
                assert router.plan("colours").standing.force == force
            assert ("it is kept" in str(caught[0].message)) == (force == "tuned")
            router.plan("colours")


def test_a_date_that_is_none_is_refused(tmp_path: Path) -> None:
    """An artefact is refused whole."""
    folder = dated(tmp_path, "next year")
    with pytest.raises(PolicyError, match=r"colours\.json: certificate\.expires: is no date; write it like 2026-11-20"):
        Router(folder, backend=said()).plan("colours")


def test_a_plan_that_is_no_path_up_the_ladder_is_not_followed() -> None:
    """Rungs out of order, or of another task."""
    policy = make_policy(MODELS)
    for rungs in ((TunedRung("large", 0.5), TunedRung("small")), (TunedRung("other"),)):
        tuned = Tuned({}, "tuned:x", plan=TunedPlan(rungs), certificate=certificate(policy))
        standing = stand(adopt(policy), "colours", tuned)
        assert (standing.force, standing.stale) == ("top", True)
        assert "which is no path up the ladder tiny -> small -> large" in standing.problem


def test_calibrators_without_a_plan_leave_the_policy_in_force(tmp_path: Path) -> None:
    """What `router distill` writes is no plan: the policy's ladder and threshold hold."""
    folder = write_policy(tmp_path / "policies", MODELS, threshold=0.5)
    write_tuned(folder, "colours", ModelCalibrators("tiny", "x/tiny", (SURE,)), {})
    with Router(folder, backend=said()) as router:
        assert router.plan("colours").standing == Standing()
        assert router.route("colours", "item 1").model == "tiny"


def test_new_calibrators_of_a_planned_model_take_the_plan_away(tmp_path: Path) -> None:
    """What was certified was another model; those of a model that the plan does not ask leave it."""
    folder = folder_of(tmp_path)
    policy = make_policy(MODELS, threshold=0.5)
    write_tuned(folder, "colours", ModelCalibrators("tiny", "x/tiny", (SURE,)), {})
    kept = load_tuned(folder, "colours", policy)
    assert kept is not None
    assert kept.plan == PAIR
    write_tuned(folder, "colours", ModelCalibrators("small", "x/small", (SURE,)), {})
    gone = load_tuned(folder, "colours", policy)
    assert gone is not None
    assert gone.plan is None
    assert gone.certificate is None


def test_an_artefact_survives_a_round_trip(tmp_path: Path) -> None:
    """Plan, groups, certificate and served ids are read back as they were written."""
    made = artefact(make_policy(MODELS), GROUPS, served=SERVED, provenance={"run": "runs/colours.jsonl"})
    path = write_artefact(tmp_path, made)
    assert replace(TypeAdapter(Artefact).validate_json(path.read_bytes()), digest=None) == made


def test_a_local_model_that_was_trained_anew_makes_the_plan_stale(tmp_path: Path) -> None:
    """Its name stays and its weights change: it is bound by its file."""
    data = policy_data(MODELS, threshold=0.5)
    data["models"]["tiny"] = {"litellm": "local/colours-small", "price": {"gpu_second_usd": 0}}
    folder = write_policy(tmp_path / "policies", MODELS)
    (folder / "policy.yml").write_text(json.dumps(data))
    weights = classifier_path(folder, "colours-small")
    weights.parent.mkdir()
    weights.write_bytes(b"first")
    loaded = load(folder)
    tuned = Tuned({}, "tuned:x", PAIR, certificate(loaded.policy, binds_to=bound(loaded, "colours")))
    assert stand(loaded, "colours", tuned) == Standing("tuned")
    weights.write_bytes(b"second")
    standing = stand(loaded, "colours", tuned)
    assert (standing.force, standing.stale) == ("top", True)
    assert "model 'tiny' was 'local/colours-small' (file " in standing.problem


def test_the_binding_holds_no_text_of_the_policy() -> None:
    """System text and answer kind are digests: an artefact may be shown where the policy may not."""
    bound = json.dumps(binding(make_policy(system="A secret."), "colours"))
    assert "secret" not in bound
    assert "red" not in bound
