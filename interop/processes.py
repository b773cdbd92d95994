"""Ports for servers that the checks start, and the end of those that they kill."""
import pathlib
import random
import socket
import time


def free_ports(count: int = 2) -> int:
    """A port that is free, and so are those after it."""
    while True:
        sockets = [socket.socket()]
        try:
            # Below those that the system gives to whoever connects, so that a server which is started again finds its own free.
            port = random.randrange(20_000, 32_000)
            sockets[0].bind(("127.0.0.1", port))
            for more in range(1, count):
                sockets.append(socket.socket())
                sockets[-1].bind(("127.0.0.1", port + more))
            return port
        except OSError:
            continue
        finally:
            for one in sockets:
                one.close()


def rocketmq_ports() -> dict[str, str]:
    """Where a real RocketMQ is to listen, as `peers` takes it: the broker also does two ports below its own and at the next."""
    return {"NAMESRV_PORT": str(free_ports(1)), "BROKER_PORT": str(free_ports(4) + 2)}


def killed(pid: int) -> None:
    """Waits until a process that was killed is gone, with all its threads: until the last one ends its ports still answer."""
    process = pathlib.Path(f"/proc/{pid}")
    try:
        while "zombie" not in (process / "status").read_text() or len(list((process / "task").iterdir())) > 1:
            time.sleep(0.05)
    except OSError:
        pass
