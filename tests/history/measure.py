"""Times questions over generated history, of a query service and of DuckDB on the same Parquet files, in turn.

    python measure.py --url http://127.0.0.1:4040 --data-dir ./history [--rounds 20]

Prints a line per question: median and 95th percentile in milliseconds of both, and their ratio; and which questions got an
error in place of an answer, as one that takes longer than its deadline does. Needs `duckdb`.
"""

import argparse
import json
import statistics
import time
import urllib.error
import urllib.parse
import urllib.request

import duckdb

IDS = 20


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:4040")
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def get(url, path, **parameters):
    parameters.setdefault("deadline", "60s")
    with urllib.request.urlopen(f"{url}{path}?{urllib.parse.urlencode(parameters)}") as reply:
        return json.loads(reply.read())


def timed(ask):
    started = time.perf_counter()
    answer = ask()
    return (time.perf_counter() - started) * 1e3, answer


def rows_of(peer, sql):
    """DuckDB's rows, left in DuckDB: turning them into Python's values is no part of the question."""
    peer.sql(f"CREATE OR REPLACE TEMP TABLE answer AS {sql}")
    return [None] * peer.sql("SELECT count(*) FROM answer").fetchall()[0][0]


def quantiles(times):
    ordered = sorted(times)
    return statistics.median(ordered), ordered[max(0, round(0.95 * len(ordered)) - 1)]


def questions(url, peer, data_dir):
    """Name, how Lariat is asked, how DuckDB is."""
    spans = f"read_parquet('{data_dir}/node-*/parquet/spans/**/*.parquet')"
    cells = f"read_parquet('{data_dir}/node-*/parquet/rollups/**/*.parquet')"
    listed = []
    has = peer.sql(f"SELECT count(*) FROM glob('{data_dir}/node-*/parquet/spans/**/*.parquet')").fetchall()[0][0]
    if has:
        found = peer.sql(
            f"SELECT lower(hex(request_id)) FROM {spans} WHERE span_kind = 'server' USING SAMPLE {IDS} ROWS"
        ).fetchall()
        ids = [row[0] for row in found]
        for number, request_id in enumerate(ids):
            listed.append((
                "decision by id",
                lambda r=request_id: get(url, "/api/v1/sql", q=f"SELECT * FROM routing_decisions WHERE request_id = '{r}'")["rows"],
                lambda r=request_id: rows_of(
                    peer, f"SELECT * FROM {spans} WHERE request_id = unhex('{r}') AND span_kind = 'server'"
                ),
            ))
        by_provider = (
            "SELECT provider_id, count(*) AS n, avg(duration_ns) AS mean FROM {} WHERE span_kind = 'server'"
            " GROUP BY provider_id ORDER BY n DESC"
        )
        listed.append((
            "calls by provider over all rows",
            lambda: get(url, "/api/v1/sql", q=by_provider.format("spans"))["rows"],
            lambda: rows_of(peer, by_provider.format(spans)),
        ))
    calls = (
        "SELECT date_bin(INTERVAL '1 hour', time) AS step, region, sum(calls) AS calls,"
        " sum(CASE WHEN result = 'error' THEN calls ELSE 0 END) AS errors FROM {} WHERE family = 'ops' GROUP BY 1, 2"
    )
    duck_calls = calls.replace("date_bin(INTERVAL '1 hour', time)", "epoch_ns(time) // 3600000000000")
    listed.append((
        "calls by hour and region from cells",
        lambda: get(url, "/api/v1/sql", q=calls.format("rollups"))["rows"],
        lambda: rows_of(peer, duck_calls.format(cells)),
    ))
    for report, more in [("traffic", {"step": "1h"}), ("latency", {}), ("errors", {}), ("routing", {}), ("providers", {}), ("usage", {})]:
        for days in (1, 7):
            listed.append((
                f"report {report}, {days} d",
                lambda r=report, m=more, d=days: get(url, f"/api/v1/{r}", **{"from": f"-{d}d", "limit": 10000, **m})["rows"],
                None,
            ))
    return listed


def main():
    options = arguments()
    peer = duckdb.connect()
    peer.sql(f"SET threads = {options.threads}")
    peer.sql("SET TimeZone = 'UTC'")
    times, failed = {}, {}
    listed = questions(options.url, peer, options.data_dir)
    for _ in range(options.rounds):
        for name, ours, theirs in listed:
            try:
                took, rows = timed(ours)
            except urllib.error.HTTPError as error:
                failed.setdefault(name, []).append(error.code)
                continue
            times.setdefault(name, ([], [], len(rows)))[0].append(took)
            if theirs:
                took, other = timed(theirs)
                times[name][1].append(took)
                if len(rows) != len(other):
                    print(f"{name}: {len(rows)} rows here, {len(other)} there")
    print(f"{'question':40} {'rows':>6} {'p50':>9} {'p95':>9} {'DuckDB p50':>11} {'p95':>9} {'ratio':>6}")
    for name, (ours, theirs, rows) in times.items():
        p50, p95 = quantiles(ours)
        line = f"{name:40} {rows:6} {p50:9.1f} {p95:9.1f}"
        if theirs:
            other50, other95 = quantiles(theirs)
            line += f" {other50:11.1f} {other95:9.1f} {p50 / other50:6.2f}"
        print(line)
    for name, statuses in failed.items():
        print(f"{name}: no answer {len(statuses)} times, status {', '.join(map(str, sorted(set(statuses))))}")


if __name__ == "__main__":
    main()
