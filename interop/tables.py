"""Tables of Delta Lake and Iceberg that other people's engines read (PyPI `deltalake`, `pyiceberg`, `duckdb`, pyarrow): types and
nulls, columns that come later, workers that are killed with -9 or hang while another one goes on, appends, merges of files and
the end of old versions by another engine in between, and `sluice compact`; in a folder, in an S3-compatible store (`moto`), and
for Iceberg in a real REST catalog (`--rest`: Apache Iceberg's own, from Maven Central). After each every row of the source is in
the table once, and a run more finds nothing to do.
"""
import argparse
import datetime
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import tempfile
import time

import duckdb
import pyarrow

import flights
import object_store
import rest_catalog
from table_formats import Delta, Iceberg

SLUICE = str(pathlib.Path(os.environ["SLUICE"]).resolve())
LATE = """
name: load
source:
  file: {path: flights.csv, format: csv, nulls: ["", NA], properties: [origin, dep_delay], keys: [tailnum]}
sink:
  topic: {name: flights}
---
name: late
source:
  topic: {name: flights, start: earliest, until: caught_up}
where: "origin IN ('EWR', 'JFK') AND dep_delay > 15"
decode:
  format: json
  schema:
    mode: relaxed
    fields: {year: int64, month: int64, day: int64, dep_time: int64, carrier: utf8, flight: int64, tailnum: utf8, origin: utf8, dest: utf8, arr_delay: int64, time_hour: utf8}
sink:
  SINK
errors: {then: dead_letter, dead_letter: late-dlq}
"""
NAMES = ["year", "month", "day", "dep_time", "carrier", "flight", "tailnum", "origin", "dest", "arr_delay", "time_hour"]


def run(folder: pathlib.Path, *more: str, file: str = "pipeline.yaml", code: int = 0, environment: dict | None = None) -> str:
    done = subprocess.run([SLUICE, "run", file, *more], cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return done.stdout + done.stderr


def start(folder: pathlib.Path, *more: str, environment: dict | None = None) -> subprocess.Popen:
    log = open(folder / "log", "ab")
    return subprocess.Popen([SLUICE, "run", "pipeline.yaml", *more], cwd=folder, stdout=log, stderr=log, env=environment)


def rerun(folder: pathlib.Path, *more: str, file: str = "pipeline.yaml", environment: dict | None = None) -> None:
    out = run(folder, *more, file=file, environment=environment)
    assert "0 new rows" in out, out


def types(folder: pathlib.Path, table) -> None:
    """Each type with a null, a column that comes later, in a struct too, and one that is too fine."""
    fields = "{id: int64, flag: bool, part: float64, text: utf8, at: timestamp, tags: \"list<utf8>\", deep: \"struct<a: int64, b: list<int64>>\"}"
    (folder / "pipeline.yaml").write_text(f"""
name: types
source:
  file: {{path: "in-*.ndjson", format: ndjson}}
decode: {{format: json, schema: {{mode: relaxed, fields: {fields}}}, on_new_field: add}}
sink:
  {table.sink("table")}
""")
    rows = [
        {"id": 1, "flag": True, "part": 1.5, "text": "one é", "at": "2013-01-01T05:06:07.123Z", "tags": ["x", None, "y"], "deep": {"a": 1, "b": [1, 2]}},
        {"id": 2, "flag": None, "part": None, "text": None, "at": None, "tags": None, "deep": None},
        {"id": 3, "flag": False, "part": -0.5, "text": "", "at": "1969-12-31T23:59:59Z", "tags": [], "deep": {"a": None, "b": []}},
    ]
    write = lambda name, rows: (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    write("in-1.ndjson", rows)
    run(folder)
    later = {"id": 4, "late": 7, "deep": {"a": 4, "c": "new"}}
    write("in-2.ndjson", [later])
    run(folder)
    rerun(folder)
    assert table.commits() >= 1
    arrow = table.rows()
    schema = arrow.schema
    at = pyarrow.timestamp("us", "UTC")
    expected_types = {"id": pyarrow.int64(), "flag": pyarrow.bool_(), "part": pyarrow.float64(), "at": at, "late": pyarrow.int64()}
    for name, expected in expected_types.items():
        assert schema.field(name).type == expected, (name, schema.field(name).type)
    read = duckdb.from_arrow(arrow).order("id").fetchall()
    found = [dict(zip(schema.names, row)) for row in read]
    when = lambda text: text and datetime.datetime.fromisoformat(text)
    for row in rows + [later]:
        got = found[row["id"] - 1]
        for name in ["id", "flag", "part", "text", "tags", "late"]:
            assert got[name] == row.get(name), (name, got, row)
        assert got["at"] == when(row.get("at")), (got, row)
        if row["deep"] is not None:
            for name in ["a", "b", "c"]:
                assert got["deep"][name] == row["deep"].get(name), (name, got, row)
        else:
            assert got["deep"] is None or all(value is None for value in got["deep"].values()), got
    # Statistics leave out no row that is there.
    for filter, expected in [("id >= 4", [4]), ("part > 1.0", [1]), ("text = ''", [3]), ("at >= '2013-01-01T05:06:07.123+00:00'", [1]), ("late is null", [1, 2, 3])]:
        assert table.filtered(filter) == expected, (filter, table.filtered(filter))
    print(f"{table.kind}: types, nulls and a column that came later are read as they were written")


def make_flights(folder: pathlib.Path, table) -> None:
    (folder / "flights.csv").write_bytes(flights.january())
    (folder / "pipeline.yaml").write_text(LATE.replace("SINK", table.sink("lake", ", partition: [$.origin], rotate: {rows: 200}")))


def verify(folder: pathlib.Path, table, extra: int = 0) -> int:
    """The filter's answer over the CSV, and nothing else but `extra` rows of another engine; gives the number of rows."""
    connection = duckdb.connect()
    null = lambda c: f"nullif(nullif({c}, 'NA'), '') AS {c}"
    csv = f"SELECT {', '.join(map(null, NAMES))} FROM read_csv('{folder}/flights.csv', all_varchar=true, header=true) WHERE origin IN ('EWR', 'JFK') AND try_cast(dep_delay AS DOUBLE) > 15"
    connection.register("lake", table.dataset())
    lake = f"SELECT {', '.join(f'CAST({c} AS VARCHAR) AS {c}' for c in NAMES)} FROM lake WHERE carrier IS DISTINCT FROM '??'"
    for a, b, what in [(csv, lake, "missing from"), (lake, csv, "extra in")]:
        differ = connection.execute(f"SELECT count(*) FROM ({a} EXCEPT ALL {b})").fetchone()[0]
        assert differ == 0, f"{differ} rows {what} the table"
    theirs = connection.execute("SELECT count(*) FROM lake WHERE carrier = '??'").fetchone()[0]
    assert theirs == extra, f"{theirs} rows of the other engine, expected {extra}"
    return connection.execute("SELECT count(*) FROM lake").fetchone()[0]


def is_open(folder: pathlib.Path) -> bool:
    chain = folder / "lake" / "_sluice" / "late" / "flights" / "0"
    names = os.listdir(chain) if chain.is_dir() else []
    ends = [sum(name.endswith(end) for name in names) for end in (".plan", ".done")]
    return ends[0] > ends[1]


def kills(folder: pathlib.Path, table, rounds: int, chance: random.Random) -> None:
    """kill -9 at moments spread over a run, while another engine appends, merges files and sweeps."""
    make_flights(folder, table)
    began = time.monotonic()
    run(folder)
    length = time.monotonic() - began
    rows = verify(folder, table)
    rerun(folder)
    killed = commits = theirs = 0
    for number in range(rounds):
        table.drop()
        for name in ["lake", "sluice-data"]:
            shutil.rmtree(folder / name)
        theirs_now = 0
        for attempt in range(4):
            process = start(folder)
            if attempt % 2 == 0:
                time.sleep(chance.random() * length)
            else:
                # Between a plan and its end: before its files, before its commit, or before its mark.
                while process.poll() is None and not is_open(folder):
                    pass
            process.send_signal(signal.SIGKILL)
            killed += process.wait() == -signal.SIGKILL
            if table.is_there():
                table.append(pyarrow.table({"origin": ["EWR"], "carrier": ["??"]}))
                theirs_now += 1
                if number % 2 == 1:
                    table.tidy()
        run(folder)
        if number % 2 == 0 and table.can_compact:
            merged = subprocess.run([SLUICE, "compact", "lake"], cwd=folder, capture_output=True, text=True)
            assert merged.returncode == 0 and merged.stdout.startswith("merged "), merged
        assert verify(folder, table, theirs_now) == rows + theirs_now
        rerun(folder)
        commits, theirs = commits + table.commits(), theirs + theirs_now
        audit = subprocess.run([SLUICE, "audit", "lake"], cwd=folder, capture_output=True, text=True)
        assert audit.returncode == 0 and "proven" in audit.stdout, (audit.stdout, audit.stderr)
    print(f"{table.shown()}: {rounds} rounds with {killed} kills, {commits} commits and {theirs} appends of another engine; each of {rows} late flights once")


def race(folder: pathlib.Path, table, target: str, store: str, environment: dict, chance: random.Random) -> None:
    """Two workers on one chain, one of which hangs in the middle until the other has ended."""
    # Many reads of the source, so many plans.
    rows = 240_000
    (folder / "in.csv").write_text("id,part,text\n" + "".join(f"{i},p{i % 3},{i:0150}\n" for i in range(rows)))
    (folder / "pipeline.yaml").write_text(f"""
name: race
source:
  file: {{path: in.csv, format: csv}}
decode: {{format: json, schema: {{mode: strict, fields: {{id: int64, part: utf8, text: utf8}}}}}}
sink:
  {table.sink(target, f", rotate: {{rows: 700}}{store}")}
""")
    checked = subprocess.run([SLUICE, "check", "pipeline.yaml"], cwd=folder, capture_output=True, text=True, env=environment)
    assert checked.returncode == 0 and "one commit: exactly_once" in checked.stdout, checked
    hangs = start(folder, "--data-dir", "data-0", environment=environment)
    while hangs.poll() is None and not table.is_there():
        time.sleep(0.01)
    time.sleep(chance.random() / 50)
    hangs.send_signal(signal.SIGSTOP)
    assert hangs.poll() is None, "the first worker ended before it could hang"
    run(folder, "--data-dir", "data-1", environment=environment)
    hangs.send_signal(signal.SIGCONT)
    assert hangs.wait(timeout=300) == 0, (folder / "log").read_text()
    rerun(folder, "--data-dir", "data-1", environment=environment)
    ids = sorted(table.rows()["id"].to_pylist())
    assert ids == list(range(rows)), f"{len(ids)} rows, {len(set(ids))} distinct"
    at = table.position("race/in.csv/0")
    assert at == rows, at
    print(f"{table.shown()}: a worker that hung while another one went on added nothing: each of {rows} rows once")


def in_store(folder: pathlib.Path, kind: type, chance: random.Random) -> None:
    with object_store.served() as port:
        endpoint = f"http://127.0.0.1:{port}"
        keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1", "AWS_ALLOW_HTTP": "true",
                "AWS_ENDPOINT_URL": endpoint}
        options = {
            Delta: keys | {"allow_http": "true", "conditional_put": "etag"},
            Iceberg: {"s3.endpoint": endpoint, "s3.access-key-id": "a", "s3.secret-access-key": "b", "s3.region": "us-east-1"},
        }[kind]
        table = kind("s3://bucket/lake", options)
        race(folder, table, "s3://bucket/lake", ", store: {allow_http: true, spool: spool}", os.environ | keys, chance)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=4)
    arguments.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    arguments.add_argument("--only", choices=["delta", "iceberg"], help="one format alone")
    arguments.add_argument("--rest", action="store_true", help="Iceberg's REST catalog as well; needs Java and Maven")
    arguments = arguments.parse_args()
    print(f"tables: seed {arguments.seed}")
    chance = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as scratch:
        def fresh(name: str) -> pathlib.Path:
            folder = pathlib.Path(scratch).resolve() / name
            folder.mkdir()
            return folder

        for kind in [Delta, Iceberg]:
            if arguments.only not in (None, kind.kind):
                continue
            place = lambda name, below, kind=kind: (folder := fresh(f"{kind.kind}-{name}"), kind(str(folder / below)))
            types(*place("types", "table"))
            kills(*place("kills", "lake"), arguments.rounds, chance)
            race(*place("race", "lake"), "lake", "", dict(os.environ), chance)
            in_store(fresh(f"{kind.kind}-store"), kind, chance)
        if arguments.rest and arguments.only != "delta":
            folder = fresh("rest")
            with rest_catalog.served(folder / "catalog") as uri:
                of = lambda name, below: (there := fresh(f"rest-{name}"), Iceberg(str(there / below), uri=uri, name=name))
                types(*of("types", "table"))
                kills(*of("kills", "lake"), arguments.rounds, chance)
                race(*of("race", "lake"), "lake", "", dict(os.environ), chance)


if __name__ == "__main__":
    main()
