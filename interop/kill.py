"""kill -9 of `sluice run` at moments spread over its length, then one run to the end: every flight stands in
the store once, in order, and the files hold the filter's answer over the CSV, none doubled.

Rotation at 5,000 rows (200 in January), partitions (so several files a plan), and dead letters on both pipelines: short rows in
the CSV, and rows whose `arr_delay` does not fit the declared schema. DuckDB is the judge.
"""
import argparse
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import duckdb
import pyarrow.parquet

import flights

SLUICE = str(pathlib.Path(os.environ["SLUICE"]).resolve())
CONFIG = """
name: load
source:
  file: {path: flights.csv, format: csv, nulls: ["", NA], properties: [origin, dep_delay], keys: [tailnum], tag: carrier}
sink:
  topic: {name: flights}
errors: {then: dead_letter, dead_letter: load-dlq}
---
name: late
source:
  topic: {name: flights, group: lake, start: earliest, until: caught_up}
where: "origin IN ('EWR', 'JFK') AND dep_delay > 15"
decode:
  format: json
  schema:
    mode: declared
    fields: {year: int64, month: int64, day: int64, dep_time: int64, sched_dep_time: int64, dep_delay: int64, arr_time: int64, sched_arr_time: int64, arr_delay: int64, carrier: utf8, flight: int64, tailnum: utf8, origin: utf8, dest: utf8, air_time: int64, distance: int64, hour: int64, minute: int64, time_hour: utf8}
sink:
  parquet: {path: lake, partition: [$.origin], rotate: {rows: ROTATE}}
errors: {then: dead_letter, dead_letter: late-dlq}
"""


def make_input(path: pathlib.Path, data: bytes) -> tuple[int, int]:
    """Writes the CSV with bad rows among the good ones; returns (good rows, short rows)."""
    lines = data.decode().splitlines()
    short, out = 0, [lines[0]]
    for number, line in enumerate(lines[1:]):
        fields = line.split(",")
        if number % 997 == 500:
            out.append("2013,1,1,short")
            short += 1
        if number % 501 == 250 and fields[12] != "LGA":
            fields[5], fields[8] = "99", "not a number"
        out.append(",".join(fields))
    path.write_text("\n".join(out) + "\n")
    return len(lines) - 1, short


def start(folder: pathlib.Path) -> subprocess.Popen:
    log = open(folder / "log", "ab")
    return subprocess.Popen([SLUICE, "run", "pipeline.yaml"], cwd=folder, stdout=log, stderr=log)


def window(folder: pathlib.Path) -> str:
    """Where a kill fell: before a plan, between plan and publish, or between publish and done."""
    where = "elsewhere"
    chain = folder / "lake" / "_sluice" / "late" / "flights" / "0"
    names = set(os.listdir(chain)) if chain.is_dir() else set()
    for plan in (name for name in names if name.endswith(".plan")):
        if plan.replace(".plan", ".done") in names:
            continue
        files = json.loads((chain / plan).read_text())["files"]
        if files:
            here = [(folder / "lake" / file["name"]).exists() for file in files]
            where = "publish-done" if all(here) else "plan-publish"
    return where


def verify(folder: pathlib.Path, good: int, short: int) -> None:
    """All flights once and in order in the topic, the filter's answer in the files, the rest in dead letters."""
    connection = duckdb.connect()
    tail = folder / "tail.json"
    with open(tail, "wb") as out:
        subprocess.run([SLUICE, "topic", "tail", "flights"], cwd=folder, stdout=out, check=True)
    csv = f"(SELECT * FROM read_csv('{folder}/flights.csv', all_varchar=true, header=true, ignore_errors=true, null_padding=false) WHERE time_hour IS NOT NULL)"
    stored = connection.execute(
        f"SELECT count(*), count(DISTINCT queue_offset), min(queue_offset), max(queue_offset) FROM read_ndjson('{tail}', columns={{queue_offset: 'BIGINT'}})").fetchone()
    assert stored == (good, good, 0, good - 1), f"stored {stored}, expected {good} rows"
    key = "year, month, day, dep_time, sched_dep_time, carrier, flight, tailnum, origin, dest, arr_delay"
    null = lambda c: f"nullif(nullif({c}, 'NA'), '') AS {c}"
    names = [c.strip() for c in key.split(",")]
    from_csv = f"SELECT {', '.join(map(null, names))} FROM {csv}"
    from_topic = f"SELECT {', '.join(f'body->>{c!r} AS {c}' for c in names)} FROM read_ndjson('{tail}', columns={{body: 'JSON'}})"
    for a, b in [(from_csv, from_topic), (from_topic, from_csv)]:
        differ = connection.execute(f"SELECT count(*) FROM ({a} EXCEPT ALL {b})").fetchone()[0]
        assert differ == 0, f"{differ} rows differ between the CSV and the topic"
    late = f"origin IN ('EWR', 'JFK') AND try_cast(dep_delay AS DOUBLE) > 15"
    expected = f"SELECT {', '.join(map(null, names))} FROM {csv} WHERE {late} AND arr_delay <> 'not a number'"
    dead = connection.execute(f"SELECT count(*) FROM {csv} WHERE {late} AND arr_delay = 'not a number'").fetchone()[0]
    lake = f"SELECT {', '.join(f'CAST({c} AS VARCHAR) AS {c}' for c in names)} FROM read_parquet('{folder}/lake/**/*.parquet', hive_partitioning=true, hive_types={{'origin': VARCHAR}})"
    for a, b, what in [(expected, lake, "missing from"), (lake, expected, "extra in")]:
        differ = connection.execute(f"SELECT count(*) FROM ({a} EXCEPT ALL {b})").fetchone()[0]
        assert differ == 0, f"{differ} rows {what} the files"
    for topic, count in [("load-dlq", short), ("late-dlq", dead)]:
        listed = subprocess.run([SLUICE, "topic", "tail", topic], cwd=folder, check=True, capture_output=True, text=True).stdout
        offsets = [json.loads(line)["properties"]["dead_offset"] for line in listed.splitlines()]
        assert len(offsets) == count == len(set(offsets)) > 0, f"{topic}: {len(offsets)} letters, {len(set(offsets))} distinct, expected {count}"
    for plan in (folder / "lake" / "_sluice" / "late").glob("flights/0/*.plan"):
        assert plan.with_suffix(".done").exists(), f"{plan} is not done"
        files = json.loads(plan.read_text())["files"]
        for file in files:
            assert pyarrow.parquet.read_metadata(folder / "lake" / file["name"]).num_rows == file["rows"]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=6)
    arguments.add_argument("--full", action="store_true", help="all 336,776 flights instead of January's 27,004")
    arguments.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    arguments = arguments.parse_args()
    print(f"kill: seed {arguments.seed}")
    chance = random.Random(arguments.seed)
    data = flights.full(sys.executable).read_bytes() if arguments.full else flights.january()
    seen = {"elsewhere": 0, "plan-publish": 0, "publish-done": 0}
    ended_before = 0
    with tempfile.TemporaryDirectory() as scratch:
        template = pathlib.Path(scratch) / "template"
        template.mkdir()
        (template / "pipeline.yaml").write_text(CONFIG.replace("ROTATE", "5000" if arguments.full else "200"))
        good, short = make_input(template / "flights.csv", data)

        def fresh(name: str) -> pathlib.Path:
            folder = pathlib.Path(scratch) / name
            folder.mkdir()
            for file in ["pipeline.yaml", "flights.csv"]:
                os.link(template / file, folder / file)
            return folder

        lengths = []
        for i in range(3):
            folder = fresh(f"measure-{i}")
            began = time.monotonic()
            assert start(folder).wait() == 0, (folder / "log").read_text()
            lengths.append(time.monotonic() - began)
            verify(folder, good, short)
            shutil.rmtree(folder)
        length = sorted(lengths)[1]
        print(f"kill: a run takes {length:.2f} s ({good:,} flights, {short} short rows)")

        def kill_once(folder: pathlib.Path, delay: float, aim: str | None = None) -> None:
            nonlocal ended_before
            process = start(folder)
            if aim is None:
                time.sleep(delay)
            else:
                while process.poll() is None and window(folder) != aim:
                    pass
            process.send_signal(signal.SIGKILL)
            if process.wait() != -signal.SIGKILL:
                ended_before += 1
            seen[window(folder)] += 1

        # Each round: a kill at its share of the run's length, at times one more in the recovery, then to the end.
        # The windows are short: rounds that watch for one come after, until each was hit.
        rounds = aimed = 0
        while rounds < arguments.rounds or 0 in (seen["plan-publish"], seen["publish-done"]):
            assert rounds < 20 * arguments.rounds, f"no kill fell into a window: {seen}"
            folder = fresh(f"round-{rounds}")
            share = (rounds % arguments.rounds + chance.random()) / arguments.rounds
            aim = None
            if rounds >= arguments.rounds:
                aim = "publish-done" if seen["publish-done"] == 0 else "plan-publish"
                aimed += 1
            kill_once(folder, share * length, aim)
            if chance.random() < 0.3:
                kill_once(folder, chance.random() * length / 2)
            assert start(folder).wait() == 0, (folder / "log").read_text()
            verify(folder, good, short)
            shutil.rmtree(folder)
            rounds += 1
            if sys.stdout.isatty() or rounds % 10 == 0:
                print(f"kill: round {rounds}: {seen}", flush=True)
    print(f"kill: {rounds} rounds, {aimed} of them aimed: {seen['plan-publish']} kills between plan and publish, {seen['publish-done']} between publish and done, "
          f"{seen['elsewhere']} elsewhere, {ended_before} after the end; every flight once in the store and in the files")


if __name__ == "__main__":
    main()
