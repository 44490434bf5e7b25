"""From files to policies: the only door to pydantic, ruamel.yaml and jsonschema."""

from router.spec.artefact import Artefact, ModelCalibrators, Tuned, load_tuned, write_artefact, write_tuned
from router.spec.load import Loaded, adopt, load, load_policy
from router.spec.schema import json_validator, policy_schema
from router.spec.templates import TEMPLATES, template_text

__all__ = [
    "TEMPLATES",
    "Artefact",
    "Loaded",
    "ModelCalibrators",
    "Tuned",
    "adopt",
    "json_validator",
    "load",
    "load_policy",
    "load_tuned",
    "policy_schema",
    "template_text",
    "write_artefact",
    "write_tuned",
]
