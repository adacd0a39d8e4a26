"""Debian's Python: http.server, asyncio, subprocess, multiprocessing, and a server that leaks."""

import os
import signal
import time

import harness
from harness import EXIT_GRACE_MS, GRACE_MS, PYTHON

harness.need(PYTHON)


def program(name):
    return os.path.join(harness.PROGRAMS, name)


def addresses(sockets):
    return sorted((s.fd, s.local, s.peer) for s in sockets)


class CleanPrograms(harness.TestCase):
    def run_both(self, *argv):
        bare = harness.run([PYTHON, *argv], self.directory, preload=False)
        self.assertEqual(bare.status, 0, bare.stderr)
        return harness.run([PYTHON, *argv], self.directory), bare

    def test_asyncio_server_and_clients_are_clean(self):
        self.assertSilent(*self.run_both(program("asyncio_peers.py")))

    def test_two_hundred_children_of_subprocess_are_clean(self):
        self.assertSilent(*self.run_both(program("children.py"), "0"))

    def test_multiprocessing_by_fork_is_clean(self):
        self.assertSilent(*self.run_both(program("pools.py"), "fork"))

    def test_multiprocessing_by_spawn_is_clean(self):
        self.assertSilent(*self.run_both(program("pools.py"), "spawn"))

    def test_multiprocessing_by_forkserver_is_clean(self):
        self.assertSilent(*self.run_both(program("pools.py"), "forkserver"))

    def serve_files(self, preload):
        """http.server with 30 clients, half of which hang up early; ended by SIGINT."""
        server = self.start([PYTHON, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"],
                            preload=preload, cwd=os.path.join(self.directory, "www"))
        port = int(server.wait_line(r"Serving HTTP on 127\.0\.0\.1 port (\d+) .*")[1])

        def get(whole):
            with harness.connect(port) as client:
                client.sendall(b"GET /page HTTP/1.0\r\n\r\n")
                if whole:
                    data = client.makefile("rb").read()
                    self.assertTrue(data.endswith(b"\r\n\r\n" + b"x" * 300_000))

        # Not more at a time than its listener queues (5): those would be reset unserved.
        harness.in_threads(5, lambda number: [get(whole=n % 2) for n in range(6)])
        server.wait_for("30 requests are logged",
                        lambda: server.stderr().count('"GET /page HTTP/1.0" 200') == 30)
        server.wait_for("all connections are closed", lambda: len(server.sockets()) == 1)
        result = server.end(signal.SIGINT)
        return result.status, result.stdout.replace(str(port), "N"), result.reports

    def test_http_server_is_clean(self):
        self.write("www/page", "x" * 300_000)
        bare = self.serve_files(preload=False)
        self.assertEqual(bare[0], 0)
        self.assertEqual(self.serve_files(preload=True), bare)

    def test_an_echo_server_that_closes_is_clean(self):
        server = self.start([PYTHON, program("server.py"), "clean"])
        port = server.port()
        harness.in_threads(20, lambda number: harness.ask(port))
        server.wait_for("all connections are closed", lambda: len(server.sockets()) == 1)
        result = server.end()
        self.assertEqual((result.status, result.stderr), (0, ""))


class LeakingServer(harness.TestCase):
    def start_with_leaks(self, count, *arguments, **settings):
        """The server, and its `count` sockets in CLOSE_WAIT as the kernel knows them."""
        server = self.start([PYTHON, program("server.py"), "leaking", *arguments], **settings)
        return server, self.leak(server, count)

    def leak(self, server, count):
        port = server.port()
        before = {s.fd for s in server.sockets("CLOSE_WAIT")}
        for _ in range(count):
            self.assertEqual(harness.ask(port), b"hello\n")
        sockets = server.wait_state("CLOSE_WAIT", len(before) + count)
        return [s for s in sockets if s.fd not in before]

    def assertReported(self, report, kernel):
        """One finding: exactly these sockets, and what a Python program's leak looks like."""
        finding = self.only_finding(report)
        self.assertEqual((finding.verdict, finding.count), ("eof-ignored", len(kernel)))
        self.assertEqual(addresses(finding.sockets), addresses(kernel))
        self.assertEqual((finding.birth.call, finding.end_of_stream.call), ("accept4", "recv"))
        self.assertGreater(len(finding.birth.frames), 1)
        self.assertGreater(len(finding.end_of_stream.frames), 1)

    def test_every_kept_connection_is_found_at_exit(self):
        server, kernel = self.start_with_leaks(7)
        result = server.end()
        self.assertEqual(result.status, 0)
        self.assertRegex(result.stdout, "(?m)^kept 7$")
        self.assertEqual(result.other_stderr, "")
        self.assertReported(self.only_report(result), kernel)

    def test_what_the_interpreter_closes_at_its_end_is_no_leak(self):
        server, _ = self.start_with_leaks(7, "127.0.0.1", "finalize")
        result = server.end()
        self.assertEqual((result.status, result.stderr), (0, ""))
        self.assertRegex(result.stdout, "(?m)^kept 7$")

    def test_SIGUSR1_reports_exactly_what_the_kernel_has_in_CLOSE_WAIT_for_longer_than_grace(self):
        server, old = self.start_with_leaks(6, options="max_sockets=100")
        for attempt in range(1, 6):
            harness.wait_age(time.monotonic(), GRACE_MS + 100)
            began = time.monotonic()
            young = self.leak(server, 4)
            server.signal(signal.SIGUSR1)
            report = server.wait_report(attempt)
            if time.monotonic() - began < GRACE_MS / 1000:
                break
            old += young  # on a busy machine they may have been too old for this: once more
        else:
            self.fail("this machine is too slow to have a socket younger than the grace period")
        self.assertReported(report, old)
        self.assertEqual(report.when, "at SIGUSR1 in")
        self.assertEqual(report.summary["open"], len(young))

        harness.wait_age(time.monotonic(), GRACE_MS + 100)
        server.signal(signal.SIGUSR1)
        report = server.wait_report(attempt + 1)
        self.assertReported(report, server.sockets("CLOSE_WAIT"))
        self.assertEqual(report.close_wait, len(old) + len(young))
        self.assertEqual(harness.ask(server.port()), b"hello\n")  # it serves as before
        self.assertEqual(server.end().status, 0)

    def test_SIGUSR1_with_no_leak_says_so_and_the_server_goes_on(self):
        server, _ = self.start_with_leaks(0)
        with harness.connect(server.port()) as client:
            server.wait_state("ESTABLISHED", 1)
            server.signal(signal.SIGUSR1)
            report = server.wait_report()
            self.assertEqual((report.findings, report.summary["open"]), ([], 1))
            client.sendall(b"still here\n")
            self.assertEqual(client.recv(100), b"still here\n")

    def test_SIGTERM_is_death_by_SIGTERM_as_bare_with_a_report(self):
        bare, _ = self.start_with_leaks(3, preload=False)
        self.assertEqual(bare.end(signal.SIGTERM).status, -signal.SIGTERM)

        server, kernel = self.start_with_leaks(3)
        harness.wait_age(time.monotonic(), EXIT_GRACE_MS + 50)
        result = server.end(signal.SIGTERM)
        self.assertEqual(harness.describe_status(result.status), "death by SIGTERM")
        self.assertReported(self.only_report(result), kernel)
        self.assertEqual(result.reports[0].when, "at SIGTERM in")

    def test_SIGINT_is_KeyboardInterrupt_as_bare(self):
        bare, _ = self.start_with_leaks(2, preload=False)
        bare = bare.end(signal.SIGINT)
        server, _ = self.start_with_leaks(2)
        result = server.end(signal.SIGINT)
        self.assertEqual(bare.status, -signal.SIGINT)
        self.assertEqual(result.status, bare.status)
        self.assertIn("KeyboardInterrupt", result.other_stderr)

    def test_SIGKILL_says_nothing(self):
        server, _ = self.start_with_leaks(2)
        result = server.end(signal.SIGKILL)
        self.assertEqual((result.status, result.stderr), (-signal.SIGKILL, ""))

    def test_a_handler_that_the_program_sets_for_SIGUSR1_still_runs(self):
        script = ("import signal, sys\n"
                  "signal.signal(signal.SIGUSR1, lambda *a: print('handled', flush=True))\n"
                  "sys.argv = ['server.py', 'leaking']\n"
                  f"exec(open({program('server.py')!r}).read())\n")
        server = self.start([PYTHON, "-c", script])
        kernel = self.leak(server, 2)
        harness.wait_age(time.monotonic(), GRACE_MS + 100)
        server.signal(signal.SIGUSR1)
        self.assertReported(server.wait_report(), kernel)
        server.wait_line("handled")

    def test_children_that_close_in_a_vfork_child_hide_no_leak(self):
        argv = [PYTHON, program("children.py"), "5"]
        bare = self.start(argv, preload=False)
        bare.port()
        bare = bare.end()
        server = self.start(argv)
        server.port()
        kernel = server.wait_state("CLOSE_WAIT", 5)
        result = server.end()
        self.assertSame(result, bare)
        report = self.only_report(result)
        self.assertEqual(report.pid, result.pid)
        self.assertEqual(report.summary["closed"] >= 6, True, report.text)
        self.assertReported(report, kernel)

    def test_data_that_was_never_read_is_found(self):
        script = ("import os, socket, sys\n"
                  "listener = socket.create_server(('127.0.0.1', 0))\n"
                  "print('port', listener.getsockname()[1], flush=True)\n"
                  "kept = [listener.accept()[0] for _ in range(3)]\n"
                  "sys.stdin.read(); os._exit(0)\n")
        server = self.start([PYTHON, "-c", script])
        for _ in range(3):
            with harness.connect(server.port()) as client:
                client.sendall(b"unread")
        server.wait_state("CLOSE_WAIT", 3)
        harness.wait_age(time.monotonic(), EXIT_GRACE_MS + 50)
        finding = self.only_finding(self.only_report(server.end()))
        self.assertEqual((finding.verdict, finding.count), ("data-unread", 3))
        self.assertRegex(finding.sockets[0].text, "[67] bytes unread")


if __name__ == "__main__":
    harness.main()
