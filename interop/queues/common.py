"""What the checks of queues share: the sluice program, ports, runs that are waited for, and what is in the files."""
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import duckdb

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "interop"))
from processes import free_ports, killed  # noqa: E402

SLUICE = os.environ.get("SLUICE")
FEATURES = "amqp091,amqp10,zeromq,delta,kafka"
PROBE = """
name: p
source: {amqp10: {url: 'amqp://h', queue: q}}
sink: {zeromq: {connect: 'tcp://h:1'}}
delivery: at_least_once
"""


def find_sluice(folder: pathlib.Path) -> None:
    """The program that SLUICE names, if it has queues; else one that is built."""
    global SLUICE
    (folder / "probe.yaml").write_text(PROBE)
    if not SLUICE or subprocess.run([SLUICE, "lint", folder / "probe.yaml"], capture_output=True).returncode != 0:
        subprocess.run(["cargo", "build", "--profile", "quick", "-p", "sluice-cli", "--no-default-features", "--features", FEATURES], cwd=ROOT, check=True)
        SLUICE = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "quick" / "sluice"
    SLUICE = str(pathlib.Path(SLUICE).resolve())


class Peer:
    """A broker that interop/peers starts."""
    kind: str
    ports = 1

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder, self.port = folder, free_ports(self.ports)
        self.url = f"amqp://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        out = subprocess.run([ROOT / "interop/peers", "start", self.kind, self.folder], check=True, text=True, stdout=subprocess.PIPE,
                             env={**os.environ, f"{self.kind.upper()}_PORT": str(self.port)})
        print(out.stdout.strip(), flush=True)

    def stop(self) -> None:
        subprocess.run([ROOT / "interop/peers", "stop", self.folder], check=True)

    def kill(self) -> None:
        pid = int((self.folder / "broker.pid").read_text())
        os.kill(pid, signal.SIGKILL)
        killed(pid)
        self.stop()  # what stood around it


def until(what: str, holds, seconds: int = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not in {seconds} s: {what}"
        time.sleep(0.1)


def sluice(folder: pathlib.Path, config: str) -> subprocess.Popen:
    (folder / "pipeline.yaml").write_text(config)
    log = open(folder / "log", "ab")
    return subprocess.Popen([SLUICE, "run", "pipeline.yaml"], cwd=folder, stdout=log, stderr=log)


def run(folder: pathlib.Path, config: str) -> list[dict]:
    """What became of the pipelines."""
    (folder / "pipeline.yaml").write_text(config)
    out = subprocess.run([SLUICE, "run", "--json", "pipeline.yaml"], cwd=folder, capture_output=True, text=True)
    assert out.returncode == 0, out
    return json.loads(out.stdout)["pipelines"]


def told(folder: pathlib.Path, config: str) -> str:
    (folder / "pipeline.yaml").write_text(config)
    out = subprocess.run([SLUICE, "run", "pipeline.yaml"], cwd=folder, capture_output=True, text=True)
    assert out.returncode == 1, out
    return out.stderr


def rows(folder: pathlib.Path, what: str) -> list[tuple]:
    return duckdb.execute(f"SELECT {what} FROM read_parquet('{folder}/lake/*.parquet')").fetchall()


def check_lake(folder: pathlib.Path, messages: int) -> int:
    """Each message is in the files. How many came twice."""
    found = rows(folder, "count(DISTINCT id), sum(DISTINCT id), min(id), max(id), count(*)")[0]
    expected = (messages, messages * (messages - 1) // 2, 0, messages - 1)
    assert found[:4] == expected, f"the files hold {found}, expected {expected}"
    subprocess.run([SLUICE, "audit", "lake"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return found[4] - messages


def bodies(messages: int):
    for number in range(messages):
        yield json.dumps({"id": number, "text": "x" * (number % 150)})


def lake(source: str) -> str:
    return f"""
name: lake
source:
  {source}
decode: {{format: json, schema: {{mode: declared, fields: {{id: int64, text: utf8}}}}}}
sink:
  parquet: {{path: lake, rotate: {{age: 200ms}}}}
delivery: at_least_once
"""


def kills(peer: Peer, scratch: pathlib.Path, rounds: int, messages: int, chance: random.Random, brokers: int) -> None:
    """A run as long as it takes, measured; then rounds that are killed on the way, and end."""
    length, killed, twice = 0.0, 0, 0
    for number in range(rounds + 1):
        folder = scratch / f"{peer.kind}-kill-{number}"
        folder.mkdir()
        queue = f"orders-{number}"
        peer.fill(queue, messages)
        config = lake(peer.source(queue, "prefetch: 5000"))
        began = time.monotonic()
        if number > 0:
            process = sluice(folder, config)
            time.sleep(length * (number - 1 + chance.random()) / rounds)
            process.send_signal(signal.SIGKILL)
            killed += process.wait() == -signal.SIGKILL
        if 0 < number <= brokers:
            # The broker goes in the middle of a run, which waits for it.
            process = sluice(folder, config)
            time.sleep(length * chance.random())
            peer.kill()
            peer.start()
            status, said = process.wait(), (folder / "log").read_text()
            # A run that meets no broker when it begins says so, and ends.
            assert status == 0 or "cannot connect" in said, said
        # What a killed run had in hand is ready again once the broker has seen it go.
        until("the queue is empty", lambda: run(folder, config)[0]["rows"] == 0)
        length = length or time.monotonic() - began
        twice += check_lake(folder, messages)
        shutil.rmtree(folder)
    print(f"{peer.kind}: {killed} of {rounds} runs killed with SIGKILL, {min(brokers, rounds)} with the broker, a run of {messages:,} takes {length:.1f} s: "
          f"each message at least once, {twice:,} of {messages * (rounds + 1):,} came again", flush=True)
