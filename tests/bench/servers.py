"""Real servers, a bare and a preloaded one at the same time on the same processor, with their clients:
processor time for each request, and throughput.

Where the loader puts a server is its luck for life, so after some turns there are two new ones. The
clients are never preloaded. A server's processor time is what the kernel's scheduler counted for all
threads of it and of its children (/proc/PID/task/TID/schedstat, nanoseconds).
"""

import contextlib
import glob
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time

from measure import (LOAD, QUICK, at_once, environment, missing, on, ratio_row, section)

SECONDS = 1
LIVES = 1 if QUICK else 5
PAIRS = 2 if QUICK else 5  # in each life
NODES_LIVES = 3 * LIVES  # its compiler and its collector work as they see fit: more of it, to be sure to 0.01
DEADLINE_S = 20
SBIN = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"

ASYNCIO = """
import asyncio, sys
async def serve(reader, writer):
    try:
        while True:
            head = await reader.readuntil(b"\\r\\n\\r\\n")
            close = b"close" in head.lower()
            writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 3\\r\\n%s\\r\\nok\\n" %
                         (b"Connection: close\\r\\n" if close else b""))
            await writer.drain()
            if close:
                break
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    writer.close()
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]), backlog=512)
    await server.serve_forever()
asyncio.run(main())
"""

NODE = """
require("http").createServer((request, response) => response.end("ok\\n"))
    .listen(+process.argv[2], "127.0.0.1", 511);
"""


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def family_of(pid):
    """The process and all that it started."""
    found, rest = [], [pid]
    while rest:
        pid = rest.pop()
        found.append(pid)
        for children in glob.glob(f"/proc/{pid}/task/*/children"):
            with open(children, encoding="ascii") as file:
                rest += [int(child) for child in file.read().split()]
    return found


def tasks_of(pid):
    for member in family_of(pid):
        for path in glob.glob(f"/proc/{member}/task/*"):
            yield path


def processor_seconds(pid):
    total = 0
    for path in tasks_of(pid):
        with open(path + "/schedstat", encoding="ascii") as file:
            total += int(file.read().split()[0])
    return total / 1e9


def settle(pid, processor):
    for path in tasks_of(pid):
        os.sched_setaffinity(int(os.path.basename(path)), {processor})


class Server:
    """A server process on a port of its own, for the length of a `with`."""

    def __init__(self, command, preloaded, backend=None):
        self.backend = backend
        self.place = tempfile.mkdtemp(prefix="sockleak-bench-")
        os.chmod(self.place, 0o755)
        self.port = free_port()
        words = command(self.place, self.port, *([backend.port] if backend else []))
        self.process = subprocess.Popen(words, cwd=self.place, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                        env=environment(preloaded, log_path=f"{self.place}/leaks.%p")
                                        if preloaded else environment(False))

    def __enter__(self):
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return self
            except ConnectionRefusedError:
                time.sleep(0.01)
        raise RuntimeError(f"{self.process.args[0]} does not listen")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.place, ignore_errors=True)


# --- servers ----------------------------------------------------------------------------------------

def write(place, name, text):
    path = os.path.join(place, name)
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
    return path


def nginx(place, port):
    write(place, "index.html", "ok\n")
    config = write(place, "nginx.conf", f"""
worker_processes 1; daemon off; pid {place}/pid; error_log /dev/null crit;
events {{ worker_connections 512; }}
http {{ access_log off; keepalive_requests 1000000;
  client_body_temp_path {place}/a; proxy_temp_path {place}/b; fastcgi_temp_path {place}/c;
  uwsgi_temp_path {place}/d; scgi_temp_path {place}/e;
  server {{ listen 127.0.0.1:{port} backlog=512; root {place}; }} }}
""")
    return [shutil.which("nginx", path=SBIN), "-c", config]


def haproxy(place, port, backend):
    config = write(place, "haproxy.cfg", f"""
global
    nbthread 1
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
frontend front
    bind 127.0.0.1:{port}
    default_backend back
backend back
    server nginx 127.0.0.1:{backend}
""")
    return [shutil.which("haproxy", path=SBIN), "-db", "-f", config]


def redis(_, port):
    return ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]


def memcached(_, port):
    return ["memcached", "-l", "127.0.0.1", "-p", str(port), "-t", "1", "-u", "nobody"]


def asyncio(place, port):
    return ["/usr/bin/python3", write(place, "server.py", ASYNCIO), str(port)]


def node(place, port):
    return ["node", write(place, "server.js", NODE), str(port)]


# --- clients: each answers how many requests were served -----------------------------------------------

def client(words, processor):
    return subprocess.run(on(processor, words), env=environment(False), capture_output=True, text=True,
                          check=True).stdout


def wrk(port, keep, processor):
    words = ["wrk", "-t1", "-c8", f"-d{SECONDS}s", f"http://127.0.0.1:{port}/"]
    done = client(words if keep else words[:1] + ["-H", "Connection: close"] + words[1:], processor)
    return int(re.search(r"(\d+) requests in", done).group(1))


def load(question, end):
    def ask(port, keep, processor):
        words = [LOAD, str(port), str(SECONDS), "keep" if keep else "short", question, end]
        return int(client(words, processor))
    return ask


def redis_benchmark(port, keep, processor):
    count = (40000 if keep else 12000) // (4 if QUICK else 1)
    client(["redis-benchmark", "-q", "-p", str(port), "-t", "get", "-c", "8", "-n", str(count),
            "-k", "1" if keep else "0"], processor)
    return count


def load_one(server, ask, keep, processor):
    """(microseconds of processor time for each request, requests a second)"""
    before, begun = processor_seconds(server.process.pid), time.perf_counter()
    served = ask(server.port, keep, processor)
    seconds = time.perf_counter() - begun
    return (processor_seconds(server.process.pid) - before) / served * 1e6, served / seconds


def of_a_life(command, ask, keep, backend):
    """What load_one says of the bare and of the preloaded one, turn by turn."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(
            Server(command, preloaded, backend and stack.enter_context(Server(backend, False))))
            for preloaded in (False, True)]

        def measure_one(preloaded, processor):
            server = servers[preloaded]
            settle(server.process.pid, processor)
            if server.backend:
                settle(server.backend.process.pid, processor)
            return load_one(server, ask, keep, processor)

        at_once(measure_one, 0)  # caches, and what is compiled as it runs
        for turn in range(PAIRS):
            yield at_once(measure_one, turn)


def compare(name, command, ask, keep, backend=None):
    lives = NODES_LIVES if command is node else LIVES
    taken = [both for _ in range(lives) for both in of_a_life(command, ask, keep, backend)]
    for i, (what, limit, at_least) in enumerate((("CPU a request, us", 1.03, False),
                                                 ("requests a second", 0.98, True))):
        bare, ours = ([both[side][i] for both in taken] for side in (0, 1))
        ratio_row(f"{name}: {what}", (bare, ours, [o / b for b, o in zip(bare, ours)]), limit,
                  at_least=at_least)


def measure():
    section("Servers")
    ping = load("get nothing\\r\\n", "END\\r\\n")
    plans = [("nginx, keep-alive", nginx, wrk, True), ("nginx, a connection a request", nginx, wrk, False)]
    if not QUICK:
        plans += [("redis, kept connections", redis, redis_benchmark, True),
                  ("redis, a connection a request", redis, redis_benchmark, False),
                  ("memcached, kept connections", memcached, ping, True),
                  ("memcached, a connection a request", memcached, ping, False),
                  ("asyncio server, keep-alive", asyncio, wrk, True),
                  ("asyncio server, a connection a request", asyncio, wrk, False),
                  ("Node http server, keep-alive", node, wrk, True),
                  ("Node http server, a connection a request", node, wrk, False)]
    for name, command, ask, keep in plans:
        program = {"asyncio": "python3", "redis": "redis-server"}.get(command.__name__, command.__name__)
        needed = [program] + {wrk: ["wrk"], redis_benchmark: ["redis-benchmark"]}.get(ask, [])
        absent = [each for each in needed if not shutil.which(each, path=SBIN)]
        if absent:
            missing(name, f"not installed: {', '.join(absent)}")
        else:
            compare(name, command, ask, keep)
    if QUICK or not all(shutil.which(each, path=SBIN) for each in ("haproxy", "nginx", "wrk")):
        return
    for name, keep in (("keep-alive", True), ("a connection a request", False)):
        compare(f"haproxy before nginx, {name}", haproxy, wrk, keep, nginx)
