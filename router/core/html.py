"""An answer as a piece of a web page, for notebooks: no script, colours that fit light and dark, all text escaped."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING

from router.core.pricing import usd

if TYPE_CHECKING:
    from router.core.answer import Answer, Step

# Lines and muted text take the page's own colour, so that whatever theme it has fits.
_LINE = "1px solid color-mix(in srgb, currentColor 25%, transparent)"
_MUTED = "opacity:.72"
_BOX = (
    f"color-scheme:light dark;border:{_LINE};border-radius:8px;padding:12px 14px;max-width:62em;"
    "font:14px/1.5 system-ui,sans-serif;box-sizing:border-box;text-align:left"
)
_TEXT = "white-space:pre-wrap;overflow-wrap:anywhere;font-size:15px;max-height:24em;overflow:auto"
_TAGS = "display:flex;flex-wrap:wrap;gap:4px 22px;margin:10px 0 0"
_CELL = f"padding:4px 18px 4px 0;text-align:left;vertical-align:top;border-top:{_LINE};background:none"
_NUMBER = f"{_CELL};text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums"
_MAX_TEXT_CHARS = 20_000


def answer_html(answer: Answer) -> str:
    """The answer: its text, who gave it and how sure, what it cost and saved, and every step with its reason."""
    facts = [
        ("model", f"{answer.model}, rung {answer.rung}"),
        ("confidence", f"{answer.confidence:.3f} ({answer.confidence_source})"),
        ("cost", _dollars(answer.cost_nusd)),
        ("climbing added", _dollars(answer.marginal_cost_nusd)),
        ("saved", _saved(answer)),
        ("took", f"{answer.latency_ms:,.0f} ms"),
    ]
    told = "".join(
        f'<div><div style="{_MUTED};font-size:12px">{escape(name)}</div><div>{escape(value)}</div></div>'
        for name, value in facts
    )
    return (
        f'<div style="{_BOX}">{_said(answer)}<div style="{_TAGS}">{told}</div>{_steps(answer.steps)}'
        f'<div style="{_MUTED};font-size:12px;margin-top:8px;overflow-wrap:anywhere">'
        f"task {escape(answer.task)}, call {escape(answer.route_id)}</div></div>"
    )


def _said(answer: Answer) -> str:
    text = answer.text if len(answer.text) <= _MAX_TEXT_CHARS else answer.text[:_MAX_TEXT_CHARS] + "…"
    parts = [f'<div style="{_TEXT}">{escape(text)}</div>'] if text or not answer.tool_calls else []
    parts += [
        f'<div style="{_TEXT};font-family:ui-monospace,monospace;font-size:13px">'
        f"{escape(call.name)}({escape(call.arguments)})</div>"
        for call in answer.tool_calls
    ]
    return "".join(parts)


def _steps(steps: Iterable[Step]) -> str:
    """A table; each reason has a line of its own, so that a phone shows it whole."""
    head = "".join(
        f'<th scope="col" style="{style};border-top:0;font-weight:600">{name}</th>'
        for name, style in (("rung", _CELL), ("what", _CELL), ("confidence", _NUMBER), ("cost", _NUMBER))
    )
    rows = "".join(_row(step) for step in steps)
    return (
        '<div style="overflow-x:auto;margin-top:10px"><table style="border-collapse:collapse;font-size:13px;margin:0;'
        f'border:0;color:inherit"><thead><tr style="background:none">{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _row(step: Step) -> str:
    confidence = "" if step.confidence is None else f"{step.confidence:.3f}"
    cost = _dollars(step.cost_nusd) if step.attempts or step.cost_nusd is None else ""
    cells = ((step.model, _CELL), (step.action, _CELL), (confidence, _NUMBER), (cost, _NUMBER))
    told = "".join(f'<td style="{style}">{escape(value)}</td>' for value, style in cells)
    reason = f'<td colspan="4" style="{_CELL};border-top:0;padding-top:0;{_MUTED}">{escape(step.reason)}</td>'
    return f'<tr style="background:none">{told}</tr><tr style="background:none">{reason}</tr>'


def _saved(answer: Answer) -> str:
    """Baseline minus cost, with its sign: a call that climbed costs more than the top rung alone."""
    if answer.cost_nusd is None or answer.baseline_cost_nusd is None:
        return "unknown"
    saved = answer.baseline_cost_nusd - answer.cost_nusd
    share = f", {saved / answer.baseline_cost_nusd:+.0%}".replace("-", "−") if answer.baseline_cost_nusd else ""
    return f"{_dollars(saved, signed=True)}{share} ({answer.baseline_source})"


def _dollars(nusd: int | None, *, signed: bool = False) -> str:
    """An amount with as many digits as it needs: most calls cost fractions of a cent."""
    amount = usd(nusd)
    if amount is None:
        return "unknown"
    sign = "−" if amount < 0 else "+" if signed and amount > 0 else ""
    digits = f"{abs(amount):,.2f}" if abs(amount) >= 1 or not amount else f"{abs(amount):.9f}".rstrip("0")
    return f"{sign}${digits}"
