"""Bridges to and from a real Kafka against librdkafka alone, and against MirrorMaker 2.

  benches/kafka.py [files] [topics] [mirror] [--rounds 3] [--records 10000000] [--topic-records 2000000]

files:  Kafka to Parquet, records of 200 B, as they come and with their JSON decoded, against a consumer that throws them away, with
        the peak memory of each process (VmHWM)
topics: Sluice to Kafka and Kafka to Sluice, 1 KiB and 100 B (five times as many), exactly once and at least once, against a producer
        and a consumer
mirror: one Kafka to another, records of 200 B, per CPU second of the process, against MirrorMaker 2

librdkafka alone is bridges/examples/librdkafka.rs, with the settings of our source and sink. Counted is the whole process, with its
start; of MirrorMaker 2 also from its first record on, until the last one is there. Sides take turns, medians are shown. Needs a JDK 17
and Maven; builds what SLUICE and LIBRDKAFKA do not name.
"""
import argparse
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "interop" / "kafka"))
from servers import Kafka, free_ports

WAIT_MAX = 1800
PARTITIONS = 3


def built(variable: str, path: str, *arguments: str) -> str:
    named = os.environ.get(variable)
    if not named:
        subprocess.run(["cargo", "build", "--release", *arguments], cwd=ROOT, check=True)
        named = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / path
    return str(pathlib.Path(named).resolve())


class Measured:
    """Wall and CPU seconds and peak memory in MiB of a process that ended."""

    def __init__(self, arguments: list, folder: pathlib.Path) -> None:
        began = time.monotonic()
        process = subprocess.Popen([str(argument) for argument in arguments], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.out = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        self.wall, self.cpu, self.memory = time.monotonic() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
        assert status == 0, self.out


class Bench:
    def __init__(self, scratch: pathlib.Path, arguments: argparse.Namespace) -> None:
        self.scratch, self.rounds = scratch, arguments.rounds
        self.sluice = built("SLUICE", "sluice", "-p", "sluice-cli", "--no-default-features", "--features", "delta,kafka")
        self.librdkafka = built("LIBRDKAFKA", "examples/librdkafka", "-p", "sluice-bridges", "--features", "kafka", "--example", "librdkafka")
        self.number = 0

    def fill(self, kafka: Kafka, topic: str, records: int, size: int) -> None:
        kafka.make(topic, PARTITIONS)
        self.produce(kafka, topic, records, size)

    def produce(self, kafka: Kafka, topic: str, records: int, size: int) -> Measured:
        return Measured([self.librdkafka, "produce", kafka.bootstrap, topic, records, size], self.scratch)

    def consume(self, kafka: Kafka, topic: str, records: int) -> Measured:
        return Measured([self.librdkafka, "consume", kafka.bootstrap, topic, records], self.scratch)

    def fresh(self) -> pathlib.Path:
        self.number += 1
        folder = self.scratch / f"run-{self.number}"
        folder.mkdir()
        return folder

    def run(self, config: str, folder: pathlib.Path, records: int, data: pathlib.Path | None = None) -> Measured:
        (folder / "pipeline.yaml").write_text(config)
        measured = Measured([self.sluice, "run", "pipeline.yaml", *(["--data-dir", data] if data else [])], folder)
        assert f"{records:,} written" in measured.out, measured.out
        return measured

    def turns(self, sides: dict) -> dict:
        """Runs each side in turn; what was measured by side."""
        found = {name: [] for name in sides}
        for number in range(self.rounds):
            for name, side in sides.items():
                found[name].append(side())
                print(f"round {number + 1}: {name}: {found[name][-1].wall:.2f} s, {found[name][-1].cpu:.2f} CPU s, {found[name][-1].memory:,.0f} MiB", flush=True)
        return found


def median(all: list, of: str) -> float:
    return statistics.median(getattr(one, of) for one in all)


def table(title: str, records: int, beside: str, found: dict, aims: dict) -> None:
    print(f"\n{title:44}  {'records/s':>12}  {'ratio':>6}  {'aim':>6}  {'MiB':>6}")
    base = records / median(found[beside], "wall")
    for name, all in found.items():
        rate = records / median(all, "wall")
        print(f"{name:44}  {rate:12,.0f}  {rate / base:6.2f}  {aims.get(name, ''):>6}  {median(all, 'memory'):6,.0f}")
    print()


def files(bench: Bench, kafka: Kafka, records: int) -> None:
    bench.fill(kafka, "files", records, 200)

    def lake(decode: str) -> Measured:
        folder = bench.fresh()
        measured = bench.run(f"""
name: lake
source: {{kafka: {{bootstrap: '{kafka.bootstrap}', topic: files, until: caught_up}}}}
{decode}
sink: {{parquet: {{path: lake}}}}
""", folder, records)
        shutil.rmtree(folder)
        return measured

    found = bench.turns({
        "librdkafka, thrown away": lambda: bench.consume(kafka, "files", records),
        "Parquet": lambda: lake(""),
        "Parquet, JSON decoded": lambda: lake("decode: {format: json}"),
    })
    table(f"Kafka to Parquet, {records:,} of 200 B", records, "librdkafka, thrown away", found, {"Parquet": "0.5"})


def topics(bench: Bench, kafka: Kafka, records: int) -> None:
    for size, records in [(1024, records), (100, 5 * records)]:
        bench.fill(kafka, f"from-{size}", records, size)
        data = bench.fresh()

        def into(topic: str, delivery: str = "exactly_once", number=[0]) -> Measured:
            number[0] += 1
            folder = data if topic == "kept" else bench.fresh()
            measured = bench.run(f"""
name: into-{number[0]}
delivery: {delivery}
source: {{kafka: {{bootstrap: '{kafka.bootstrap}', topic: from-{size}, until: caught_up}}}}
sink: {{topic: {{name: {topic}, queues: {PARTITIONS}, queue: source}}}}
""", folder, records, folder / "store")
            if topic != "kept":
                shutil.rmtree(folder)
            return measured

        def served() -> Measured:
            """To a broker beside."""
            folder, ports = bench.fresh(), free_ports(4)
            names = f"127.0.0.1:{ports + 3}"
            broker = subprocess.Popen([bench.sluice, "broker", "--data-dir", "store", "--listen", f"127.0.0.1:{ports}", "--namesrv-listen", names, "--json"],
                                      cwd=folder, stdout=subprocess.PIPE)
            try:
                assert broker.stdout.readline()
                return bench.run(f"""
name: served
delivery: at_least_once
source: {{kafka: {{bootstrap: '{kafka.bootstrap}', topic: from-{size}, group: g{bench.number}, until: caught_up}}}}
sink: {{topic: {{name: served, cluster: '{names}', queues: {PARTITIONS}, queue: source}}}}
""", folder, records)
            finally:
                broker.kill()
                broker.wait()
                shutil.rmtree(folder)

        found = bench.turns({
            "librdkafka, thrown away": lambda: bench.consume(kafka, f"from-{size}", records),
            "exactly once": lambda: into("gone"),
            "at least once": lambda: into("gone", "at_least_once"),
            "at least once, over the network": served,
        })
        aims = {"exactly once": "0.6", "at least once": "0.8", "at least once, over the network": "0.8"}
        table(f"Kafka to Sluice, {records:,} of {size} B", records, "librdkafka, thrown away", found, aims)

        into("kept")

        def out(delivery: str) -> Measured:
            folder, topic = bench.fresh(), f"out-{size}-{bench.number}"
            kafka.make(topic, PARTITIONS)
            measured = bench.run(f"""
name: out-{bench.number}
delivery: {delivery}
source: {{topic: {{name: kept, group: g{bench.number}, until: caught_up}}}}
sink: {{kafka: {{bootstrap: '{kafka.bootstrap}', topic: {topic}}}}}
steps: [{{headers: {{remove: [kafka.origin]}}}}]
""", folder, records, data / "store")
            kafka.delete(topic)
            return measured

        def alone() -> Measured:
            topic = f"alone-{size}-{bench.fresh().name}"
            kafka.make(topic, PARTITIONS)
            measured = bench.produce(kafka, topic, records, size)
            kafka.delete(topic)
            return measured

        found = bench.turns({
            "librdkafka": alone,
            "exactly once": lambda: out("exactly_once"),
            "at least once": lambda: out("at_least_once"),
        })
        table(f"Sluice to Kafka, {records:,} of {size} B", records, "librdkafka", found, {"exactly once": "0.6", "at least once": "0.8"})
        shutil.rmtree(data)


class Mirrored:
    """MirrorMaker 2 from its first record to its last."""

    def __init__(self, one: Kafka, other: Kafka, topic: str, records: int, codec: dict, folder: pathlib.Path) -> None:
        from confluent_kafka import Consumer, KafkaException, TopicPartition

        settings = "\n".join(f"other.producer.{name}={value}" for name, value in codec.items())
        (folder / "mm2.properties").write_text(f"""
clusters=one, other
one.bootstrap.servers={one.bootstrap}
other.bootstrap.servers={other.bootstrap}
one->other.enabled=true
one->other.topics={topic}
other->one.enabled=false
emit.heartbeats.enabled=false
emit.checkpoints.enabled=false
sync.topic.configs.enabled=false
sync.topic.acls.enabled=false
replication.factor=1
offset-syncs.topic.replication.factor=1
offset.storage.replication.factor=1
config.storage.replication.factor=1
status.storage.replication.factor=1
tasks.max=2
refresh.topics.interval.seconds=5
{settings}
other.producer.linger.ms=2
other.producer.batch.size=1000000
one.consumer.auto.offset.reset=earliest
consumer.auto.offset.reset=earliest
offset.flush.interval.ms=5000
""")
        classpath = subprocess.run([ROOT / "interop/peers", "classpath", "mirror"], check=True, capture_output=True, text=True).stdout.strip()
        consumer = Consumer({"bootstrap.servers": other.bootstrap, "group.id": "watch", "log_level": 0})

        def there() -> int:
            if f"one.{topic}" not in other.admin.list_topics(timeout=30).topics:
                return 0
            try:
                return sum(consumer.get_watermark_offsets(TopicPartition(f"one.{topic}", partition), timeout=30)[1] for partition in range(PARTITIONS))
            except KafkaException:
                # Its partitions have no leaders yet.
                return -1

        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(["java", "-Xms256M", "-Xmx2G", "-XX:+UseG1GC", "-cp", classpath, "org.apache.kafka.connect.mirror.MirrorMaker",
                                        folder / "mm2.properties"], stdout=log, stderr=log, cwd=folder)
        try:
            self.first = None
            began = time.monotonic()
            while (count := there()) < records:
                if process.poll() is not None or time.monotonic() - began > WAIT_MAX:
                    raise SystemExit(f"MirrorMaker 2: {count} of {records} records\n" + (folder / "log").read_text()[-4000:])
                if count <= 0:
                    first, before = time.monotonic(), self.used(process.pid)
                time.sleep(0.05)
            self.wall, self.cpu_whole = time.monotonic() - first, self.used(process.pid)
            self.cpu = self.cpu_whole - before
            status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
            self.memory = next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))
        finally:
            process.kill()
            process.wait()
            consumer.close()
            if f"one.{topic}" in other.admin.list_topics(timeout=30).topics:
                other.delete(f"one.{topic}")

    @staticmethod
    def used(pid: int) -> float:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def mirror(bench: Bench, kafka: Kafka, records: int) -> None:
    other = Kafka(bench.scratch / "other")
    try:
        bench.fill(kafka, "mirror", records, 200)
        # zstd with this level is what our sink does of itself; MirrorMaker 2 of itself does not pack.
        mirror_packed(bench, kafka, other, records, {"compression.type": "zstd", "compression.zstd.level": 1}, "")
        mirror_packed(bench, kafka, other, records, {"compression.type": "none"}, "properties: {compression.type: none}")
    finally:
        other.stop()


def mirror_packed(bench: Bench, kafka: Kafka, other: Kafka, records: int, codec: dict, properties: str) -> None:
    """Both sides with the same codec: MirrorMaker 2's settings of it, and those of our sink."""

    def ours(delivery: str) -> Measured:
        folder, topic = bench.fresh(), f"mirror-{bench.number}"
        other.make(topic, PARTITIONS)
        measured = bench.run(f"""
name: mirror-{bench.number}
delivery: {delivery}
source: {{kafka: {{bootstrap: '{kafka.bootstrap}', topic: mirror, group: g{bench.number}, until: caught_up}}}}
sink:
  kafka: {{bootstrap: '{other.bootstrap}', topic: {topic}, partition: source, {properties}}}
""", folder, records)
        other.delete(topic)
        return measured

    def theirs() -> Mirrored:
        # It keeps where it is at the target, so each round begins with a topic of its own.
        bench.number += 1
        topic = f"mirrored-{bench.number}"
        bench.fill(kafka, topic, records, 200)
        found = Mirrored(kafka, other, topic, records, codec, bench.fresh())
        kafka.delete(topic)
        return found

    found = bench.turns({
        "MirrorMaker 2, at least once": theirs,
        "Sluice, exactly once": lambda: ours("exactly_once"),
        "Sluice, at least once": lambda: ours("at_least_once"),
    })
    title = f"Kafka to Kafka, {records:,} of 200 B, {codec['compression.type']}"
    print(f"\n{title:44}  {'records/CPU s':>14}  {'ratio':>6}  {'whole':>6}  {'aim':>6}  {'records/s':>12}  {'MiB':>6}")
    base = median(found["MirrorMaker 2, at least once"], "cpu")
    whole = median(found["MirrorMaker 2, at least once"], "cpu_whole")
    for name, all in found.items():
        cpu, aim = median(all, "cpu"), "3" if name.startswith("Sluice") else ""
        print(f"{name:44}  {records / cpu:14,.0f}  {base / cpu:6.2f}  {whole / cpu:6.2f}  {aim:>6}  {records / median(all, 'wall'):12,.0f}  {median(all, 'memory'):6,.0f}")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("what", nargs="*", choices=["files", "topics", "mirror", []])
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--records", type=int, default=10_000_000, help="of files")
    arguments.add_argument("--topic-records", type=int, default=2_000_000, help="of topics and mirror")
    arguments = arguments.parse_args()
    what = arguments.what or ["files", "topics", "mirror"]
    os.environ.setdefault("BROKER_HEAP", "1g")
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        bench = Bench(scratch, arguments)
        kafka = Kafka(scratch / "kafka")
        try:
            if "files" in what:
                files(bench, kafka, arguments.records)
            if "topics" in what:
                topics(bench, kafka, arguments.topic_records)
            if "mirror" in what:
                mirror(bench, kafka, arguments.topic_records)
        finally:
            kafka.stop()


if __name__ == "__main__":
    main()
