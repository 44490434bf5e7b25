"""How the page looks: one style sheet, with every colour in a light and in a dark form."""

from __future__ import annotations

# By name, the colour on light and on dark ground. Text has a contrast of at least 4.5 to 1, drawings of 3 to 1.
COLOURS: dict[str, tuple[str, str]] = {
    "ground": ("#ffffff", "#10151b"),
    "card": ("#f5f7f9", "#1a212a"),
    "ink": ("#1b2128", "#e7edf3"),
    "muted": ("#545e69", "#a3aeba"),
    "grid": ("#dde2e7", "#2d3742"),
    "ours": ("#0a5bd3", "#6fb1ff"),
    "alone": ("#5b6570", "#aab4bf"),
    "oracle": ("#1a7a3c", "#5fd07f"),
    "old": ("#a33a00", "#ffa066"),
    "chance": ("#6b7480", "#98a3ae"),
    "limit": ("#b3261e", "#ff8d85"),
    "small": ("#0a5bd3", "#6fb1ff"),
    "lost": ("#a33a00", "#ffa066"),
    "top": ("#6a44b8", "#bda0ff"),
    "checks": ("#1a7a3c", "#5fd07f"),
}

_SHEET = """
:root{color-scheme:light dark;LIGHT}
@media (prefers-color-scheme:dark){:root{DARK}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);font:16px/1.5 system-ui,sans-serif;overflow-wrap:break-word}
bdi.long{overflow-wrap:anywhere}
main{max-width:68rem;margin:0 auto;padding:1.25rem 1rem 3rem}
h1{font-size:1.6rem;line-height:1.25;margin:.2rem 0 .4rem}
h2{font-size:1.2rem;margin:2.4rem 0 .4rem}
h3{font-size:1rem;margin:1.2rem 0 .3rem}
p,ul{margin:.4rem 0;max-width:46rem}
ul{padding-left:1.2rem}
.note,caption,summary,.key,dt{color:var(--muted);font-size:.875rem}
.card{background:var(--card);border-radius:.6rem;padding:.9rem 1.1rem;margin:.8rem 0;
border-left:.3rem solid var(--ours)}
.card.refused{border-color:var(--limit)}
.card p:first-child{font-size:1.1rem;margin-top:0}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.6rem;margin:.8rem 0}
.tiles div{background:var(--card);border-radius:.6rem;padding:.6rem .8rem}
.tiles dd{margin:0;font-size:1.35rem;font-weight:600;font-variant-numeric:tabular-nums}
.tiles dd+dd{font-size:.875rem;font-weight:400;color:var(--muted)}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,21rem),1fr));gap:0 2rem;align-items:start}
figure{margin:.6rem 0;min-width:0}
figure>svg{display:block;width:100%;max-width:32rem;height:auto}
.scroll{overflow-x:auto;margin:.5rem 0}
.scroll:focus-visible,summary:focus-visible{outline:2px solid var(--ours);outline-offset:2px}
table{border-collapse:collapse;width:100%;font-size:.875rem}
caption{text-align:left;padding:0 0 .3rem}
th,td{text-align:left;vertical-align:top;padding:.3rem .7rem .3rem 0;
border-bottom:1px solid var(--grid);min-width:3.2rem}
thead th{color:var(--muted);font-weight:500}
tbody th{font-weight:500}
td{font-variant-numeric:tabular-nums}
td.number,.figure{white-space:nowrap}
.figure small{display:block;color:var(--muted)}
main>.scroll{max-width:46rem}
details{margin:.5rem 0}
summary{cursor:pointer;padding:.2rem 0}
pre{white-space:pre-wrap;font-size:.8rem;background:var(--card);padding:.8rem;border-radius:.5rem;
max-height:30rem;overflow:auto}
.key{list-style:none;padding:0;display:grid;gap:.1rem .8rem;
grid-template-columns:repeat(auto-fit,minmax(min(100%,15rem),1fr))}
.key li{display:flex;gap:.5rem;align-items:flex-start}
.swatch{width:18px;height:16px;flex:none;margin-top:.15rem}
ol.calls{padding:0;list-style:none;max-width:46rem}
ol.calls li{border-bottom:1px solid var(--grid);padding:.5rem 0}
ol.calls q{quotes:none;display:block}
svg text{font:11px system-ui,sans-serif;fill:var(--muted)}
svg text.label{font-size:12px;font-weight:600;fill:var(--ink)}
svg .middle{text-anchor:middle}
svg .end{text-anchor:end}
.grid{stroke:var(--grid);stroke-width:1}
.line{fill:none;stroke-width:2;stroke-linejoin:round}
.line.chance,.line.oracle{stroke-width:1.5;stroke-dasharray:5 4}
.line.limit{stroke-width:1.5;stroke-dasharray:2 3}
.whisker{fill:none;stroke-width:1.5}
.marker{stroke:var(--ground);stroke-width:1.2}
.marker.old{fill:none;stroke-width:2.5}
.bar{stroke:var(--ground);stroke-width:1}
@media print{:root{LIGHT}.scroll{overflow:visible}}
"""


def sheet() -> str:
    """The style sheet."""
    names = [name for name in COLOURS if name not in ("ground", "card", "ink", "muted", "grid")]
    drawn = "".join(
        f".line.{name},.whisker.{name},.marker.old.{name}{{stroke:var(--{name})}}"
        f".marker.{name}:not(.old),.bar.{name}{{fill:var(--{name})}}"
        for name in names
    )
    return _SHEET.replace("LIGHT", _set(0)).replace("DARK", _set(1)) + drawn


def _set(side: int) -> str:
    return "".join(f"--{name}:{colours[side]};" for name, colours in COLOURS.items())
