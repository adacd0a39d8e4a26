"""node: libuv reads with read() and closes with syscall(SYS_close)."""

import os
import signal
import time

import harness
from harness import GRACE_MS

harness.need("node")


def program(name):
    return os.path.join(harness.PROGRAMS, name)


class Node(harness.TestCase):
    def serve(self, kind, clients, **settings):
        """A server whose clients have all come and gone, and what the kernel has of them."""
        server = self.start(["node", program("half_open.js"), kind], **settings)
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

    def test_http_server_and_clients_are_clean_and_as_bare(self):
        argv = ["node", program("http_server.js")]
        bare = harness.run(argv, self.directory, preload=False)
        self.assertEqual(bare.status, 0, bare.stderr)
        self.assertSilent(harness.run(argv, self.directory), bare)

    def test_a_half_open_server_that_ends_its_side_is_clean(self):
        server, _ = self.serve("clean", 5)
        server.wait_for("all connections are closed", lambda: len(server.sockets()) == 1)
        result = server.end()
        self.assertEqual((result.status, result.stderr), (0, ""))
        self.assertRegex(result.stdout, "(?m)^ended 5$")

    def test_a_half_open_server_that_never_ends_its_side_is_found_at_exit(self):
        server, kernel = self.serve("leaking", 5)
        result = server.end()
        self.assertEqual((result.status, result.other_stderr), (0, ""))
        self.assertRegex(result.stdout, "(?m)^ended 5$")
        self.assertReported(self.only_report(result), kernel)

    def test_SIGTERM_is_death_by_SIGTERM_with_a_report(self):
        server, kernel = self.serve("leaking", 3)
        harness.wait_age(time.monotonic(), harness.EXIT_GRACE_MS + 50)
        result = server.end(signal.SIGTERM)
        self.assertEqual(harness.describe_status(result.status), "death by SIGTERM")
        self.assertReported(self.only_report(result), kernel)

    def test_SIGUSR1_still_starts_the_inspector_and_reports(self):
        # Node's own handler runs in a thread that waits for the signal.
        server, kernel = self.serve("leaking", 3, env={"NODE_OPTIONS": "--inspect-port=127.0.0.1:0"})
        harness.wait_age(time.monotonic(), GRACE_MS + 100)
        server.signal(signal.SIGUSR1)
        self.assertReported(server.wait_report(), kernel)
        server.wait_for("the inspector listens",
                        lambda: "Debugger listening on" in server.stderr())
        self.assertEqual(server.end().status, 0)


if __name__ == "__main__":
    harness.main()
