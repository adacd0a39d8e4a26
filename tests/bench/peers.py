"""What people use today, on the same work, and what each can tell of a leak.

The work: connections opened and closed by one process, 25 frames deep. The cost is wall-clock time of
a connection, since strace and bpftrace work in processes of their own; start-up falls out, as the
difference of two runs.
"""

import shutil
import statistics
import subprocess
import tempfile
import time

from measure import (QUICK, WORKLOAD, environment, missing, own_network, preloading, row, section)

CONNECTIONS = 6000
RUNS = 1 if QUICK else 5

# Probes of libc's functions, and not tracepoints of system calls: not every kernel has those. The
# stack is taken on the way in, where the caller's frame can still be read.
BPFTRACE = """
uprobe:/lib/x86_64-linux-gnu/libc.so.6:socket,
uprobe:/lib/x86_64-linux-gnu/libc.so.6:accept,
uprobe:/lib/x86_64-linux-gnu/libc.so.6:accept4 /pid == cpid/ { @at[tid] = ustack; }
uretprobe:/lib/x86_64-linux-gnu/libc.so.6:socket,
uretprobe:/lib/x86_64-linux-gnu/libc.so.6:accept,
uretprobe:/lib/x86_64-linux-gnu/libc.so.6:accept4 /pid == cpid/ { @opened[retval] = @at[tid]; }
uprobe:/lib/x86_64-linux-gnu/libc.so.6:close /pid == cpid/ { delete(@opened[arg0]); }
"""

# name, words before the command, connections, what it tells: TCP state, stack, end of stream, age
PEERS = [
    ("sockleak", None, CONNECTIONS, "yes", "yes", "yes", "yes"),
    ("valgrind --track-fds=yes", ["valgrind", "--track-fds=yes", "--log-file=/dev/null"], 3000,
     "no", "opened at", "no", "no"),
    ("strace -f -e trace=network,close", ["strace", "-f", "-e", "trace=network,close", "-o", "/dev/null"],
     1000, "no", "no", "by hand", "with -ttt"),
    ("strace -k, the same", ["strace", "-f", "-k", "-e", "trace=network,close", "-o", "/dev/null"], 100,
     "no", "each call", "by hand", "with -ttt"),
    ("bpftrace, user stacks by fd", ["bpftrace", "-e", BPFTRACE, "-c"], CONNECTIONS,
     "no", "by frame pointers", "more probes", "more probes"),
    ("heaptrack, libunwind for each malloc", ["heaptrack", "-o", "{place}/heap"], CONNECTIONS,
     "no", "of memory only", "no", "no"),
]


def seconds(words, preloaded, count, place):
    command = preloading([WORKLOAD, "life", str(count), "25"], preloaded)
    if words and words[-1] == "-c":
        command = [*words, " ".join(command)]
    elif words:
        command = [word.format(place=place) if "{place}" in word else word for word in words] + command
    begun = time.perf_counter()
    done = subprocess.run(own_network(command), env=environment(False), capture_output=True, text=True,
                          check=False)
    if done.returncode != 0:
        raise RuntimeError((done.stderr.strip().splitlines() or ["failed"])[-1][:80])
    return time.perf_counter() - begun


def each_us(words, preloaded, count):
    with tempfile.TemporaryDirectory() as place:
        return statistics.median(
            (seconds(words, preloaded, 3 * count, place) - seconds(words, preloaded, count, place))
            / (2 * count) * 1e6 for _ in range(RUNS))


def measure():
    section("Peers: a connection, wall clock in us")
    bare_us = {}  # by the number of connections: the more TIME_WAITs, the dearer is the next one
    for name, words, count, *tells in PEERS:
        told = "state: {}, stack: {}, end of stream: {}, age: {}".format(*tells)
        if words and not shutil.which(words[0]):
            missing(name, "not installed")
            continue
        if count not in bare_us:
            bare_us[count] = each_us(None, False, count)
        bare = bare_us[count]
        try:
            ours = each_us(words, words is None, count)
        except RuntimeError as error:
            missing(name, f"not possible here: {error}")
            continue
        row(name, bare, ours, ours / bare, None, "times bare", told)
