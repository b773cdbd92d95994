"""Sluice's broker beside a real RocketMQ 5.3.3, on this machine, in turns: the same load generator drives both.

  benches/rocketmq.py [--rounds 3] [--messages 300000] [--backlog 5000000] [--rate 15000] [--only sluice|real]

Needs a JDK 17 and Maven for the real broker (tuned as its documentation says: 4 GiB of heap, --heap to change it).
Builds what SLUICE and LOAD do not name. Prints medians and their ratios.
"""
import argparse
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "interop"))
from processes import free_ports, rocketmq_ports

TICKS = os.sysconf("SC_CLK_TCK")


def binary(variable: str, *build: str) -> str:
    if variable in os.environ:
        return os.environ[variable]
    subprocess.run(["cargo", "build", "--release", *build], cwd=ROOT, check=True)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
    return str(target / ("examples/load" if "--example" in build else "sluice"))


class Sluice:
    name = "sluice"

    def __init__(self, folder: pathlib.Path, program: str, flush: str = "async"):
        port = free_ports(2)
        self.namesrv = f"127.0.0.1:{port + 1}"
        command = [program, "broker", "--data-dir", str(folder / "store"), "--listen", f"127.0.0.1:{port}",
                   "--namesrv-listen", self.namesrv, "--flush", flush]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.process.stdout.readline()
        self.pid = self.process.pid

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


class Real:
    name = "real"

    def __init__(self, folder: pathlib.Path, heap: str):
        ports = rocketmq_ports()
        self.namesrv, self.folder = f"127.0.0.1:{ports['NAMESRV_PORT']}", folder
        self.environment = os.environ | ports | {"BROKER_HEAP": heap}
        subprocess.run([ROOT / "interop/peers", "start", "rocketmq", folder], env=self.environment, check=True,
                       stdout=subprocess.DEVNULL)
        self.pid = int((folder / "pids").read_text().split()[-1])

    def stop(self):
        subprocess.run([ROOT / "interop/peers", "stop", self.folder], env=self.environment, check=True)


def cpu_seconds(pid: int) -> float:
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def anonymous_mib(pid: int) -> float:
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    return float("nan")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--messages", type=int, default=300_000, help="of each produce run")
    arguments.add_argument("--rate", type=int, help="sends a second of the open loop; else half of what the first broker takes")
    arguments.add_argument("--backlog", type=int, default=5_000_000, help="messages of 256 B that are consumed")
    arguments.add_argument("--heap", default="4g")
    arguments.add_argument("--only", choices=["sluice", "real"])
    arguments = arguments.parse_args()
    program, load = binary("SLUICE", "-p", "sluice-cli", "--no-default-features"), binary("LOAD", "-p", "sluice-client", "--example", "load")
    found: dict[str, dict[str, list[float]]] = {}

    def keep(what: str, broker: str, value: float) -> None:
        found.setdefault(what, {}).setdefault(broker, []).append(value)

    def run(broker, mode: str, *options: str) -> dict:
        command = [load, mode, "--namesrv", broker.namesrv, *options]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    jars = subprocess.run([ROOT / "interop/peers", "classpath", "client"], check=True, capture_output=True, text=True).stdout.strip()

    def java(broker, messages: int) -> dict:
        """RocketMQ's own client as the driver: 64 threads that send 1 KiB each and wait."""
        command = ["java", "-Xmx1g", "-cp", jars, ROOT / "benches/java/Produce.java", broker.namesrv, "java", "64", str(messages), "1024"]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])

    rate = arguments.rate
    for number in range(arguments.rounds):
        for kind in [Real, Sluice]:
            if arguments.only not in (None, kind.name):
                continue
            with tempfile.TemporaryDirectory() as folder:
                folder = pathlib.Path(folder)
                begun = time.monotonic()
                broker = kind(folder, arguments.heap) if kind is Real else kind(folder, program)
                try:
                    run(broker, "produce", "--topic", "first", "--messages", "1", "--in-flight", "1")
                    keep("start to first message acknowledged, s", kind.name, time.monotonic() - begun)
                    keep("idle, RssAnon MiB", kind.name, anonymous_mib(broker.pid))
                    n = str(arguments.messages)
                    run(broker, "produce", "--topic", "warm", "--messages", "100000", "--in-flight", "64")
                    before = cpu_seconds(broker.pid)
                    sent = run(broker, "produce", "--topic", "single", "--messages", n, "--in-flight", "64")
                    keep("produce 1 KiB, 64 in flight, msg/s", kind.name, sent["messages_per_second"])
                    if rate is None:
                        # Of the real broker, which is the first.
                        rate = int(sent["messages_per_second"] / 2000) * 1000
                    sent = run(broker, "produce", "--topic", "batch", "--messages", n, "--in-flight", "64", "--batch", "32", "--bytes", "256")
                    keep("produce 256 B in batches of 32, msg/s", kind.name, sent["messages_per_second"])
                    sent = java(broker, arguments.messages)
                    keep("the same driven by the Java client, msg/s", kind.name, sent["messages_per_second"])
                    run(broker, "produce", "--topic", "back", "--messages", str(arguments.backlog), "--in-flight", "16",
                        "--batch", "100", "--bytes", "256", "--modulo", "100")
                    read = run(broker, "consume", "--topic", "back", "--group", "all", "--pull", "1024")
                    keep("consume a backlog of 256 B, msg/s", kind.name, read["messages_per_second"])
                    after = cpu_seconds(broker.pid)
                    count = 3 * arguments.messages + arguments.backlog
                    keep("broker CPU s per million produced + consumed", kind.name, (after - before) / count * 1e6)
                    read = run(broker, "consume", "--topic", "back", "--group", "few", "--sql", "n = 7", "--pull", "1024")
                    assert read["messages"] * 100 == arguments.backlog, read
                    keep("the same, SQL92 passes 1 %, msg/s looked at", kind.name, arguments.backlog / read["seconds"])
                    open_loop = run(broker, "produce-rate", "--topic", "single", "--rate", str(rate), "--seconds", "10")
                    keep(f"sends within 1 ms at {rate:,}/s, %", kind.name, 100 * open_loop["share_within_1_ms"])
                    keep(f"p99.99 at {rate:,}/s, ms", kind.name, open_loop["p99_99_ms"])
                    keep("under load, RssAnon MiB", kind.name, anonymous_mib(broker.pid))
                finally:
                    broker.stop()
            print(f"round {number + 1}: {kind.name} done", flush=True)
    print(f"\n{'medians of ' + str(arguments.rounds):52}  {'real':>12}  {'sluice':>12}  {'ratio':>8}")
    for what, by in found.items():
        real, ours = (statistics.median(by[k]) if k in by else float("nan") for k in ("real", "sluice"))
        print(f"{what:52}  {real:>12,.2f}  {ours:>12,.2f}  {ours / real:>8.3f}")


if __name__ == "__main__":
    main()
