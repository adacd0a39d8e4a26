"""IPv6, IPv4 in IPv6, Multipath TCP and AF_UNIX: each leaks, and is found with its addresses."""

import time

import harness
from harness import EXIT_GRACE_MS

harness.need("cc")


class Families(harness.TestCase):
    def leak(self, kind, *manner, **settings):
        """A server that has leaked three sockets, and the kernel's sockets of it."""
        server = self.start([harness.compile_c("families", self.directory), kind, *manner],
                            **settings)
        wait = lambda: "port" in server.stdout() or not server.running()
        harness.wait_until("the clients are gone", wait)
        if not server.running() and server.process.returncode == harness.SKIPPED:
            self.skipTest(f"this kernel has no {kind} sockets: {server.stderr().strip()}")
        return server

    def only_leak(self, result):
        self.assertEqual((result.status, result.other_stderr), (0, ""))
        finding = self.only_finding(self.only_report(result))
        self.assertEqual((finding.verdict, finding.count, str(finding.birth),
                          str(finding.end_of_stream)),
                         ("eof-ignored", 3, "accept:accept_client", "read:serve"))
        return finding

    def assertFoundAsInTheKernel(self, kind):
        server = self.leak(kind)
        kernel = server.wait_state("CLOSE_WAIT", 3)
        finding = self.only_leak(server.end())
        self.assertEqual([(s.fd, s.local, s.peer) for s in finding.sockets],
                         [(s.fd, s.local, s.peer) for s in kernel])
        return finding.sockets[0]

    def test_ipv6_is_found_with_its_addresses(self):
        self.assertRegex(self.assertFoundAsInTheKernel("inet6").local, r"^\[::1\]:\d+$")

    def test_ipv4_in_ipv6_is_found_with_its_addresses(self):
        self.assertRegex(self.assertFoundAsInTheKernel("mapped").local,
                         r"^\[::ffff:127\.0\.0\.1\]:\d+$")

    def test_multipath_tcp_is_found_with_its_addresses(self):
        # Its subflows are not in /proc/net/tcp under the socket's inode, so the fds are the truth.
        server = self.leak("mptcp")
        fds = sorted(harness.socket_inodes(server.pid))
        self.assertEqual(len(fds), 3)
        port = server.port()
        finding = self.only_leak(server.end())
        self.assertEqual([s.fd for s in finding.sockets], fds)
        for listed in finding.sockets:
            self.assertEqual(listed.local, f"127.0.0.1:{port}")
            self.assertRegex(listed.peer, r"^127\.0\.0\.1:\d+$")
            self.assertIn(" 0 bytes unread", listed.text)

    def test_multipath_tcp_whose_end_of_stream_another_thread_read_is_found(self):
        self.only_leak(self.leak("mptcp", "in-thread").end())

    def test_unread_ends_of_stream_are_found(self):
        for kind in ("inet6", "mptcp"):
            for manner, verdict, bytes_unread in (("unread", "fin-unread", 0),
                                                  ("unread-data", "data-unread", 5)):
                with self.subTest(kind=kind, verdict=verdict):
                    server = self.leak(kind, manner)
                    harness.wait_age(time.monotonic(), EXIT_GRACE_MS + 50)
                    finding = self.only_finding(self.only_report(server.end()))
                    self.assertEqual((finding.verdict, finding.count), (verdict, 3))
                    self.assertEqual(finding.birth.function, "accept_client")
                    self.assertIn(f" {bytes_unread} bytes unread", finding.sockets[0].text)

    def test_unix_sockets_are_found_where_asked_for(self):
        server = self.leak("unix", options="families=unix")
        fds = sorted(harness.socket_inodes(server.pid))
        finding = self.only_leak(server.end())
        self.assertEqual([s.fd for s in finding.sockets], fds)
        self.assertIn(" unix ", finding.sockets[0].text)

    def test_unread_ends_of_unix_sockets_are_found_when_they_are_older_than_the_grace(self):
        # Nothing tells when the peer went: the socket's own age is held against grace_ms.
        for manner, verdict in (("unread", "fin-unread"), ("unread-data", "data-unread")):
            with self.subTest(verdict):
                server = self.leak("unix", manner, options="families=unix:grace_ms=200")
                harness.wait_age(time.monotonic(), 250)
                finding = self.only_finding(self.only_report(server.end()))
                self.assertEqual((finding.verdict, finding.count), (verdict, 3))

    def test_unread_ends_of_young_unix_sockets_are_no_leaks(self):
        result = self.leak("unix", "unread", options="families=unix:grace_ms=3600000").end()
        self.assertEqual((result.status, result.stderr), (0, ""))

    def test_unix_sockets_are_not_reported_unasked(self):
        result = self.leak("unix").end()
        self.assertEqual((result.status, result.stderr), (0, ""))

    def test_families_unix_leaves_out_tcp(self):
        result = self.leak("inet6", options="families=unix").end()
        self.assertEqual((result.status, result.stderr), (0, ""))

    def test_families_all_finds_both(self):
        for kind in ("inet6", "unix"):
            with self.subTest(kind):
                self.only_leak(self.leak(kind, options="families=all").end())


if __name__ == "__main__":
    harness.main()
