"""redis-server under redis-benchmark, with clients that hang up in all ways; and its tools."""

import os
import signal
import time

import harness
from harness import GRACE_MS

harness.need("redis-server", "redis-benchmark", "redis-cli")


class Redis(harness.TestCase):
    def start_redis(self, **settings):
        self.port = harness.free_port()
        server = self.start(["redis-server", "--port", str(self.port), "--bind", "127.0.0.1",
                             "--save", "", "--dir", self.directory, "--logfile",
                             self.path("redis.log")], **settings)
        server.wait_listening(self.port)
        return server

    def tool(self, name, *argv, preload):
        result = harness.run([name, "-p", str(self.port), *argv], self.directory, preload=preload)
        self.assertEqual((result.status, result.reports), (0, []), result.stdout)
        return result.stdout

    def serve(self, preload):
        server = self.start_redis(preload=preload)
        self.tool("redis-benchmark", "-c", "50", "-n", "20000", "-q", "-t", "set,get",
                  preload=preload)
        self.tool("redis-benchmark", "-c", "50", "-n", "2000", "-k", "0", "-q", "-t", "ping_inline",
                  preload=preload)
        answers = [self.tool("redis-cli", *command.split(), preload=preload)
                   for command in ("set key value", "get key", "config get maxclients")]
        # The child that saves is forked with clients connected, and they hang up while it runs.
        clients = [harness.connect(self.port) for _ in range(5)]
        answers.append(self.tool("redis-cli", "bgsave", preload=preload))
        for client in clients:
            client.close()
        server.wait_for("the child has saved", lambda: os.path.exists(self.path("dump.rdb")))
        os.remove(self.path("dump.rdb"))
        # SHUTDOWN closes redis-cli's connection instead of answering.
        shutdown = harness.run(["redis-cli", "-p", str(self.port), "shutdown", "nosave"],
                               self.directory, preload=preload)
        self.assertEqual((shutdown.status, shutdown.stderr), (0, ""))
        server.process.wait(harness.DEADLINE_S)
        return server.end(), answers

    def test_server_benchmark_and_cli_are_clean_and_as_bare(self):
        bare, bare_answers = self.serve(preload=False)
        self.assertEqual(bare.status, 0)
        result, answers = self.serve(preload=True)
        self.assertSilent(result, bare)
        self.assertEqual(answers, bare_answers)

    def test_SIGTERM_still_shuts_down_in_order(self):
        bare = self.start_redis(preload=False).end(signal.SIGTERM)
        self.assertSilent(self.start_redis().end(signal.SIGTERM), bare)

    def test_SIGUSR1_finds_no_leak_in_idle_clients(self):
        server = self.start_redis()
        clients = [harness.connect(self.port) for _ in range(5)]
        server.wait_state("ESTABLISHED", 5)
        for client in clients[:3]:
            client.close()
        server.wait_state("ESTABLISHED", 2)
        harness.wait_age(time.monotonic(), GRACE_MS + 100)
        server.signal(signal.SIGUSR1)
        report = server.wait_report()
        self.assertEqual((report.leaks, report.summary["open"]), ([], 2))
        for client in clients[3:]:
            client.close()


if __name__ == "__main__":
    harness.main()
