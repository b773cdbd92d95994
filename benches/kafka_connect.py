"""The same job by Sluice and by Kafka Connect: JSON messages of a topic (all flights, several times over) into Parquet.

  benches/kafka_connect.py [--rounds 3] [--times 6]

Sluice: `sluice run`, to Parquet, exactly once; from a topic of the embedded broker, and from the very topic of Kafka. Kafka Connect: Apache Kafka with one node,
a standalone worker with `iceberg-kafka-connect` and its file ("hadoop") catalog, which also ends in Parquet with zstd,
two tasks for two partitions. Topics are filled before. Counted are the rows a second of the whole process, from its start
until all rows are committed; for Kafka Connect also without the time that its worker takes to start. It is asked to commit every
second (`--commit`), and its worker to look up as often (a task without new records waits for `offset.flush.interval.ms`, a
minute if not said), so that little is lost in waiting for the last commit. Memory is the peak of the process, of Kafka
Connect that of the worker alone, with the 2 GiB of heap that its own scripts give it. Needs a JDK 17,
Maven and SLUICE, or cargo.
"""
import argparse
import csv
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "interop"))
import flights
from processes import free_ports
from rocketmq import binary

WAIT_MAX = 600


def write_json(path: pathlib.Path, times: int) -> int:
    """Rows as lines of JSON: numbers as numbers, NA as null."""
    def value(text: str):
        if text in ("", "NA"):
            return None
        return int(text) if text.lstrip("-").isdigit() else text

    with flights.full(sys.executable).open(newline="") as file:
        lines = [json.dumps({name: value(text) for name, text in row.items()}) + "\n" for row in csv.DictReader(file)]
    with path.open("w") as out:
        for _ in range(times):
            out.writelines(lines)
    return len(lines) * times


class Memory(threading.Thread):
    """The most that a process holds, in MiB, looked at every 10 ms until it ends: `all`, mapped files included (of Sluice
    these are the page cache's, of the log), and `own` (RssAnon)."""

    def __init__(self, pid: int):
        super().__init__(daemon=True)
        self.pid, self.all, self.own = pid, 0.0, 0.0
        self.start()

    def run(self) -> None:
        while True:
            try:
                lines = pathlib.Path(f"/proc/{self.pid}/status").read_text().splitlines()
            except OSError:
                return
            values = {key: int(value.split()[0]) / 1024 for key, _, value in (line.partition(":") for line in lines) if key in ("VmHWM", "RssAnon")}
            if not values:  # it has ended, and nobody has waited for it
                return
            self.all, self.own = max(self.all, values["VmHWM"]), max(self.own, values["RssAnon"])
            time.sleep(0.01)


def sluice(program: str, folder: pathlib.Path, pipeline: str) -> tuple[float, float, float]:
    """Wall time in s and peak memory in MiB, all and own."""
    subprocess.run(["rm", "-rf", folder / "lake"], check=True)
    began = time.monotonic()
    process = subprocess.Popen([program, "run", pipeline, "--data-dir", "store"], cwd=folder, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True)
    memory = Memory(process.pid)
    out = process.stdout.read()
    process.wait()
    wall = time.monotonic() - began
    assert process.returncode == 0, out
    memory.join()
    return wall, memory.all, memory.own


class Kafka:
    """One node of Apache Kafka that holds the rows."""

    def __init__(self, folder: pathlib.Path):
        self.folder, self.port = folder / "kafka", free_ports(2)  # its own, and the controller's
        self.environment = os.environ | {"KAFKA_PORT": str(self.port), "BROKER_HEAP": "1g"}
        subprocess.run([ROOT / "interop/peers", "start", "kafka", self.folder], env=self.environment, check=True)

    def create(self, topic: str, partitions: int) -> None:
        from confluent_kafka.admin import AdminClient, NewTopic

        admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{self.port}"})
        for future in admin.create_topics([NewTopic(topic, partitions, 1)]).values():
            future.result()

    def fill(self, rows: pathlib.Path) -> None:
        from confluent_kafka import Producer

        address = f"127.0.0.1:{self.port}"
        self.create("flights", 2)
        producer = Producer({"bootstrap.servers": address, "linger.ms": 50, "batch.size": 1 << 20, "compression.type": "zstd",
                             "queue.buffering.max.messages": 1_000_000})
        with rows.open("rb") as lines:
            for number, line in enumerate(lines):
                while True:
                    try:
                        producer.produce("flights", line.rstrip(b"\n"), partition=number % 2)
                        break
                    except BufferError:
                        producer.poll(0.1)
        assert producer.flush(120) == 0

    def stop(self) -> None:
        subprocess.run([ROOT / "interop/peers", "stop", self.folder], env=self.environment, check=True)


def committed(warehouse: pathlib.Path) -> int:
    """Rows of the table's newest snapshot."""
    best, rows = -1, 0
    for path in (warehouse / "db" / "flights" / "metadata").glob("v*.metadata.json"):
        version = int(path.name[1:].split(".")[0])
        if version > best:
            try:
                told = json.loads(path.read_text())
            except ValueError:
                continue
            best, rows = version, 0
            for snapshot in told.get("snapshots", []):
                if snapshot["snapshot-id"] == told.get("current-snapshot-id"):
                    rows = int(snapshot["summary"]["total-records"])
    return rows


def connect(kafka: Kafka, folder: pathlib.Path, number: int, rows: int, commit_s: int) -> tuple[float, float, float, float]:
    """Wall time in s from the start of the process, the same from when its worker is ready, peak memory in MiB, all and own."""
    folder = folder / f"connect-{number}"
    folder.mkdir()
    kafka.create(f"control-{number}", 1)
    warehouse, rest = folder / "warehouse", free_ports(1)
    (folder / "worker.properties").write_text(f"""
bootstrap.servers=127.0.0.1:{kafka.port}
key.converter=org.apache.kafka.connect.storage.StringConverter
value.converter=org.apache.kafka.connect.json.JsonConverter
value.converter.schemas.enable=false
offset.storage.file.filename={folder}/offsets
offset.flush.interval.ms=1000
listeners=http://127.0.0.1:{rest}
plugin.discovery=service_load
consumer.auto.offset.reset=earliest
connector.client.config.override.policy=All
""")
    (folder / "iceberg.properties").write_text(f"""
name=iceberg-{number}
connector.class=org.apache.iceberg.connect.IcebergSinkConnector
tasks.max=2
topics=flights
consumer.override.auto.offset.reset=earliest
iceberg.tables=db.flights
iceberg.tables.auto-create-enabled=true
iceberg.catalog.type=hadoop
iceberg.catalog.warehouse=file://{warehouse}
iceberg.control.topic=control-{number}
iceberg.control.commit.interval-ms={commit_s * 1000}
iceberg.control.commit.timeout-ms=5000
""")
    classpath = subprocess.run([ROOT / "interop/peers", "classpath", "kafka-connect"], check=True, capture_output=True, text=True).stdout.strip()
    with (folder / "log").open("wb") as log:
        began = time.monotonic()
        process = subprocess.Popen(["java", "-Xms256M", "-Xmx2G", "-XX:+UseG1GC", "-cp", classpath, "org.apache.kafka.connect.cli.ConnectStandalone",
                                    folder / "worker.properties", folder / "iceberg.properties"], stdout=log, stderr=log)
    memory = Memory(process.pid)
    try:
        ready = None
        while committed(warehouse) < rows:
            if process.poll() is not None or time.monotonic() - began > WAIT_MAX:
                raise SystemExit(f"kafka connect: {committed(warehouse)} of {rows} rows\n" + (folder / "log").read_text()[-4000:])
            if ready is None:
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{rest}/connectors/iceberg-{number}/status", timeout=1) as answer:
                        told = json.load(answer)
                    if told["tasks"] and all(task["state"] == "RUNNING" for task in told["tasks"]):
                        ready = time.monotonic()
                except OSError:
                    pass
            time.sleep(0.1)
        ended = time.monotonic()
        assert committed(warehouse) == rows, f"kafka connect wrote {committed(warehouse)} of {rows} rows"
        return ended - began, ended - (ready or began), memory.all, memory.own
    finally:
        process.kill()
        process.wait()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--times", type=int, default=6, help="how often all 336,776 flights are in the topic")
    arguments.add_argument("--commit", type=int, default=1, help="seconds between commits of Kafka Connect's Iceberg sink")
    arguments = arguments.parse_args()
    program = binary("SLUICE", "-p", "sluice-cli", "--no-default-features", "--features", "kafka")
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        rows = write_json(folder / "flights.ndjson", arguments.times)
        (folder / "load.yaml").write_text("""
name: load
source: {file: {path: flights.ndjson, format: ndjson}}
sink: {topic: {name: flights, queues: 2}}
""")
        (folder / "lake.yaml").write_text("""
name: lake
source: {topic: {name: flights, start: earliest, until: caught_up}}
decode: {format: json}
sink: {parquet: {path: lake, codec: zstd(3)}}
""")
        subprocess.run([program, "run", "load.yaml", "--data-dir", "store"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        kafka = Kafka(folder)
        try:
            kafka.fill(folder / "flights.ndjson")
            print(f"{rows:,} messages in each topic", flush=True)
            (folder / "from-kafka.yaml").write_text(f"""
name: from-kafka
source: {{kafka: {{bootstrap: '127.0.0.1:{kafka.port}', topic: flights, start: earliest, until: caught_up}}}}
decode: {{format: json}}
sink: {{parquet: {{path: lake, codec: zstd(3)}}}}
""")
            ours, bridged, theirs = [], [], []
            for number in range(arguments.rounds):
                for name, found, pipeline in [("its own topic", ours, "lake.yaml"), ("Kafka", bridged, "from-kafka.yaml")]:
                    found.append(sluice(program, folder, pipeline))
                    print(f"round {number + 1}: sluice from {name} {rows / found[-1][0]:,.0f} rows/s, {found[-1][1]:,.0f} MiB", flush=True)
                theirs.append(connect(kafka, folder, number, rows, arguments.commit))
                print(f"round {number + 1}: kafka connect {rows / theirs[-1][0]:,.0f} rows/s, {rows / theirs[-1][1]:,.0f} without its "
                      f"start, {theirs[-1][2]:,.0f} MiB", flush=True)
        finally:
            kafka.stop()
    median = lambda values, at: statistics.median(value[at] for value in values)
    rate, running = rows / median(theirs, 0), rows / median(theirs, 1)
    sides = [("from its own topic", ours), ("from the same topic of Kafka", bridged)]
    print(f"\n{'medians of ' + str(arguments.rounds):32}  {'Kafka Connect':>14}" + "".join(f"  {'Sluice, ' + name:>36}  ratio" for name, _ in sides))
    lines = [("rows/s, whole process", rate, lambda found: rows / median(found, 0)), ("rows/s, its start left out", running, lambda found: rows / median(found, 0)),
             ("peak memory, MiB", median(theirs, 2), lambda found: median(found, 1)), ("of it its own (RssAnon), MiB", median(theirs, 3), lambda found: median(found, 2))]
    for name, base, of in lines:
        print(f"{name:32}  {base:14,.0f}" + "".join(f"  {of(found):36,.0f}  {of(found) / base:5.2f}" for _, found in sides))


if __name__ == "__main__":
    main()
