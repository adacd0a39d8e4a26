"""nginx: a master and two workers that serve files and proxy to an upstream, through a reload and a
graceful stop. It closes all it opens, so it must be as silent as bare."""

import http.client
import os
import re
import signal
import time

import harness
from harness import GRACE_MS

harness.need("nginx", "curl", "wrk")

CONFIG = """
daemon off;
master_process on;
worker_processes 2;
pid {directory}/nginx.pid;
error_log {directory}/error.log notice;
events {{ worker_connections 256; }}
http {{
    access_log {directory}/access.log;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    # Idle connections to the upstream are dropped by the upstream: FINs that wait in a pool.
    upstream behind {{ server 127.0.0.1:{upstream}; keepalive 4; }}
    server {{
        listen 127.0.0.1:{port};
        root {directory}/www;
        keepalive_timeout 65;
        location /behind/ {{
            proxy_pass http://behind/;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }}
    }}
    server {{
        listen 127.0.0.1:{upstream};
        root {directory}/www;
        keepalive_timeout 1;
    }}
}}
"""


class Nginx(harness.TestCase):
    def start_nginx(self, **settings):
        self.port, upstream = harness.free_port(), harness.free_port()
        self.write("www/page", "x" * 50_000)
        config = self.write("nginx.conf", CONFIG.format(directory=self.directory, port=self.port,
                                                        upstream=upstream))
        nginx = self.start(["nginx", "-p", self.directory, "-c", config, "-e", self.path("start.log")],
                           **settings)
        nginx.wait_listening(self.port)
        self.wait_workers(nginx)
        return nginx

    def wait_workers(self, nginx, retired=()):
        """Two new workers, and none of the retired ones."""
        return nginx.wait_for("two workers run", lambda: (
            workers := set(harness.children_of(nginx.pid))) and len(workers) == 2 and
            not workers & set(retired) and workers)

    def client(self, *argv):
        result = harness.run(list(argv), self.directory, preload=False)
        self.assertEqual(result.status, 0, result.stdout + result.stderr)
        return result.stdout

    def use(self, nginx):
        """Short and kept-alive connections, direct and through the proxy; a reload in between, with
        a client that stays connected through it."""
        page = f"http://127.0.0.1:{self.port}/page"
        behind = f"http://127.0.0.1:{self.port}/behind/page"
        stayed = http.client.HTTPConnection("127.0.0.1", self.port)
        stayed.request("GET", "/page")
        self.assertEqual(len(stayed.getresponse().read()), 50_000)

        for url in (page, behind):
            sizes = self.client("curl", "-sS", "-w", "%{http_code} %{size_download}\n",
                                *["-o", "/dev/null", url] * 20)
            self.assertEqual(sizes, "200 50000\n" * 20)
            summary = self.client("wrk", "-t1", "-c10", "-d1s", url)
            self.assertNotIn("Non-2xx", summary)
            self.client("wrk", "-t1", "-c10", "-d1s", "-H", "Connection: close", url)

        workers = self.wait_workers(nginx)
        nginx.signal(signal.SIGHUP)
        self.wait_workers(nginx, retired=workers)
        stayed.close()
        self.assertEqual(self.client("curl", "-sS", "-w", "%{http_code}", "-o", "/dev/null", behind),
                         "200")

    def log_problems(self):
        """What nginx itself complained about, such as a worker that died or a socket left open, and
        any line of ours: its stderr ends up here, too."""
        return [line for line in harness.read_text(self.path("error.log")).splitlines()
                if re.search(r"\[(warn|error|crit|alert|emerg)\]|^==\d+==", line)]

    def serve(self, preload, options=None):
        nginx = self.start_nginx(preload=preload, options=options)
        self.use(nginx)
        result = nginx.end(signal.SIGQUIT)
        return result, self.log_problems()

    def test_serves_reloads_and_stops_as_bare_and_leaks_nothing(self):
        bare, bare_problems = self.serve(preload=False)
        self.assertEqual(bare.status, 0)
        result, problems = self.serve(preload=True)
        self.assertSilent(result, bare)
        self.assertEqual(problems, bare_problems)

    def test_every_process_can_report_and_none_has_a_finding(self):
        os.mkdir(self.path("reports"))
        os.chmod(self.path("reports"), 0o1777)  # workers run as another user
        options = f"verbosity=1:log_path={self.path('reports')}/%p"
        nginx = self.start_nginx(options=options)
        pids = harness.tree_of(nginx.pid)
        # Idle connections through the proxy: after a second the upstream has closed its side.
        self.client("curl", "-sS", "-o", "/dev/null", "--parallel",
                    f"http://127.0.0.1:{self.port}/behind/page?[1-4]")
        nginx.end(signal.SIGQUIT)
        for pid in pids:
            reports, _ = harness.parse_reports(harness.read_text(self.path("reports", str(pid))))
            self.assertEqual([(r.leaks, r.summary["not_tracked"]) for r in reports], [([], 0)])

    def test_SIGUSR1_still_reopens_the_logs_and_finds_no_leak_in_a_kept_alive_connection(self):
        nginx = self.start_nginx()
        kept = http.client.HTTPConnection("127.0.0.1", self.port)
        self.addCleanup(kept.close)
        kept.request("GET", "/page")
        kept.getresponse().read()
        harness.wait_age(time.monotonic(), GRACE_MS + 100)
        os.rename(self.path("access.log"), self.path("old.log"))
        # The master passes it on to its workers by a message, so they get it once more from here.
        for pid in harness.tree_of(nginx.pid):
            os.kill(pid, signal.SIGUSR1)
        nginx.wait_for("the log was opened again", lambda: os.path.exists(self.path("access.log")))

        def reports():  # nginx has put its stderr there
            lines = harness.read_text(self.path("error.log")).splitlines(True)
            return harness.parse_reports("".join(line for line in lines if line.startswith("==")),
                                         unfinished=True)[0]
        nginx.wait_for("three reports", lambda: len([r for r in reports() if r.summary]) == 3)
        self.assertEqual([r.leaks for r in reports()], [[], [], []])
        self.assertEqual({r.pid for r in reports()}, set(harness.tree_of(nginx.pid)))
        kept.request("GET", "/page")
        self.assertEqual(len(kept.getresponse().read()), 50_000)


if __name__ == "__main__":
    harness.main()
