"""Parquet files in an S3-compatible store that somebody else wrote (PyPI `moto`, its server): two `sluice run` race
on one chain, workers are killed with -9, and then every row of the source is in the bucket once. `sluice audit` proves it
over the network, and pyarrow reads the files back through its own S3 client.

A proxy between them loses answers: it passes a request on, and cuts the connection instead of answering.
"""
import argparse
import http.client
import http.server
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import tempfile
import threading
import time

import pyarrow.fs
import pyarrow.parquet

import object_store

SLUICE = str(pathlib.Path(os.environ["SLUICE"]).resolve())
ROWS = 80_000
CONFIG = """
name: lake
source:
  file: {path: in.csv, format: csv}
decode: {format: json, schema: {mode: declared, fields: {id: int64, part: utf8, text: utf8}}}
sink:
  parquet:
    path: s3://bucket/lake
    partition: [$.part]
    rotate: {rows: 500}
    store: {endpoint: "ENDPOINT", region: us-east-1, allow_http: true, access_key_id: a, secret_access_key: "${SECRET:b}", spool: spool}
"""
KEYS = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1", "AWS_ALLOW_HTTP": "true"}


class Proxy(http.server.BaseHTTPRequestHandler):
    """Passes requests on; loses the answer of one in `one_of` puts and refuses one in `one_of` requests."""

    protocol_version = "HTTP/1.1"
    target = ("", 0)
    chance = random.Random(0)
    one_of = 0
    lost = refused = 0

    def relay(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.one_of and self.chance.randrange(self.one_of) == 0:
            Proxy.refused += 1
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        connection = http.client.HTTPConnection(*self.target)
        connection.request(self.command, self.path, body, dict(self.headers))
        answer = connection.getresponse()
        content = answer.read()
        if self.command == "PUT" and self.one_of and self.chance.randrange(self.one_of) == 0:
            Proxy.lost += 1
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "content-length", "connection", "date", "server"):
                self.send_header(name, value)
        self.send_header("Content-Length", answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = relay

    def log_message(self, *_: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A worker that was killed hears no answer."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    arguments = arguments.parse_args()
    print(f"objects: seed {arguments.seed}")
    chance = Proxy.chance = random.Random(arguments.seed)
    with object_store.served() as port:
        Proxy.target = ("127.0.0.1", port)
        proxy = Server(("127.0.0.1", 0), Proxy)
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        for number in range(arguments.rounds):
            one_round(number, chance, port, proxy.server_address[1])
        proxy.shutdown()
    print(f"objects: {arguments.rounds} rounds of two racing workers, {Proxy.lost} answers lost and {Proxy.refused} requests refused; every row once")


def one_round(number: int, chance: random.Random, port: int, proxy: int) -> None:
    endpoint = f"http://127.0.0.1:{proxy}"
    environment = os.environ | KEYS | {"AWS_ENDPOINT_URL": endpoint}
    target = f"s3://bucket/lake-{number}"
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        (folder / "in.csv").write_text("id,part,text\n" + "".join(f"{i},p{i % 3},{i:0150}\n" for i in range(ROWS)))
        (folder / "pipeline.yaml").write_text(CONFIG.replace("ENDPOINT", endpoint).replace("s3://bucket/lake", target))
        Proxy.one_of = 0
        checked = subprocess.run([SLUICE, "check", "pipeline.yaml"], cwd=folder, env=environment, capture_output=True, text=True)
        assert checked.returncode == 0 and "a name that is taken is kept" in checked.stdout, checked
        Proxy.one_of = 12

        def start(worker: int) -> subprocess.Popen:
            log = open(folder / f"log-{worker}", "ab")
            return subprocess.Popen([SLUICE, "run", "pipeline.yaml", "--no-broker", "--data-dir", f"data-{worker}"],
                                    cwd=folder, env=environment, stdout=log, stderr=log)

        workers = [start(0), start(1)]
        time.sleep(chance.random())
        workers[0].send_signal(signal.SIGKILL)
        workers[0].wait()
        workers[0] = start(0)
        for worker, process in enumerate(workers):
            assert process.wait(timeout=300) == 0, (folder / f"log-{worker}").read_text()
        Proxy.one_of = 0
        audit = subprocess.run([SLUICE, "audit", target, "--json"], cwd=folder, env=environment, capture_output=True, text=True)
        assert audit.returncode == 0, audit
        chain = json.loads(audit.stdout)["chains"][0]
        assert (chain["start"], chain["end"], chain["rows"]) == (0, ROWS, ROWS), chain
        store = pyarrow.fs.S3FileSystem(access_key="a", secret_key="b", region="us-east-1", scheme="http", endpoint_override=f"127.0.0.1:{port}")
        table = pyarrow.parquet.read_table(target.removeprefix("s3://"), filesystem=store)
        assert sorted(table["id"].to_pylist()) == list(range(ROWS)), f"{table.num_rows} rows"
        assert table.schema.names == ["id", "text", "part"], table.schema
        left = [path for path in (folder / "spool").rglob("*") if path.is_file()]
        assert not [path for path in left if "tmp-" in str(path) and not killed(path)], left
        print(f"objects: round {number}: {chain['plans']} plans, {chain['files']} files, {chain['rows']:,} rows, {chain['bytes']:,} bytes, proven", flush=True)


def killed(path: pathlib.Path) -> bool:
    """Whether a temporary file belongs to a process that is gone: the next run of the pipeline sweeps it."""
    pid = next(part for part in path.parts if part.startswith("tmp-")).split("-")[1]
    return not pathlib.Path(f"/proc/{pid}").exists()


if __name__ == "__main__":
    main()
