"""What is fitted on the training rows: the calibrators of models and panels, with scores of rows that were left out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from router.core.word_scores import Words, WordSignal
from router.tuning.features import Columns, Floats, first_score, matrix, terms_of
from router.tuning.fit import Fit, fit, fold_count
from router.tuning.plans import Family, Fitted, Heads, Scores, by_gain, with_used
from router.tuning.table import Rows, Table, folds_of
from router.tuning.texts import MIN_ROWS, WordFit, fit_prompts, fit_words, hashed, word_columns
from router.tuning.units import codes_of


class Trained:
    """The calibrators of all models, fitted on the training rows, with out-of-fold scores for those rows."""

    def __init__(self, train: Table, seed: int, folds: int | None = None) -> None:
        self._folds = folds_of(train.unit, folds or fold_count(train.rows), seed)
        self._fits: dict[tuple[str, int | tuple[int, ...], int | None], Fit] = {}
        self._panels: dict[tuple[int, ...], tuple[dict[str, Floats], Rows]] = {}
        self._codes = codes_of(train.unit)
        sizes = np.bincount(self._codes)
        self._sizes = sizes if len(sizes) < train.rows else None
        self.words: list[dict[WordSignal, Words]] = [{} for _ in train.run.models]
        self.prompts: list[WordFit] = []
        """What prompts say of each model; empty where there are none, or too few."""
        self.train = self._with_words(train)

    @property
    def units(self) -> int:
        """How many training rows there are, or clusters of them."""
        return self.train.rows if self._sizes is None else len(self._sizes)

    def by_unit(self, loss: Floats) -> Floats:
        """One loss for each unit, the mean of its rows, as certificates count it."""
        return loss if self._sizes is None else np.bincount(self._codes, weights=loss) / self._sizes

    def _with_words(self, train: Table) -> Table:
        """The rows with what words say of each, by a fit that left it out; the fits go to `words`."""
        run = train.run
        if train.rows < MIN_ROWS:
            return train
        signals = {model: dict(run.signals.get(model, {})) for model in run.models}
        if run.prompts is not None:
            self.prompts = fit_prompts(run.prompts, train.quality, self._folds, run.group)
        for model, name in enumerate(run.models[:-1]):
            if self.prompts:
                self.words[model]["prompt_words"], signals[name]["prompt_words"] = self.prompts[model]
            if run.drafts is not None:
                columns = train.columns(model)
                beside = matrix(columns, terms_of(columns))
                fitted = fit_words(hashed(run.drafts[:, model]), train.quality[:, model], self._folds, beside)
                self.words[model]["draft_words"], signals[name]["draft_words"] = fitted
        return replace(train, run=replace(run, signals=signals))

    def columns(self, table: Table, model: int, earlier: int | None = None) -> Columns:
        """The signals of other rows, with what words say of them."""
        return {**table.columns(model, earlier), **word_columns(table.run, model, self.words[model])}

    def confidence_of(self, table: Table, model: int, earlier: int | None = None) -> Floats:
        """Confidence in a model's drafts of other rows; NaN where there is none."""
        fitted = self.confidence(model, earlier).calibrator
        return first_score((fitted,), self.columns(table, model, earlier), table.rows)

    def panel_of(self, table: Table, members: tuple[int, ...]) -> tuple[Floats, Rows]:
        """Confidence in what a panel's first members say of other rows, and whose draft leads, -1 for none."""
        columns, lead = self.panel_columns(table, members)
        return first_score((self.panel(members).calibrator,), columns, table.rows), lead

    def panel_columns(self, table: Table, members: tuple[int, ...]) -> tuple[dict[str, Floats], Rows]:
        """The signals of a panel's first members on other rows, and whose draft leads, -1 for none."""
        return table.panel(members, [self.confidence_of(table, one) for one in members if table.drafts(one)])

    def _fit(self, columns: Columns, outcome: Floats) -> Fit:
        return fit(columns, outcome, self._folds, own_signals=self.train.run.own_signals)

    def confidence(self, model: int, earlier: int | None = None) -> Fit:
        """Confidence in a model's draft, with or without an earlier draft to compare it with."""
        key = ("confidence", model, earlier)
        if key not in self._fits:
            columns = self.train.columns(model, earlier)
            self._fits[key] = self._fit(columns, self.train.quality[:, model])
        return self._fits[key]

    def last(self, model: int, last: int) -> Fit:
        """Chance that the plan's last rung is right, seen a model's draft."""
        key = ("last", model, last)
        if key not in self._fits:
            known = {"last_words": self.prompts[last].out_of_fold} if self.prompts else {}
            self._fits[key] = self._fit({**self.train.columns(model), **known}, self.train.quality[:, last])
        return self._fits[key]

    def prompt(self, model: int) -> Fit:
        """Confidence in a model before it is asked."""
        key = ("prompt", model, None)
        if key not in self._fits:
            own = self.train.run.signals.get(self.train.run.models[model], {})
            known = {name: own[name] for name in ("prompt_words",) if name in own}
            columns = {**self.train.run.prompt_signals, **known}
            self._fits[key] = fit(columns, self.train.quality[:, model], self._folds)
        return self._fits[key]

    def panel(self, members: tuple[int, ...], last: int | None = None) -> Fit:
        """Confidence in the answer of a panel's first members, or the chance that the plan's last rung is right."""
        key = ("panel", members, last)
        if key not in self._fits:
            columns, lead = self.panel_signals(members)
            quality = self.train.led_quality(lead) if last is None else self.train.quality[:, last]
            self._fits[key] = fit(columns, quality, self._folds)
        return self._fits[key]

    def leading(self, members: tuple[int, ...]) -> Rows:
        """Whose draft the answer of a panel's first members is taken from, -1 for none."""
        return self.panel_signals(members)[1]

    def panel_signals(self, members: tuple[int, ...]) -> tuple[dict[str, Floats], Rows]:
        """The signals of a panel's first members on the training rows, and whose draft leads, -1 for none."""
        if members not in self._panels:
            alone = [self.confidence(one).out_of_fold for one in members if self.train.drafts(one)]
            self._panels[members] = self.train.panel(members, alone)
        return self._panels[members]

    def scores(self, family: Family) -> Scores:
        """Out-of-fold scores of the training rows."""
        draft: list[Floats] = []
        leading: list[Rows | None] = []
        for at, model in enumerate(family.rungs[:-1]):
            members, last = family.members(at), family.rungs[-1]
            alone = len(members) == 1
            p = (
                self.confidence(model, family.rungs[at - 1] if at else None) if alone else self.panel(members)
            ).out_of_fold
            if family.by[at] == "gain":
                p = by_gain((self.last(model, last) if alone else self.panel(members, last)).out_of_fold, p)
            draft.append(p)
            opens = self.train.led(model) if family.opens_panel(at) else None
            leading.append(self.leading(members) if len(members) > 1 else opens)
        prompt = () if family.gate is None else (self.prompt(family.rungs[0]).out_of_fold,)
        return Scores(tuple(draft), prompt, tuple(leading))

    def fitted(self, families: Iterable[Family]) -> Fitted:
        """The calibrators of all models, so that any answer has a confidence, and all that these families need."""
        names, drafting = self.train.names, enumerate(self.train.run.models)
        models = {name: with_used(Heads((self.confidence(at).calibrator,)), self.words[at]) for at, name in drafting}
        panels: dict[tuple[str, ...], Heads] = {}
        for family in families:
            for at, model in enumerate(family.rungs[:-1]):
                members, last = family.members(at), family.rungs[-1] if family.by[at] == "gain" else None
                if len(members) > 1:
                    found = () if last is None else (self.panel(members, last).calibrator,)
                    panels[tuple(names[one] for one in members)] = Heads((self.panel(members).calibrator,), found)
                else:
                    models[names[model]] = self._heads(family, at)
        return Fitted(models, panels)

    def _heads(self, family: Family, at: int) -> Heads:
        """The calibrators that a family's plans need of one model alone."""
        model = family.rungs[at]
        alone = self.confidence(model).calibrator
        compared = (self.confidence(model, family.rungs[at - 1]).calibrator,) if at else ()
        last = (self.last(model, family.rungs[-1]).calibrator,) if family.by[at] == "gain" else ()
        prompt = (self.prompt(model).calibrator,) if at == 0 and family.gate is not None else ()
        words = self.words[model]
        if self.prompts:
            words = {**words, "last_words": self.prompts[family.rungs[-1]].words}
        return with_used(Heads((*compared, alone), last, prompt), words)
