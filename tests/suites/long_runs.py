"""Other people's servers and clients at work for a while: exit status, output, what failed, and a
report that has no false finding.

A long run is a function that is given a Pass and returns its outcomes; SUITE_SECONDS is for how
long each load goes on (5). Where a program's output varies, the outcome is what must not.
"""

import hashlib
import json
import os
import re
import shutil
import signal


import harness
from harness import free_port
from passes import HERE, PYTHON, WITNESSED

SECONDS = os.environ.get("SUITE_SECONDS", "5")
SUITES = []


class LongRun:
    witnessed_always = True
    run_below_command = True

    def __init__(self, name, needed, function):
        self.name, self.needed, self.function = name, needed, function

    def missing(self):
        absent = [name for name in self.needed if not harness.find_program(name)]
        if self.name == "long/ssh" and os.getuid() != 0:
            return "sshd without root logs in nobody"
        return f"not installed: {', '.join(absent)}" if absent else None

    def execute(self, run, _only=None):
        return self.function(run)


def long_run(*needed):
    def register(function):
        SUITES.append(LongRun("long/" + function.__name__.replace("_", "-"), needed, function))
        return function
    return register


# --- what they share ------------------------------------------------------------------------------


def status(result):
    return harness.describe_status(result.status)


def outcome(result):
    return f"{status(result)}, {result.stdout!r}, {result.stderr!r}"


def load(result, *trouble):
    """Of a client whose figures vary: its status, and the lines that tell of trouble."""
    lines = [line for line in (result.stdout + result.stderr).splitlines()
             if re.search("|".join(trouble), line)]
    return f"exit status {result.status}, {lines}"


def wrk(run, url, *more):
    return load(run.call(["wrk", "-t2", "-c20", f"-d{SECONDS}s", *more, url]), "Non-2xx",
                "Socket errors", "unable")


def key_and_certificate(run):
    key, certificate = run.path("key.pem"), run.path("certificate.pem")
    harness.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
                 "/CN=localhost", "-keyout", key, "-out", certificate], run.work, preload=False)
    return key, certificate


def problems_in(path):
    """Complaints in a server's log, without what varies."""
    lines = harness.read_text(path).splitlines() if os.path.exists(path) else ["no log"]
    return [re.sub(r"^.*?\[", "[", line) for line in lines
            if re.search(r"\[(warn|error|crit|alert|emerg)\]|^==\d+==", line)]


def send_in_portions(run, argv, data, times):
    """What a client printed that was sent so much, so many times."""
    outcomes = set()
    for _ in range(times):
        result = run.call(argv, stdin=data)
        same = result.stdout.encode() == data
        outcomes.add(f"{status(result)}, echo {'whole' if same else len(result.stdout)}, "
                     f"{result.stderr!r}")
    return sorted(outcomes)


# --- HTTP -----------------------------------------------------------------------------------------

NGINX = """
daemon off;
worker_processes 2;
pid {work}/nginx.pid;
error_log {work}/error.log notice;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {work}/body;
    proxy_temp_path {work}/proxy;
    fastcgi_temp_path {work}/fastcgi;
    uwsgi_temp_path {work}/uwsgi;
    scgi_temp_path {work}/scgi;
    upstream behind {{ server 127.0.0.1:{upstream}; keepalive 8; }}
    server {{
        listen 127.0.0.1:{port};
        root {work}/www;
        location /behind/ {{
            proxy_pass http://behind/;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }}
    }}
    server {{
        listen 127.0.0.1:{upstream};
        root {work}/www;
        keepalive_timeout 1;
    }}
}}
"""


def start_nginx(run):
    port, upstream = free_port(), free_port()
    os.chmod(run.directory, 0o755)
    run.write("www/page", "x" * 20_000)
    config = run.write("nginx.conf", NGINX.format(work=run.work, port=port, upstream=upstream))
    nginx = run.start(["nginx", "-p", run.work, "-c", config, "-e", run.path("start.log")])
    nginx.wait_listening(port)
    return nginx, port, upstream


def curl_many(run, url, count):
    result = run.call(["curl", "-sS", "--no-progress-meter", "--parallel", "--parallel-max", "40",
                       "-o", "/dev/null", "-w", "%{http_code} %{size_download}\n",
                       f"{url}?[1-{count}]"])
    codes = sorted(set(result.stdout.splitlines()))
    return f"{status(result)}, {result.stdout.count(chr(10))} answers {codes}, {result.stderr!r}"


@long_run("nginx", "curl", "wrk")
def nginx(run):
    """Files and a proxy, with short and long connections, through a reload."""
    server, port, _ = start_nginx(run)
    page, behind = (f"http://127.0.0.1:{port}/{path}" for path in ("page", "behind/page"))
    outcomes = {
        "kept connections": wrk(run, page),
        "short connections": wrk(run, page, "-H", "Connection: close"),
        "proxied": wrk(run, behind),
        "proxied, short": wrk(run, behind, "-H", "Connection: close"),
        "curl --parallel": curl_many(run, behind, 1000),
    }
    server.signal(signal.SIGHUP)
    outcomes["after the reload"] = curl_many(run, page, 1000)
    outcomes["end"] = outcome(server.end(signal.SIGQUIT))
    outcomes["log"] = problems_in(run.path("error.log"))
    return {name: str(value) for name, value in outcomes.items()}


HAPROXY = """
global
    maxconn 2000
    stats socket {work}/haproxy.sock mode 600 level admin expose-fd listeners
defaults
    mode {mode}
    timeout connect 5s
    timeout client 10s
    timeout server 10s
    timeout check 2s
listen front
    bind 127.0.0.1:{port}
    balance roundrobin
    {http}
    server one 127.0.0.1:{one} check inter 200
    server two 127.0.0.1:{two} check inter 200
"""


def start_haproxy(run, mode, one, two, http="", more=()):
    port = free_port()
    config = run.write("haproxy.cfg", HAPROXY.format(work=run.work, mode=mode, port=port, one=one,
                                                     two=two, http=http))
    haproxy = run.start(["haproxy", *more, "-f", config])
    haproxy.wait_listening(port)
    return haproxy, port


@long_run("haproxy", "nginx", "curl", "wrk")
def haproxy_http(run):
    """Before two servers, with health checks, reuse, and a reload that hands the listener over."""
    behind, one, two = start_nginx(run)
    server, port = start_haproxy(run, "http", one, two,
                                 "http-reuse always\n    option httpchk GET /page", ["-W", "-db"])
    url = f"http://127.0.0.1:{port}/page"
    outcomes = {
        "kept connections": wrk(run, url),
        "short connections": wrk(run, url, "-H", "Connection: close"),
        "curl --parallel": curl_many(run, url, 1000),
    }
    workers = set(harness.tree_of(server.pid))
    server.signal(signal.SIGUSR2)
    server.wait_for("a new worker", lambda: set(harness.tree_of(server.pid)) - workers)
    server.wait_listening(port)
    outcomes["after the reload"] = curl_many(run, url, 1000)
    server.signal(signal.SIGUSR1)  # its soft stop; and it asks for a report
    ending = server.end()
    outcomes["end"] = f"{status(ending)}, {ending.stdout!r}"
    outcomes["end of nginx"] = status(behind.end(signal.SIGQUIT))
    return outcomes


@long_run("haproxy", "redis-server", "redis-benchmark")
def haproxy_tcp(run):
    """Before one redis, twice; its clients hang up in all ways."""
    behind, redis_port = start_redis(run)
    server, port = start_haproxy(run, "tcp", redis_port, redis_port, more=["-db"])
    outcomes = {
        "kept connections": benchmark(run, port, "-n", "60000", "-t", "set,get"),
        "short connections": benchmark(run, port, "-n", "4000", "-k", "0", "-t", "ping_inline"),
    }
    ending = server.end(signal.SIGTERM)
    outcomes["end"] = f"{status(ending)}, {ending.stdout!r}"
    outcomes["end of redis"] = status(behind.end(signal.SIGTERM))
    return outcomes


@long_run("curl")
def curl_parallel(run):
    """Many transfers at once, from Python's threading server."""
    run.write("www/page", "y" * 50_000)
    server = run.start([PYTHON, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1",
                        "--directory", run.path("www")])
    port = int(server.wait_line(r"Serving HTTP on \S+ port (\d+) .*")[1])
    url = f"http://127.0.0.1:{port}/page"
    outcomes = {f"round {number}": curl_many(run, url, 400) for number in range(3)}
    outcomes["refused"] = re.sub(r"port \d+ after \d+ ms", "port", curl_many(
        run, f"http://127.0.0.1:{free_port()}/page", 3))
    ending = server.end(signal.SIGINT)
    answers = sorted(set(re.findall(r'" (\d+ \S+)$', ending.stderr, re.M)))
    outcomes["end"] = f"{status(ending)}, {answers}"
    return outcomes


# --- stores ---------------------------------------------------------------------------------------


def start_redis(run):
    port = free_port()
    server = run.start(["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir",
                        run.work, "--appendonly", "yes", "--logfile", run.path("redis.log")])
    server.wait_listening(port)
    return server, port


def benchmark(run, port, *more):
    result = run.call(["redis-benchmark", "-p", str(port), "-c", "50", "-q", *more])
    # What it prints on the way, it prints with \r.
    tests = re.findall(r"(?:^|\r)(\w[^:\r\n]*): [\d.]+ requests per second", result.stdout)
    return f"{status(result)}, {sorted(set(tests))}, {result.stderr!r}"


@long_run("redis-server", "redis-benchmark", "redis-cli")
def redis(run):
    """With an append-only file, a save in a child, a replica, and connections of all lengths."""
    server, port = start_redis(run)
    os.mkdir(run.path("replica"))
    replica_port = free_port()
    replica = run.start(["redis-server", "--port", str(replica_port), "--bind", "127.0.0.1",
                         "--dir", run.path("replica"), "--replicaof", "127.0.0.1", str(port)])
    replica.wait_listening(replica_port)
    outcomes = {
        "kept connections": benchmark(run, port, "-n", "100000", "-t", "set,get,incr,lpush,mset"),
        "pipelined": benchmark(run, port, "-n", "200000", "-P", "16", "-t", "set,get"),
        "short connections": benchmark(run, port, "-n", "5000", "-k", "0", "-t", "ping_inline"),
    }
    for command in ("set key value", "get key", "bgsave"):
        result = run.call(["redis-cli", "-p", str(port), *command.split()])
        outcomes[command] = outcome(result)
    server.wait_for("the child has saved", lambda: os.path.exists(run.path("dump.rdb")))
    replica.wait_for("the replica has it all", lambda: run.call(
        ["redis-cli", "-p", str(replica_port), "get", "key"]).stdout == "value\n")
    outcomes["end of the replica"] = status(replica.end(signal.SIGTERM))
    outcomes["end"] = outcome(server.end(signal.SIGTERM))
    return outcomes


@long_run("memcached")
def memcached(run):
    """Clients that quit, hang up and reset."""
    port = free_port()
    server = run.start(["memcached", "-l", "127.0.0.1", "-p", str(port), "-U", "0", "-t", "4",
                        *(["-u", "nobody"] if os.getuid() == 0 else [])])
    server.wait_listening(port)
    client = run.call([PYTHON, os.path.join(HERE, "programs", "memcached_client.py"), str(port),
                       SECONDS])
    return {"client": outcome(client), "end": outcome(server.end(signal.SIGTERM))}


# --- TLS ------------------------------------------------------------------------------------------


@long_run("openssl")
def openssl(run):
    """s_server -www, with s_client and s_time; and over DTLS."""
    key, certificate = key_and_certificate(run)
    port = free_port()
    server = run.start(["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-key", key, "-cert",
                        certificate, "-www", "-quiet"])
    server.wait_listening(port)
    address = f"127.0.0.1:{port}"
    pages = set()
    for _ in range(20):
        result = run.call(["openssl", "s_client", "-connect", address, "-CAfile", certificate,
                           "-quiet", "-ign_eof", "-servername", "localhost"],
                          stdin=b"GET / HTTP/1.0\r\n\r\n")
        pages.add(f"{status(result)}, {result.stdout.splitlines()[:1]}, "
                  f"{'</pre></BODY></HTML>' in result.stdout}")
    outcomes = {"s_client": str(sorted(pages))}
    for kind in ("-new", "-reuse"):
        result = run.call(["openssl", "s_time", "-connect", address, "-www", "/", kind, "-time",
                           SECONDS])
        outcomes[f"s_time {kind}"] = load(result, "[Ee]rror")
    outcomes["end"] = outcome(server.end(signal.SIGTERM))

    port = free_port()
    server = run.start(["openssl", "s_server", "-accept", str(port), "-4", "-dtls", "-key", key,
                        "-cert", certificate, "-naccept", "1", "-quiet"])
    server.wait_for("the DTLS port is bound", lambda: udp_port_is_bound(port))
    result = run.call(["openssl", "s_client", "-dtls", "-connect", f"127.0.0.1:{port}", "-CAfile",
                       certificate, "-quiet", "-no_ign_eof"], stdin=b"hello\n")
    outcomes["dtls client"] = f"{status(result)}, {result.stdout!r}"
    outcomes["dtls server"] = outcome(server.end())
    return outcomes


def udp_port_is_bound(port):
    with open("/proc/net/udp", encoding="ascii") as file:
        return any(int(line.split()[1].split(":")[1], 16) == port for line in file.readlines()[1:])


# --- relays ---------------------------------------------------------------------------------------

DATA = b"0123456789abcdef" * 20_000
SHORT = DATA[:6000]


@long_run("socat")
def socat(run):
    """A forking listener with a child on a socketpair, and a chain over a unix socket."""
    port, chained, path = free_port(), free_port(), run.path("socket")
    listeners = [
        run.start(["socat", f"TCP-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr", "EXEC:cat"]),
        run.start(["socat", f"UNIX-LISTEN:{path},fork", f"TCP:127.0.0.1:{port}"]),
        run.start(["socat", f"TCP-LISTEN:{chained},bind=127.0.0.1,fork,reuseaddr",
                   f"UNIX-CONNECT:{path}"]),
    ]
    listeners[0].wait_listening(port)
    listeners[2].wait_listening(chained)
    listeners[1].wait_for("the unix socket", lambda: os.path.exists(path))
    outcomes = {
        "direct": send_in_portions(run, ["socat", "-t10", "-", f"TCP:127.0.0.1:{port}"], DATA, 15),
        "chained": send_in_portions(run, ["socat", "-t10", "-", f"TCP:127.0.0.1:{chained}"], DATA,
                                    10),
        "refused": re.sub(r"^\S+ \S+ |\[\d+\]|:\d+:|[:\d.]+\d", "", outcome(run.call(
            ["socat", "-", f"TCP:127.0.0.1:{free_port()}"])).replace("\\n", "\n"), flags=re.M)
    }
    for number, listener in enumerate(listeners):
        outcomes[f"end {number}"] = outcome_without_time(listener.end(signal.SIGTERM))
    return {name: str(value) for name, value in outcomes.items()}


def outcome_without_time(result):
    """socat's messages begin with date, time and pid."""
    messages = re.sub(r"^\S+ \S+ socat\[\d+\] ", "", result.stderr, flags=re.M)
    return f"{status(result)}, {result.stdout!r}, {sorted(set(messages.splitlines()))}"


@long_run("ncat")
def ncat(run):
    """A listener that runs a program for each client, one that talks TLS, and a broker. Clients
    keep their end of stream to themselves: ncat gives up its program as soon as one comes."""
    echo = ["-e", f"/usr/bin/head -c {len(SHORT)}"]
    port, tls_port, broker_port = free_port(), free_port(), free_port()
    server = run.start(["ncat", "-l", "-k", "127.0.0.1", str(port), *echo])
    tls = run.start(["ncat", "-l", "-k", "--ssl", "127.0.0.1", str(tls_port), *echo])
    broker = run.start(["ncat", "-l", "--broker", "127.0.0.1", str(broker_port)])
    for program, each in ((server, port), (tls, tls_port), (broker, broker_port)):
        program.wait_listening(each)
    outcomes = {
        "echo": send_in_portions(run, ["ncat", "--no-shutdown", "127.0.0.1", str(port)], SHORT, 8),
        "echo over TLS": send_in_portions(run, ["ncat", "--no-shutdown", "--ssl", "127.0.0.1",
                                                str(tls_port)], SHORT, 3),
    }
    listener = run.start(["ncat", "--recv-only", "127.0.0.1", str(broker_port)])
    listener.wait_for("the broker has a client", lambda: [
        s for pid in harness.tree_of(broker.pid) for s in harness.sockets_of(pid)
        if s.state == "ESTABLISHED"])
    outcomes["sent to the broker"] = outcome(run.call(
        ["ncat", "--send-only", "127.0.0.1", str(broker_port)], stdin=b"news\n"))
    listener.wait_line("news")
    outcomes["end of the broker"] = status(broker.end(signal.SIGTERM))
    outcomes["end of its client"] = outcome(listener.end())
    outcomes["refused"] = outcome(run.call(["ncat", "127.0.0.1", str(free_port())]))
    for name, program in (("end", server), ("end of TLS", tls)):
        outcomes[name] = status(program.end(signal.SIGTERM))
    return {name: str(value) for name, value in outcomes.items()}


# --- files and shells -----------------------------------------------------------------------------


def make_tree(root, count=300):
    for number in range(count):
        path = os.path.join(root, f"{number % 17}", f"{number}")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(hashlib.sha256(str(number).encode()).digest() * (number * 7 % 900))


def digest(root):
    total = hashlib.sha256()
    for directory, _, names in sorted(os.walk(root)):
        for name in sorted(names):
            path = os.path.join(directory, name)
            total.update(os.path.relpath(path, root).encode())
            with open(path, "rb") as file:
                total.update(file.read())
    return total.hexdigest()


@long_run("rsync")
def rsync(run):
    """A daemon: up, again, changed, and down."""
    port = free_port()
    os.mkdir(run.path("store"))
    make_tree(run.path("source"))
    config = run.write("rsyncd.conf", f"use chroot = no\nuid = {os.getuid()}\ngid = {os.getgid()}\n"
                       f"[store]\npath = {run.path('store')}\nread only = no\n")
    server = run.start(["rsync", "--daemon", "--no-detach", "--config", config, "--port", str(port),
                        "--address", "127.0.0.1", "--log-file", run.path("rsyncd.log")])
    server.wait_listening(port)
    url = f"rsync://127.0.0.1:{port}/store/"
    outcomes = {}
    for step, source, target in (("up", "source/", url), ("again", "source/", url),
                                 ("down", url, "copy/")):
        outcomes[step] = outcome(run.call(
            ["rsync", "-a", "-c", "--out-format=%n", source, target], cwd=run.work))
    outcomes["files"] = digest(run.path("store")) + digest(run.path("copy"))
    failing = run.call(["rsync", "-a", url + "nowhere/", run.path("copy")])
    outcomes["no such directory"] = f"{status(failing)}, {len(failing.stderr.splitlines())} lines"
    outcomes["end"] = outcome(server.end(signal.SIGTERM))
    shutil.rmtree(run.path("source"))
    return outcomes


SSHD = """
ListenAddress 127.0.0.1
Port {port}
HostKey {work}/host_key
AuthorizedKeysFile {work}/user_key.pub
PidFile none
StrictModes no
UsePAM no
PermitRootLogin yes
Subsystem sftp internal-sftp
"""


@long_run("sshd", "ssh", "ssh-keygen", "scp")
def ssh(run):
    """Commands, a copy, a forwarded port, and sessions that share a connection."""
    port = free_port()
    for key in ("host_key", "user_key"):
        harness.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", run.path(key)], run.work,
                    preload=False)
    config = run.write("sshd_config", SSHD.format(port=port, work=run.work))
    os.makedirs("/run/sshd", exist_ok=True)  # where its unprivileged half is confined
    server = run.start(["sshd", "-D", "-e", "-f", config])
    server.wait_listening(port)
    options = ["-F", "none", "-i", run.path("user_key"), "-o", "StrictHostKeyChecking=no", "-o",
               f"UserKnownHostsFile={run.path('known_hosts')}", "-o", "LogLevel=ERROR"]
    there = ["-p", str(port), *options, "127.0.0.1"]
    outcomes = {"commands": str(sorted({outcome(run.call(
        ["ssh", *there, "cat; echo ready; exit 7"], stdin=b"input\n")) for _ in range(8)}))}
    run.write("file", "z" * 3_000_000)
    copy = run.call(["scp", "-q", "-P", str(port), *options, run.path("file"),
                     f"127.0.0.1:{run.path('file.copy')}"])
    outcomes["scp"] = outcome(copy) + str(os.path.getsize(run.path("file.copy")))

    forwarded = free_port()
    tunnel = run.start(["ssh", "-N", "-L", f"127.0.0.1:{forwarded}:127.0.0.1:{port}", *there])
    tunnel.wait_listening(forwarded)
    outcomes["forwarded"] = outcome(run.call(
        ["ssh", "-p", str(forwarded), *options, "127.0.0.1", "echo through"]))
    outcomes["end of the tunnel"] = outcome(tunnel.end(signal.SIGTERM))

    # A path of a socket is short.
    shared = ["-S", f"/tmp/sockleak-ssh-{os.getpid()}-{port}"]
    master = run.start(["ssh", "-M", "-N", *shared, *there])
    master.wait_for("the shared connection", lambda: os.path.exists(shared[1]))
    outcomes["shared"] = str(sorted({outcome(run.call(
        ["ssh", *shared, *there, "cat; echo shared"], stdin=b"x" * 1000)) for _ in range(5)}))
    outcomes["exit of the shared"] = outcome(run.call(["ssh", *shared, "-O", "exit", *there]))
    outcomes["end of the shared"] = outcome(master.end())
    outcomes["end"] = status(server.end(signal.SIGTERM))
    return outcomes


# --- load -----------------------------------------------------------------------------------------


@long_run("iperf3")
def iperf3(run):
    """TCP in one and both directions, backwards, over IPv6, and UDP."""
    outcomes = {}
    kinds = {"parallel": ["-P", "4"], "both ways": ["--bidir"], "backwards": ["-R"],
             "udp": ["-u", "-b", "50M"]}
    if os.path.exists("/proc/net/if_inet6"):
        kinds["ipv6"] = ["-6"]
    for name, more in kinds.items():
        port, host = free_port(), "::1" if name == "ipv6" else "127.0.0.1"
        server = run.start(["iperf3", "-s", "-1", "-p", str(port), "-B", host])
        server.wait_listening(port)
        client = run.call(["iperf3", "-J", "-c", host, "-p", str(port), "-t", SECONDS, *more])
        answer = json.loads(client.stdout)
        outcomes[name] = f"{status(client)}, {answer.get('error')}, {sorted(answer['end'])}"
        ending = server.end()
        outcomes[f"end of {name}"] = f"{status(ending)}, {ending.stderr!r}"
    return outcomes


STRESSORS = {
    "sock": ["--sock", "2"], "sock-ipv6": ["--sock", "1", "--sock-domain", "ipv6"],
    "sock-unix": ["--sock", "1", "--sock-domain", "unix"],
    "sock-sendmmsg": ["--sock", "1", "--sock-opts", "sendmmsg"],
    "sockabuse": ["--sockabuse", "1"], "sockdiag": ["--sockdiag", "1"],
    "sockfd": ["--sockfd", "2"], "sockmany": ["--sockmany", "1"], "sockpair": ["--sockpair", "2"],
    "epoll": ["--epoll", "1"], "udp": ["--udp", "1"], "close": ["--close", "1"],
    "dup": ["--dup", "1"], "netlink-proc": ["--netlink-proc", "1"], "rawsock": ["--rawsock", "1"],
    "rawudp": ["--rawudp", "1"], "udp-flood": ["--udp-flood", "1"],
    "vforkmany": ["--vforkmany", "1"],
}


@long_run("stress-ng")
def stress_ng(run):
    """Its socket stressors, and those that race over descriptors."""
    outcomes = {}
    for name, arguments in STRESSORS.items():
        # Its chain of thousands of vforked processes is too much for a tracer.
        if name == "vforkmany" and run.mode == WITNESSED:
            continue
        result = run.call(["stress-ng", *arguments, "--timeout", "2", "--temp-path", run.work])
        lines = [re.sub(r"\[\d+\]|in [\d.]+s|\d+\.\d+ secs", "", line)
                 for line in (result.stdout + result.stderr).splitlines()]
        outcomes[name] = f"{status(result)}, " + str(sorted(
            {line for line in lines if re.search("fail|error|skipped|passed|successful", line)}))
    return outcomes
