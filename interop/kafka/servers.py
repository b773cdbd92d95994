"""A real Kafka for the checks beside this file, and `sluice` run on pipelines that read and write it."""
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import urllib.request

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "interop"))
from processes import free_ports, killed  # noqa: E402

PEERS = ROOT / "interop/peers"


def program(scratch: pathlib.Path, features: str = "delta,kafka", needs: str = "") -> str:
    """The binary that SLUICE names if it has Kafka (and takes the property `needs`), else one that is built."""
    named = os.environ.get("SLUICE")
    probe = scratch / "probe.yaml"
    probe.write_text(f"name: p\nsource: {{kafka: {{bootstrap: 'h:1', topic: t, properties: {{{needs}}}}}}}\nsink: {{parquet: {{path: x}}}}\n")
    if not named or subprocess.run([named, "lint", str(probe)], capture_output=True).returncode != 0:
        subprocess.run(["cargo", "build", "--profile", "quick", "-p", "sluice-cli", "--no-default-features", "--features", features], cwd=ROOT, check=True)
        named = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "quick" / "sluice"
    return str(pathlib.Path(named).resolve())


class Kafka:
    def __init__(self, folder: pathlib.Path, nodes: int = 1, secure: bool = False) -> None:
        self.folder, self.nodes, self.port = folder, nodes, free_ports(4 * nodes)
        self.environment = {**os.environ, "KAFKA_PORT": str(self.port), "KAFKA_NODES": str(nodes), "KAFKA_SECURE": "1" if secure else ""}
        self.bootstrap = ",".join(f"127.0.0.1:{self.port + 4 * node}" for node in range(nodes))
        # Of the two listeners that ask who it is.
        self.sasl, self.tls = f"127.0.0.1:{self.port + 2}", f"localhost:{self.port + 3}"
        self.start()
        self.admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})

    def start(self) -> None:
        out = subprocess.run([PEERS, "start", "kafka", self.folder], check=True, text=True, stdout=subprocess.PIPE, env=self.environment)
        print(out.stdout.strip(), flush=True)

    def start_node(self, node: int) -> None:
        subprocess.run([PEERS, "start", "kafka-node", self.folder, str(node)], check=True, stdout=subprocess.DEVNULL, env=self.environment)

    def stop(self) -> None:
        subprocess.run([PEERS, "stop", self.folder], check=True)

    def pid(self, node: int = 1) -> int:
        home = self.folder / f"node-{node}" if self.nodes > 1 else self.folder
        return int((home / "broker.pid").read_text())

    def kill(self, node: int = 1) -> None:
        pid = self.pid(node)
        os.kill(pid, signal.SIGKILL)
        killed(pid)

    def make(self, topic: str, partitions: int, **config: str) -> None:
        self.admin.create_topics([NewTopic(topic, partitions, self.nodes, config=config)])[topic].result(30)
        until(f"topic {topic}", lambda: self.has(topic, partitions))

    def has(self, topic: str, partitions: int) -> bool:
        """Whether brokers tell clients of a topic and of who leads its partitions."""
        try:
            known = self.admin.list_topics(topic, timeout=10).topics[topic]
        except KafkaException:
            return False
        return known.error is None and len(known.partitions) == partitions and all(part.leader > 0 for part in known.partitions.values())

    def delete(self, topic: str) -> None:
        self.admin.delete_topics([topic])[topic].result(30)

    def send(self, topic: str, bodies: list, key=lambda body: None, **config) -> None:
        producer = Producer({"bootstrap.servers": self.bootstrap, **config})
        for body in bodies:
            while True:
                try:
                    producer.produce(topic, body, key(body))
                    break
                except BufferError:
                    producer.poll(0.1)
            producer.poll(0)
        assert producer.flush(60) == 0

    def read(self, topic: str, partitions: int) -> list[tuple]:
        """All that is committed: (partition, key, value, headers, time)."""
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": "check", "enable.partition.eof": True, "isolation.level": "read_committed"})
        seen = []
        for partition in range(partitions):
            consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING)])
            while True:
                message = consumer.poll(30)
                assert message is not None, f"{topic} {partition}: no answer"
                if message.error():
                    assert message.error().code() == -191, message.error()  # the end of the partition
                    break
                seen.append((message.partition(), message.key(), message.value(), message.headers(), message.timestamp()[1]))
        consumer.close()
        return seen


class Sluice:
    """`sluice run` on one pipeline file in a folder of its own."""

    def __init__(self, sluice: str, folder: pathlib.Path) -> None:
        self.sluice, self.folder = sluice, folder
        folder.mkdir(exist_ok=True)

    def begin(self, config: str, **variables: str) -> subprocess.Popen:
        (self.folder / "pipeline.yaml").write_text(config)
        log = open(self.folder / "log", "ab")
        return subprocess.Popen([self.sluice, "run", "pipeline.yaml", "--json"], cwd=self.folder, stdout=log, stderr=log, env={**os.environ, **variables})

    def run(self, config: str, **variables: str) -> list[dict]:
        """Runs it to its end; what it says of each pipeline. One that can not even begin is `refused`."""
        (self.folder / "pipeline.yaml").write_text(config)
        out = subprocess.run([self.sluice, "run", "pipeline.yaml", "--json"], cwd=self.folder, capture_output=True, text=True, timeout=240,
                             env={**os.environ, **variables})
        if out.stdout:
            return json.loads(out.stdout)["pipelines"]
        told = [line for line in out.stderr.splitlines() if line.startswith("sluice: pipeline ")]
        assert told, out.stderr
        return [{"state": "refused", "error": told[-1]}]

    def command(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess:
        out = subprocess.run([self.sluice, *arguments], cwd=self.folder, capture_output=True, text=True)
        assert not check or out.returncode == 0, f"{arguments}: {out.stdout}{out.stderr}"
        return out

    def verify(self, between: str, and_: str, *more: str) -> int:
        """Both sides hold the same; how many messages."""
        out = self.command("bridge", "verify", "--between", between, "--and", and_, "--json", *more, check=False)
        assert out.stdout, out.stderr
        found = json.loads(out.stdout)
        assert found["same"], json.dumps(found, indent=1)
        return found["and"]["messages"]


def counter(port: int, name: str) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"sluice_pipeline_{name}{{"))


def until(what: str, holds, seconds: int = 90):
    end = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < end, f"not in {seconds} s: {what}"
        time.sleep(0.1)
    return found
