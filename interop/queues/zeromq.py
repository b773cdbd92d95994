"""Sockets of ZeroMQ, with pyzmq (libzmq) as the other side."""
import json
import pathlib
import signal
import subprocess

import zmq

import common
from common import bodies, check_lake, free_ports, lake, sluice, until

FRAMES = [[b"body alone"], [b"key", b"{}"], [b""], [b"k", b"between", b"\x00\xff", b"body"], [b"\x00odd first", b"body"], [b"", b"body"], [b"big", b"x" * 400_000]]


def end(process: subprocess.Popen, folder: pathlib.Path) -> None:
    """Ends a run as Ctrl-C does."""
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130, (folder / "log").read_text()


def pipe(scratch: pathlib.Path, messages: int) -> None:
    """PUSH -> Sluice -> PULL, with a topic between, and Sluice bound, then connected."""
    context = zmq.Context()
    for ours, theirs in [("bind", "connect"), ("connect", "bind")]:
        folder = scratch / f"zeromq-{ours}"
        folder.mkdir()
        port = free_ports(2)
        push, pull = context.socket(zmq.PUSH), context.socket(zmq.PULL)
        pull.RCVTIMEO = 30_000
        getattr(push, theirs)(f"tcp://127.0.0.1:{port}")
        getattr(pull, theirs)(f"tcp://127.0.0.1:{port + 1}")
        process = sluice(folder, f"""
name: in
source:
  zeromq: {{{ours}: 'tcp://127.0.0.1:{port}'}}
sink:
  topic: {{name: between}}
delivery: at_least_once
---
name: out
source:
  topic: {{name: between, until: forever}}
sink:
  zeromq: {{{ours}: 'tcp://127.0.0.1:{port + 1}'}}
delivery: at_least_once
""")
        for frames in FRAMES:
            push.send_multipart(frames)
        for frames in FRAMES:
            assert pull.recv_multipart() == frames
        for body in bodies(messages):
            push.send(body.encode())
        for body in bodies(messages):
            assert pull.recv() == body.encode()
        end(process, folder)
        push.close(0)
        pull.close(0)
    print(f"zeromq: frames of all sorts, and {messages:,} messages in their order, went PUSH -> Sluice -> PULL, bound and connected", flush=True)


def publish(scratch: pathlib.Path, messages: int) -> None:
    """PUB -> Sluice -> files, by prefix; and a topic -> Sluice -> SUB."""
    context = zmq.Context()
    folder = scratch / "zeromq-sub"
    folder.mkdir()
    xpub = context.socket(zmq.XPUB)
    xpub.SNDHWM = 0
    port = xpub.bind_to_random_port("tcp://127.0.0.1")
    process = sluice(folder, lake(f"zeromq: {{connect: 'tcp://127.0.0.1:{port}', socket: sub, prefixes: [orders.]}}"))
    assert xpub.recv() == b"\x01orders."
    for body in bodies(messages):
        xpub.send_multipart([b"other.1", b"{}"])
        xpub.send_multipart([b"orders.1", body.encode()])
    until("all in the files", lambda: len(list(folder.glob("lake/*.parquet"))) > 0 and count(folder) == messages)
    end(process, folder)
    assert check_lake(folder, messages) == 0
    folder = scratch / "zeromq-pub"
    folder.mkdir()
    port = free_ports(1)
    lines = "\n".join(json.dumps({"id": number, "kind": "even" if number % 2 == 0 else "odd"}) for number in range(messages))
    process = sluice(folder, f"""
name: out
source:
  topic: {{name: numbers, until: forever}}
sink:
  zeromq: {{bind: 'tcp://127.0.0.1:{port}', socket: pub}}
delivery: at_least_once
---
name: in
source:
  zeromq: {{bind: 'tcp://127.0.0.1:{free_ports(1)}'}}
sink:
  topic: {{name: numbers}}
delivery: at_least_once
""")
    xsub = context.socket(zmq.SUB)
    xsub.RCVHWM = 0
    xsub.RCVTIMEO = 30_000
    xsub.connect(f"tcp://127.0.0.1:{port}")
    xsub.subscribe(b"even")
    # A subscriber gets what is sent once it is there: send until something comes.
    into = context.socket(zmq.PUSH)
    into.connect(pushed(folder))
    while True:
        into.send_multipart([b"even", b"first"])
        try:
            xsub.RCVTIMEO = 200
            xsub.recv_multipart()
            break
        except zmq.Again:
            continue
    xsub.RCVTIMEO = 30_000
    for line in lines.splitlines():
        into.send_multipart([json.loads(line)["kind"].encode(), line.encode()])
    seen = []
    while len(seen) < (messages + 1) // 2:
        kind, body = xsub.recv_multipart()
        assert kind == b"even"
        if body != b"first":
            seen.append(json.loads(body)["id"])
    assert seen == list(range(0, messages, 2))
    end(process, folder)
    print(f"zeromq: PUB -> Sluice -> Parquet by prefix, and Sluice -> SUB: {messages:,} messages each, no other ones", flush=True)


def pushed(folder: pathlib.Path) -> str:
    """Where the second pipeline of the file is bound."""
    return (folder / "pipeline.yaml").read_text().split("bind: '")[2].split("'")[0]


def count(folder: pathlib.Path) -> int:
    return common.rows(folder, "count(*)")[0][0]
