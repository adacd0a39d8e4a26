"""The JVM: a class that leaks and classes that do not, compiled for the occasion."""

import os
import shutil
import signal
import subprocess
import tempfile
import time

import harness
from harness import EXIT_GRACE_MS, GRACE_MS

harness.need("java", "javac")


class Jvm(harness.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.classes = tempfile.mkdtemp(prefix="sockleak-e2e-classes-")
        cls.addClassCleanup(shutil.rmtree, cls.classes)
        sources = [os.path.join(harness.PROGRAMS, name + ".java") for name in ("EchoServer", "Clients")]
        subprocess.run(["javac", "-d", cls.classes, *sources], check=True)

    def java(self, *argv):
        return ["java", "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp", self.classes, *argv]

    def serve(self, kind, clients, **settings):
        server = self.start(self.java("EchoServer", kind), **settings)
        for _ in range(clients):
            self.assertEqual(harness.ask(server.port()), b"hello\n")
        return server, server.wait_state("CLOSE_WAIT", clients if kind == "leaking" else 0)

    def assertReported(self, report, kernel):
        finding = self.only_finding(report)
        self.assertEqual((finding.verdict, finding.count), ("eof-ignored", len(kernel)))
        self.assertEqual(sorted((s.fd, s.local, s.peer) for s in finding.sockets),
                         sorted((s.fd, s.local, s.peer) for s in kernel))
        self.assertGreater(len(finding.birth.frames), 0)
        self.assertGreater(len(finding.end_of_stream.frames), 0)

    def test_http_channels_timeouts_and_children_are_clean_and_as_bare(self):
        bare = harness.run(self.java("Clients"), self.directory, preload=False)
        self.assertEqual(bare.status, 0, bare.stderr)
        self.assertSilent(harness.run(self.java("Clients"), self.directory), bare)

    def test_a_server_that_closes_is_clean(self):
        server, _ = self.serve("clean", 5)
        server.wait_for("all connections are closed", lambda: len(server.sockets()) == 1)
        result = server.end()
        self.assertEqual((result.status, result.stderr), (0, ""))
        self.assertRegex(result.stdout, "(?m)^kept 0$")

    def test_sockets_kept_after_end_of_stream_are_found_and_the_exit_is_as_bare(self):
        bare, _ = self.serve("leaking", 5, preload=False)
        bare = bare.end()
        self.assertEqual(bare.status, 0)
        server, kernel = self.serve("leaking", 5)
        harness.wait_age(time.monotonic(), EXIT_GRACE_MS + 50)
        result = server.end()
        self.assertEqual((result.status, result.other_stderr), (0, bare.stderr))
        self.assertEqual(result.stdout.splitlines()[1:], bare.stdout.splitlines()[1:])
        self.assertReported(self.only_report(result), kernel)

    def test_SIGUSR1_reports_and_the_server_goes_on(self):
        server, kernel = self.serve("leaking", 4)
        harness.wait_age(time.monotonic(), GRACE_MS + 100)
        server.signal(signal.SIGUSR1)
        self.assertReported(server.wait_report(), kernel)
        self.assertEqual(harness.ask(server.port()), b"hello\n")

    def test_SIGTERM_still_runs_the_shutdown_of_the_jvm(self):
        bare, _ = self.serve("leaking", 2, preload=False)
        server, kernel = self.serve("leaking", 2)
        harness.wait_age(time.monotonic(), EXIT_GRACE_MS + 50)
        result = server.end(signal.SIGTERM)
        self.assertEqual(bare.end(signal.SIGTERM).status, 143)
        self.assertEqual(result.status, 143)
        self.assertReported(self.only_report(result), kernel)


if __name__ == "__main__":
    harness.main()
