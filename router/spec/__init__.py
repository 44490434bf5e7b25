"""From files to policies: the only door to pydantic, ruamel.yaml and jsonschema."""

from router.spec.artefact import (
    Artefact,
    ModelCalibrators,
    PanelCalibrators,
    Tuned,
    exclusive,
    load_tuned,
    write_artefact,
    write_tuned,
)
from router.spec.callers import shape_of, tools_of
from router.spec.kept import keep, kept, restore
from router.spec.load import Loaded, adopt, load, load_policy, loaded_of
from router.spec.schema import json_validator, policy_schema
from router.spec.templates import TEMPLATES, template_text

__all__ = [
    "TEMPLATES",
    "Artefact",
    "Loaded",
    "ModelCalibrators",
    "PanelCalibrators",
    "Tuned",
    "adopt",
    "exclusive",
    "json_validator",
    "keep",
    "kept",
    "load",
    "load_policy",
    "load_tuned",
    "loaded_of",
    "policy_schema",
    "restore",
    "shape_of",
    "template_text",
    "tools_of",
    "write_artefact",
    "write_tuned",
]
