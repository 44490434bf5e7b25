"""The demo: a cascade of two classifiers that are trained on this machine in seconds, on tickets written for it."""

from router.demo.run import Demo, Line, Shown, api_model, prepare, run, tickets

__all__ = ["Demo", "Line", "Shown", "api_model", "prepare", "run", "tickets"]
