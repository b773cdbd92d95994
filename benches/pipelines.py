"""A worker with 1,000 pipelines, of which 100 run: how soon it is there, what it holds and takes, how soon it answers.

  benches/pipelines.py [--pipelines 1000] [--running 100] [--rounds 3]

The pipelines are made by the management API once, then the worker is started again over the folder that keeps them. Counted are the
seconds from the start of the process until the API answers that the running ones run, the peak of its memory (RssAnon and all), the
median of 20 `GET /connectors`, also with `expand=status`, and the CPU time of ten idle seconds, with and without the API listening.
Needs SLUICE, or cargo.
"""
import argparse
import contextlib
import http.client
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benches"))
from rocketmq import binary

ANY = "127.0.0.1:0"
WAIT_MAX = 120


class Worker:
    def __init__(self, program: str, folder: pathlib.Path, arguments: list) -> None:
        self.began = time.monotonic()
        self.process = subprocess.Popen([program, "connect", *arguments, "--json"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.port = None

    def find_port(self) -> None:
        """Reads until it tells where the API is; what it tells later is read as well, or it would wait for its reader."""
        for line in self.process.stdout:
            told = json.loads(line)
            if "rest" in told:
                self.port = int(told["rest"].rsplit(":", 1)[1])
                break
        import threading
        threading.Thread(target=lambda: [None for _ in self.process.stdout], daemon=True).start()

    def ask(self, method: str, path: str, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_MAX)
        connection.request(method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        assert answer.status < 300, data
        return json.loads(data) if data else None

    def running(self) -> int:
        return sum(one["status"]["connector"]["state"] == "RUNNING" for one in self.ask("GET", "/connectors?expand=status").values())

    def until_running(self, count: int) -> float:
        while self.running() < count:
            assert time.monotonic() - self.began < WAIT_MAX, f"{self.running()} of {count} run"
            time.sleep(0.01)
        return time.monotonic() - self.began

    def status(self, key: str) -> float:
        lines = pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key + ":"))

    def cpu(self) -> float:
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def idle_cpu(self) -> float:
        before = self.cpu()
        time.sleep(10)
        return self.cpu() - before

    def answer_ms(self, path: str) -> float:
        def once() -> float:
            began = time.monotonic()
            self.ask("GET", path)
            return (time.monotonic() - began) * 1000
        return statistics.median(once() for _ in range(20))

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(60)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--pipelines", type=int, default=1000)
    arguments.add_argument("--running", type=int, default=100)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments = arguments.parse_args()
    program = binary("SLUICE", "-p", "sluice-cli", "--no-default-features")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as ends:
        folder = pathlib.Path(folder)
        broker = subprocess.Popen([program, "broker", "--data-dir", "data", "--listen", ANY, "--namesrv-listen", ANY, "--json"], cwd=folder,
                                  stdout=subprocess.PIPE, text=True)
        ends.callback(lambda: (broker.terminate(), broker.wait()))
        names = json.loads(broker.stdout.readline())["name_server"]
        subprocess.run([program, "topic", "create", "t", "--queues", "2", "--namesrv", names], check=True, stdout=subprocess.DEVNULL)
        subprocess.run([program, "topic", "send", "t", "--namesrv", names], input='{"id": 1}\n' * 10, text=True, check=True, stdout=subprocess.DEVNULL)
        plain = ["--cluster", names]
        served = [*plain, "--rest", ANY, "--pipelines", "kept"]
        worker = Worker(program, folder, served)
        worker.find_port()
        began = time.monotonic()
        for number in range(arguments.pipelines):
            name = f"pipeline-{number:04}"
            config = {"connector.class": "parquet", "source.topic.name": "t", "sink.parquet.path": str(folder / "lake" / name), "sink.parquet.rotate.age": "1s"}
            state = "RUNNING" if number < arguments.running else "STOPPED"
            worker.ask("POST", "/connectors", {"name": name, "config": config, "initial_state": state})
        print(f"{arguments.pipelines:,} pipelines made by the API in {time.monotonic() - began:.1f} s", flush=True)
        worker.until_running(arguments.running)
        worker.end()
        found = []
        for number in range(arguments.rounds):
            worker = Worker(program, folder, served)
            worker.find_port()
            one = {"start, s": worker.until_running(arguments.running)}
            one["GET /connectors, ms"] = worker.answer_ms("/connectors")
            one["GET /connectors?expand=status, ms"] = worker.answer_ms("/connectors?expand=status")
            one["peak memory of its own, MiB"], one["peak memory, MiB"] = worker.status("RssAnon"), worker.status("VmHWM")
            one["CPU s in 10 s"] = worker.idle_cpu()
            worker.end()
            # The same running pipelines from files, with nothing that listens.
            files = [folder / f"{name:04}.yaml" for name in range(arguments.running)]
            for at, path in enumerate(files):
                path.write_text(f"name: pipeline-{at:04}\nsource: {{topic: {{name: t}}}}\nsink: {{parquet: {{path: '{folder}/lake/pipeline-{at:04}', rotate: {{age: 1s}}}}}}\n")
            worker = Worker(program, folder, [*plain, *files])
            # Nothing tells from outside that all have begun but time.
            time.sleep(one["start, s"] + 2)
            one["CPU s in 10 s, without API and the rest"] = worker.idle_cpu()
            worker.end()
            found.append(one)
            print(f"round {number + 1}: {', '.join(f'{name} {value:.2f}' for name, value in one.items())}", flush=True)
        aims = {"start, s": "≤ 2", "GET /connectors, ms": "≤ 50"}
        print(f"\n{arguments.pipelines:,} pipelines, {arguments.running} of them running, medians of {arguments.rounds}")
        for name in found[0]:
            print(f"{name:44}  {statistics.median(one[name] for one in found):8.2f}  {aims.get(name, '')}")


if __name__ == "__main__":
    main()
