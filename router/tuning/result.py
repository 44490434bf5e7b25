"""What tuning found: a plan, its calibrators and its certificate, and what the plan does on other rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.core.tuned import Certificate, TunedPlan
from router.core.word_scores import Words, WordSignal
from router.errors import TuningError
from router.spec.artefact import Artefact, ModelCalibrators, PanelCalibrators
from router.tuning.features import Floats, first_score
from router.tuning.plans import Fitted, Outcome, apply_rungs, panel_of
from router.tuning.quality import Quality, quality_of
from router.tuning.runs import EvalRun
from router.tuning.table import table_of
from router.tuning.texts import word_columns


@dataclass(frozen=True, eq=False)
class Applied:
    """What a plan does on rows whose answers are all known, row by row."""

    models: tuple[str, ...]
    answered: NDArray[np.intp]
    """Index of the model that answered each row."""
    escalated: NDArray[np.bool_]
    """Whether a row went past the plan's first rung, because its draft was not kept or because it was skipped."""
    cost_nusd: Floats
    loss: Floats
    """The top rung's quality less the plan's."""
    top_cost_nusd: Floats

    @property
    def cost_change(self) -> float:
        """Mean cost against always the top rung: -0.3 is 30 % cheaper."""
        return float(self.cost_nusd.mean() / self.top_cost_nusd.mean() - 1.0)


@dataclass(frozen=True)
class Tuning:
    """A plan with its calibrators, and either a certificate or the reason why there is none."""

    task: str
    models: tuple[str, ...]
    """The ladder that was tuned, cheapest first."""
    plan: TunedPlan
    """Always the top rung where there is no certificate."""
    fitted: Fitted
    """The calibrators."""
    certificate: Certificate | None
    refusal: str = ""
    """Why the plan is always the top rung; empty where there is a certificate."""
    needed_rows: int | None = None
    """Labelled rows with which a refused target could be met; `None` where no number of them would do."""
    provenance: Mapping[str, Any] | None = None
    """Where the run came from."""

    @property
    def certified(self) -> bool:
        """Whether the plan carries a certificate."""
        return self.certificate is not None

    def apply(self, run: EvalRun) -> Applied:
        """Follow the plan over other rows, as `route` would call by call.

        Raises
        ------
        TuningError
            The run's models are not those that were tuned.
        """
        if run.models != self.models:
            raise TuningError(
                f"models: the plan was tuned for {', '.join(self.models)}, but the run has {', '.join(run.models)}; "
                "tune on this run, or name its models in the ladder",
                needed=0,
            )
        table = table_of(run, run.quality, run.cost_nusd, np.arange(run.rows))
        found = apply_rungs(table, self.plan.rungs, self.fitted)
        if run.group is not None:
            names = np.array([str(value) for value in run.group.tolist()], dtype=object)
            for name, rungs in self.plan.groups.items():
                theirs = apply_rungs(table, rungs, self.fitted)
                found = Outcome(*(np.where(names == name, own, all_) for own, all_ in zip(theirs, found, strict=True)))
        return Applied(
            run.models, found.answered, found.asked_more, found.cost, found.loss, top_cost_nusd=run.cost_nusd[:, -1]
        )

    def calibration(self, run: EvalRun) -> dict[str, Quality]:
        """How good the confidence in each model's drafts, and in what a panel says, is on these rows.

        A model whose drafts have no score is left out, and so is a panel that the plan does not ask.
        """
        found = {}
        for at, model in enumerate(self.models):
            own = {**run.prompt_signals, **run.signals.get(model, {})}
            own |= word_columns(run, at, self.fitted.models[model].words)
            p, outcome = first_score(self.fitted.models[model].confidence, own, run.rows), run.quality[:, at]
            known = ~np.isnan(p) & ~np.isnan(outcome)
            if known.any():
                found[model] = quality_of(p[known], outcome[known])
        for keys in self.fitted.panels:
            p, outcome = self._panel(run, keys)
            known = ~np.isnan(p) & ~np.isnan(outcome)
            if known.any():
                found[" + ".join(keys)] = quality_of(p[known], outcome[known])
        return found

    def _panel(self, run: EvalRun, keys: tuple[str, ...]) -> tuple[Floats, Floats]:
        """The confidence in what a panel's members say together, and how good that is."""
        table = table_of(run, run.quality, run.cost_nusd, np.arange(run.rows))
        columns, lead = panel_of(table, [table.names.index(key) for key in keys], self.fitted)
        return first_score(self.fitted.panels[keys].confidence, columns, run.rows), table.led_quality(lead)

    def _needed(self, words: Mapping[WordSignal, Words]) -> dict[WordSignal, Words]:
        """What words say, without the groups that have no plan: their calls ask the top rung alone."""
        groups = self.plan.groups if self.plan.group is not None else None
        if groups is None:
            return dict(words)
        kept = {name: {one: part for one, part in own.groups.items() if one in groups} for name, own in words.items()}
        return {name: replace(own, groups=kept[name]) for name, own in words.items()}

    def artefact(
        self,
        litellm: Mapping[str, str],
        *,
        binds_to: Mapping[str, Any] | None = None,
        issued: str = "",
        expires: str = "",
        served: Mapping[str, tuple[str, ...]] | None = None,
    ) -> Artefact:
        """The tuning as the file `policies/tuned/<task>.json` holds it.

        Parameters
        ----------
        litellm
            By model, what its name stands for in the policy.
        binds_to
            What of the policy must be unchanged for the certificate to hold.
        issued, expires
            Dates, year first.
        served
            By model, the ids that providers served in the run.

        Raises
        ------
        TuningError
            There is no certificate; nothing is to be written then.
        """
        if self.certificate is None:
            raise TuningError(f"nothing to write: {self.refusal}", needed=self.needed_rows or 0)
        certificate = replace(self.certificate, binds_to=dict(binds_to or {}), issued=issued, expires=expires)
        models = tuple(
            ModelCalibrators(name, litellm[name], own.confidence, own.last, own.prompt, self._needed(own.words))
            for name, own in self.fitted.models.items()
        )
        panels = tuple(PanelCalibrators(keys, own.confidence, own.last) for keys, own in self.fitted.panels.items())
        return Artefact(
            1,
            self.task,
            models,
            self.plan,
            certificate,
            served=dict(served or {}),
            panels=panels,
            provenance=self.provenance,
        )
