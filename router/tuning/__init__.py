"""Offline work on a user's own data: eval runs, fitting (the only door to scikit-learn), plans and certificates."""

from router.tuning.backtest import Backtest, backtest
from router.tuning.candidate import Candidate
from router.tuning.compare import Change, Choice, change, compare
from router.tuning.distill import Distilled, distill
from router.tuning.evaluate import Eval
from router.tuning.graders import GRADERS, Grader, build_grader
from router.tuning.jobs import Estimate, Evaluated, Progress
from router.tuning.labels import LabelledText, read_labels
from router.tuning.loading import load_columns, load_run
from router.tuning.result import Applied, Tuning
from router.tuning.rows import EvalRow, read_rows
from router.tuning.runs import EvalRun
from router.tuning.shown import Shown
from router.tuning.simulate import Realised, simulate
from router.tuning.task import TaskTuning, run_path, tune_task
from router.tuning.tune import Tuner, tune
from router.tuning.verify import Verified, check_tuned

__all__ = [
    "GRADERS",
    "Applied",
    "Backtest",
    "Candidate",
    "Change",
    "Choice",
    "Distilled",
    "Estimate",
    "Eval",
    "EvalRow",
    "EvalRun",
    "Evaluated",
    "Grader",
    "LabelledText",
    "Progress",
    "Realised",
    "Shown",
    "TaskTuning",
    "Tuner",
    "Tuning",
    "Verified",
    "backtest",
    "build_grader",
    "change",
    "check_tuned",
    "compare",
    "distill",
    "load_columns",
    "load_run",
    "read_labels",
    "read_rows",
    "run_path",
    "simulate",
    "tune",
    "tune_task",
]
