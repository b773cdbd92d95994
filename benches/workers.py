"""What sharing a pipeline costs: rows a CPU second of three workers against one, how soon a dead or hung worker's tasks run
elsewhere, and what an idle worker takes.

  benches/workers.py [--rows 2000000] [--rounds 3] [--idle 30]

Over `sluice broker`, topic -> JSON decode -> Parquet with zstd(3). Builds the sluice binary if SLUICE names none.
"""
import argparse
import json
import os
import pathlib
import re
import signal
import statistics
import subprocess
import tempfile
import time
import urllib.request

from rocketmq import Sluice, binary, cpu_seconds

QUEUES = 6
LOAD = """
name: load
delivery: at_least_once
source: {{generate: {{rows: {rows}}}}}
sink: {{topic: {{name: shared, cluster: "{namesrv}", queues: {queues}}}}}
"""
LAKE = """
name: {name}
source: {{topic: {{name: shared, until: {until}}}}}
decode: {{format: json, schema: {{mode: declared, fields: {{id: int64, name: utf8, value: float64, flag: bool, group: utf8}}}}}}
sink: {{parquet: {{path: {name}, codec: zstd(3), rotate: {{age: {age}}}}}}}
"""


class Worker:
    def __init__(self, program: str, folder: pathlib.Path, namesrv: str, name: str):
        command = [program, "connect", f"{name}.yaml", "--cluster", namesrv, "--json", "--metrics", "127.0.0.1:0"]
        self.process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
        self.metrics = json.loads(self.process.stdout.readline())["metrics"]

    def count(self, series: str) -> int:
        """Its value; -1 while the pipeline has not begun."""
        text = urllib.request.urlopen(f"http://{self.metrics}/metrics", timeout=5).read().decode()
        found = re.search(rf"^sluice_pipeline_{series}{{.*?}} (\d+)$", text, re.M)
        return int(found.group(1)) if found else -1

    def finish(self) -> tuple[int, float, int]:
        """Rows published, CPU seconds, times fenced; once it has ended by itself."""
        said = [json.loads(line) for line in self.process.stdout]
        _, status, usage = os.wait4(self.process.pid, 0)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        assert self.process.returncode == 0, said
        ended = said[-1]["ended"]
        return sum(ended["fates"].values()), usage.ru_utime + usage.ru_stime, ended["fenced"]


def until(is_so) -> float:
    begun = time.monotonic()
    while not is_so():
        assert time.monotonic() - begun < 60
        time.sleep(0.02)
    return time.monotonic() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--idle", type=int, default=30)
    arguments = parser.parse_args()
    program = str(pathlib.Path(binary("SLUICE", "-p", "sluice-cli", "--no-default-features")).resolve())
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        broker = Sluice(folder, program)
        workers = []

        def start(name: str, count: int) -> list[Worker]:
            started = [Worker(program, folder, broker.namesrv, name) for _ in range(count)]
            workers.extend(started)
            return started

        def pipeline(name: str, when: str, age: str) -> None:
            (folder / f"{name}.yaml").write_text(LAKE.format(name=name, until=when, age=age))

        try:
            (folder / "load.yaml").write_text(LOAD.format(rows=arguments.rows, namesrv=broker.namesrv, queues=QUEUES))
            subprocess.run([program, "run", "load.yaml"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
            rates: dict[int, list[float]] = {1: [], 3: []}
            for number in range(arguments.rounds):
                for count in rates:
                    name = f"rate-{count}-{number}"
                    pipeline(name, "caught_up", "5m")
                    begun = time.monotonic()
                    ended = [worker.finish() for worker in start(name, count)]
                    took = time.monotonic() - begun
                    rows, cpu, fenced = (sum(column) for column in zip(*ended))
                    assert rows == arguments.rows, ended
                    rates[count].append(rows / cpu)
                    print(f"round {number + 1}: {count} worker{'s' if count > 1 else ''}: {rows / cpu:,.0f} rows/CPU s, "
                          f"{cpu:.2f} CPU s, {took:.1f} s, fenced {fenced} times, shares {sorted(r for r, _, _ in ended)}", flush=True)
            ratio = statistics.median(rates[3]) / statistics.median(rates[1])
            print(f"three workers: {ratio:.2f} of the rows a CPU second of one", flush=True)

            pipeline("over", "forever", "1s")
            for signalled, what in [(signal.SIGKILL, "killed"), (signal.SIGSTOP, "hung (lease 6 s)"), (signal.SIGTERM, "ended")]:
                three = start("over", 3)
                until(lambda: sorted(w.count("tasks") for w in three) == [2, 2, 2])
                until(lambda: sum(w.count("lag_messages") for w in three) == 0)
                three[0].process.send_signal(signalled)
                took = until(lambda: sum(w.count("tasks") for w in three[1:]) == QUEUES)
                print(f"{what}: its tasks run elsewhere after {took:.1f} s", flush=True)
                for worker in three:
                    worker.process.kill()
                    worker.process.wait()

            one = start("over", 1)[0]
            until(lambda: one.count("tasks") == QUEUES and one.count("lag_messages") == 0)
            time.sleep(2)
            before = cpu_seconds(one.process.pid)
            time.sleep(arguments.idle)
            used = (cpu_seconds(one.process.pid) - before) / arguments.idle
            print(f"idle: {100 * used:.2f} % of a CPU over {arguments.idle} s")
        finally:
            for worker in workers:
                if worker.process.poll() is None:
                    worker.process.kill()
                    worker.process.wait()
            broker.stop()


if __name__ == "__main__":
    main()
