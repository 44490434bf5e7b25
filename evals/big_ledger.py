"""A large ledger, made up, to measure audits on: ten calls in fourteen requests, 90 days, 5,700 users, 50 tenants.

    python -m evals.big_ledger --attempts 10000000 --home DIR            makes it
    python -m evals.big_ledger --home DIR --measure                      measures audits on it

The rows go straight into the tables of the read model and are rolled up by the code of the fold. Of ten calls six are
accepted at once, one is retried after a timeout, one climbs past an invalid draft and two past an unsure one.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

from router.ledger import families
from router.ledger.database import connect
from router.ledger.rollups import roll_all

START_S = 1_767_225_600  # 2026-01-01, UTC.
DAYS = 90
_HASH = "((i * 2654435761 + 12345) % 4294967296)"
# What one call is, from its number `i`: the same numbers give the same ledger.
_CALLS = f"""
CREATE TEMP VIEW calls AS SELECT *,
    printf('%012x%020x', CAST(time_s * 1000 AS INTEGER), i) AS route_id,
    'tenant-' || (who % 50) AS tenant, printf('%016x', who * 7919) AS user,
    CASE i % 7 WHEN 6 THEN NULL ELSE 'feature-' || (i % 7) END AS feature,
    'task-' || (i % 7 % 4) AS task, printf('%016x', i / 5) AS session,
    80000 + h % 50000 AS small_nusd, 2000000 + h % 900000 AS large_nusd
FROM (SELECT i, h, {START_S} + i * {DAYS * 86400.0} / :calls AS time_s, (h / 1000 % 142) * (h / 7 % 142) AS who,
    i % 10 AS kind FROM (SELECT i, {_HASH} AS h FROM numbers))
"""
_ROUTES = """
INSERT INTO routes (route_id, time_s, origin, task, feature, user, tenant, session, policy_hash, plan_hash, prompt_fp,
    outcome, model, rung, escalated, confidence, confidence_source, cost_nusd, upper_nusd, marginal_nusd,
    baseline_nusd, baseline_source, baseline_estimate_nusd, latency_ms, reason, propensity, metadata)
SELECT route_id, time_s, 'production', task, feature, user, tenant, session, 'policy-' || (i * 3 / :calls), 'plan-1',
    printf('%016x', h), 'answered', iif(kind > 6, 'large', 'small'), kind > 6, kind > 6, 0.93, 'prior',
    small_nusd + iif(kind > 6, large_nusd, 0), small_nusd + iif(kind > 6, large_nusd, 0), iif(kind > 6, large_nusd, 0),
    large_nusd, iif(kind > 6, 'known', 'estimated'), iif(kind > 6, large_nusd * (80 + h % 37) / 100, NULL),
    400 + h % 900, 'confidence 0.93 is at least 0.80', 1.0, 'null' FROM calls ORDER BY i
"""
_ATTEMPTS = """
INSERT INTO attempts (attempt_id, route_id, segment, time_s, origin, task, feature, user, tenant, session, policy_hash,
    plan_hash, prompt_fp, prefix_fps, rung, number, model, model_asked, model_served, state, fault, status, line,
    cost_nusd, upper_nusd, cost_source, usage_source, input_tokens, output_tokens, cached_read_tokens,
    cache_write_tokens, cache_write_1h_tokens, reasoning_tokens, input_audio_tokens, output_audio_tokens,
    output_image_tokens, latency_ms)
SELECT route_id || '-' || n, route_id, '0198-1.seg', time_s + n - 1, 'production', task, feature, user, tenant, session,
    'policy-' || (i * 3 / :calls), 'plan-1', printf('%016x', h), '["' || printf('%016x', h) || '"]', rung, number,
    iif(rung, 'large', 'small'), iif(rung, 'openai/large', 'openai/small'), iif(rung, 'large', 'small'),
    iif(timed_out, 'maybe_billed', 'settled'), iif(timed_out, 'timeout', NULL), NULL, line,
    iif(timed_out, 0, iif(rung, large_nusd, small_nusd)), iif(rung, large_nusd, small_nusd), 'price', 'provider',
    iif(timed_out, 0, 400 + h % 300), iif(timed_out, 0, 80 + h % 40), 0, 0, 0, 0, 0, 0, 0, 350 + h % 800
FROM (SELECT *, n = 2 AND kind > 6 AS rung, iif(kind = 6, n, 1) AS number, n = 1 AND kind = 6 AS timed_out,
    iif(kind = 6, iif(n = 1, 'maybe_billed', 'retry'),
        iif(n = 2, 'escalation', iif(kind = 7, 'invalid', 'first'))) AS line
    FROM calls JOIN (SELECT 1 AS n UNION ALL SELECT 2) ON n = 1 OR kind > 6 OR kind = 6) ORDER BY i, n
"""
_STEPS = """
INSERT INTO steps (route_id, position, rung, model, action, reason, confidence, confidence_source, threshold, cost_nusd,
    attempts, signals)
SELECT route_id, n, n, iif(n, 'large', 'small'), iif(n OR kind < 7, 'accept', 'escalate'),
    iif(n, 'last rung', 'confidence against the threshold'), 0.9, 'prior', iif(n, NULL, 0.8),
    iif(n, large_nusd, small_nusd), iif(kind = 6, 2, 1),
    '{"output_chars": 40.0, "lp_mean": -0.2, "invalid": ' || iif(kind = 7 AND n = 0, '1.0', '0.0') || '}'
FROM calls JOIN (SELECT 0 AS n UNION ALL SELECT 1) ON n = 0 OR kind > 6 ORDER BY i, n
"""

AUDITS: tuple[tuple[str, ...], ...] = (
    ("audit",),
    ("audit", "--by", "feature,model"),
    ("audit", "--by", "day"),
    ("audit", "--by", "day", "--tz", "Europe/Berlin"),
    ("audit", "--by", "user", "--since", "2026-03-01", "--until", "2026-03-31"),
    ("audit", "--by", "user"),
    ("audit", "--by", "feature", "--movers", "--since", "2026-03-01", "--until", "2026-03-31"),
    ("audit", "--by", "session"),
    ("audit", "--by", "fault"),
    ("audit", "--by", "policy"),
)


def make(home: Path, attempts: int) -> None:
    """Write the read model."""
    home.mkdir(parents=True)
    calls = attempts * 10 // 14
    started_s = time.monotonic()
    with connect(home) as database:
        database.execute("PRAGMA synchronous = OFF")
        database.execute("PRAGMA cache_size = -400000")
        database.execute("CREATE TEMP TABLE numbers (i INTEGER PRIMARY KEY)")
        database.execute(
            "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?) "
            "INSERT INTO numbers SELECT i FROM n",
            [calls],
        )
        database.execute(_CALLS.replace(":calls", str(calls)))
        for statement in (_ROUTES, _ATTEMPTS, _STEPS):
            database.execute(statement.replace(":calls", str(calls)))
            print(f"{time.monotonic() - started_s:6.0f} s  {statement.split()[2]}", flush=True)
        for family in families.FAMILIES.values():
            roll_all(database, family)
            print(f"{time.monotonic() - started_s:6.0f} s  rollups of {family.name}", flush=True)
        counts = {
            table: database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("attempts", "routes", "steps", "hourly_routes", "daily_routes")
        }
    print(", ".join(f"{count:,} {table}" for table, count in counts.items()))


def measure(home: Path) -> None:
    """Each audit in a process of its own: seconds without starting Python, processor time with it, largest memory."""
    for arguments in AUDITS:
        script = (
            "import resource, sys, time; from router.cli.app import app; "
            "sys.argv = ['router', *sys.argv[1:]]; started = time.monotonic(); "
            "app(standalone_mode=False); "
            "used = resource.getrusage(resource.RUSAGE_SELF); "
            "print(time.monotonic() - started, time.process_time(), used.ru_maxrss, file=sys.stderr)"
        )
        command = [sys.executable, "-c", script, *arguments, "--home", str(home)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        seconds, cpu, kilobytes = map(float, done.stderr.split()[-3:])
        line = f"{seconds:7.2f} s, {cpu:6.2f} s of CPU, {kilobytes / 1000:4.0f} MB  router {' '.join(arguments)}"
        print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attempts", type=int, default=10_000_000)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--measure", action="store_true")
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.home)
    else:
        make(arguments.home, arguments.attempts)
        print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000:,.0f} MB at most")


if __name__ == "__main__":
    main()
