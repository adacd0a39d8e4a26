"""GLib's own tests of sockets, D-Bus, streams, processes and main loops (libglib2.0-tests)."""

import os
import re

import harness
from passes import PYTHON  # noqa: F401  (the order of sys.path)

DIRECTORY = "/usr/libexec/installed-tests/glib"
# gsubprocess among them starts its children with file actions, and hands sockets over.
PROGRAMS = ("socket", "socket-listener", "socket-service", "socket-address", "gsocketclient-slow",
            "network-address", "network-monitor", "proxy-test", "tls-certificate", "unix-fd",
            "unix-streams", "gdbus-peer", "gdbus-connection", "gdbus-auth", "gdbus-server-auth",
            "gdbus-non-socket", "gdbus-connection-flush", "gdbus-close-pending", "gdbus-sasl",
            "gsubprocess", "spawn-multithreaded", "spawn-singlethread", "pollable",
            "converter-stream", "async-splice-output-stream", "async-close-output-stream",
            "credentials", "task", "unix", "mainloop", "thread-pool", "resolver-parsing",
            "simple-proxy", "readwrite")

TAP = re.compile(r"^\s*(ok|not ok) \d+ (\S+)(.*)$", re.M)


class GLib:
    name = "glib"
    witnessed_always = False
    run_below_command = False

    @staticmethod
    def missing():
        return None if os.path.isdir(DIRECTORY) else "libglib2.0-tests is not installed"

    @staticmethod
    def execute(run, only=None):
        outcomes = {}
        for program in PROGRAMS:
            if only and not any(name.startswith(program + ":") for name in only):
                continue
            result = run.call([os.path.join(DIRECTORY, program), "--tap"], cwd=DIRECTORY)
            for verdict, test, rest in TAP.findall(result.stdout):
                outcomes[f"{program}:{test}"] = "fail" if verdict == "not ok" else \
                    "skip" if "# SKIP" in rest else "ok"
            outcomes[f"{program}:exit"] = harness.describe_status(result.status)
        return outcomes


SUITES = [GLib()]
