"""curl as a client: parallel, aborted and refused downloads. It closes all it opens."""

import http.server
import os
import threading
import time

import harness

harness.need("curl")

BODY = b"y" * 40_000


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path.startswith("/page"):
            self.answer(len(BODY), BODY)
        elif self.path.startswith("/short"):  # hangs up in the middle of its answer
            self.answer(2 * len(BODY), BODY)
            self.close_connection = True
        elif self.path.startswith("/last"):  # closes after it, as HTTP/1.1 allows
            self.answer(len(BODY), BODY, ("Connection", "close"))
        elif self.path.startswith("/endless"):
            self.answer(1 << 40, b"")
            try:
                while True:
                    self.wfile.write(b"z" * 1000)
                    time.sleep(0.01)
            except OSError:
                self.close_connection = True

    def answer(self, length, body, *headers):
        self.send_response(200)
        for name, value in (("Content-Length", str(length)), *headers):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


class Curl(harness.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server(("127.0.0.1", 0), Handler)
        cls.url = f"http://127.0.0.1:{cls.server.server_address[1]}"
        threading.Thread(target=cls.server.serve_forever, daemon=True).start()

    @classmethod
    def tearDownClass(cls):
        cls.server.shutdown()
        cls.server.server_close()

    def assertAsBare(self, status, *argv):
        argv = ["curl", "-s", *argv]
        bare = harness.run(argv, self.directory, preload=False)
        self.assertEqual(bare.status, status, bare.stderr)
        result = harness.run(argv, self.directory)
        self.assertEqual((result.status, result.stdout, result.reports), (status, bare.stdout, []))

    def test_one_download_is_as_bare(self):
        self.assertAsBare(0, f"{self.url}/page")

    def test_a_hundred_parallel_downloads_are_clean(self):
        self.assertAsBare(0, "--parallel", "--parallel-max", "40", "-o", self.path("page.#1"),
                          f"{self.url}/page?[1-100]")
        self.assertEqual(len([n for n in os.listdir(self.directory) if n.startswith("page.")]), 100)

    def test_connections_that_the_server_closed_and_curl_pooled_are_clean(self):
        self.assertAsBare(0, *[f"{self.url}/{kind}?[1-10]" for kind in ("last", "page", "last")])

    def test_a_name_that_is_resolved_by_a_thread_is_clean(self):
        self.assertAsBare(0, "-4", f"{self.url.replace('127.0.0.1', 'localhost')}/page")

    def test_a_truncated_download_fails_as_bare(self):
        self.assertAsBare(18, "-o", "/dev/null", f"{self.url}/short")

    def test_a_time_out_in_the_middle_fails_as_bare(self):
        self.assertAsBare(28, "-m", "0.3", "-o", "/dev/null", f"{self.url}/endless")

    def test_an_aborted_parallel_download_fails_as_bare(self):
        # Its own output is a full device: all transfers are dropped in the middle.
        self.assertAsBare(23, "--parallel", "--fail-early", "-o", "/dev/full",
                          f"{self.url}/page?[1-20]")

    def test_a_refused_connection_fails_as_bare(self):
        self.assertAsBare(7, f"http://127.0.0.1:{harness.free_port()}/")


if __name__ == "__main__":
    harness.main()
