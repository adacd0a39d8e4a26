"""--sites: what became of the sockets of each call site. The test program knows how it closed each."""

import json
import os
import re
import shutil
import unittest

import harness
from harness import sockleak

# Ten connections. Of the accepted ones, seven are closed after the peer, one before it, and two
# never; the clients' ends are closed first nine times, and once after the server.
PROGRAM = r"""
#include <arpa/inet.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static int accept_client(int listener) {
    return accept(listener, NULL, NULL); // ACCEPT
}

static int connect_server(const struct sockaddr_in *address) {
    int s = socket(AF_INET, SOCK_STREAM, 0); // CONNECT
    return connect(s, (const struct sockaddr *)address, sizeof *address) ? -1 : s;
}

int main(int argc, char **argv) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t bytes = sizeof address;
    char byte;
    if (argc > 1 && fork() == 0)
        argc = 2;
    else if (argc > 1)
        wait(NULL);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    bind(listener, (struct sockaddr *)&address, bytes);
    listen(listener, 5);
    getsockname(listener, (struct sockaddr *)&address, &bytes);
    for (int i = 0; i < 10; i++) {
        int client = connect_server(&address), server = accept_client(listener);
        if (i == 3)
            usleep(60000); // it lives longer than the others
        if (i == 7) {
            close(server);
            read(client, &byte, 1);
            close(client);
            continue;
        }
        close(client);
        while (read(server, &byte, 1) > 0)
            ;
        if (i < 8)
            close(server);
    }
    close(listener);
    return 0;
}
"""


class Sites(harness.TestCase):
    def setUp(self):
        super().setUp()
        self.program = self.compile("sites", PROGRAM, "-O0")

    def line_of(self, mark):
        lines = PROGRAM.splitlines()
        return next(i for i, line in enumerate(lines, 1) if f"// {mark}" in line)

    def run_program(self, *arguments, options=()):
        ledgers = self.path("ledgers")
        done = sockleak("run", "--ledger-dir", ledgers, "--sites", *options, self.program, *arguments)
        self.assertEqual(done.returncode, 23, done.stderr)
        return done.stderr, ledgers

    def sites(self, ledgers):
        document = json.loads(sockleak("report", "--format=json", ledgers).stdout)
        return {site["stack"][0]["function"]: site for site in document["sites"]}

    def test_counts_are_those_of_the_program(self):
        _, ledgers = self.run_program()
        sites = self.sites(ledgers)
        accepted, made = sites["accept_client"], sites["connect_server"]
        for site, expected in (
            (accepted, {"opened": 10, "closed": 8, "closed_passive": 7, "closed_active": 1, "leaked": 2}),
            (made, {"opened": 10, "closed": 10, "closed_passive": 1, "closed_active": 9, "leaked": 0}),
        ):
            self.assertEqual({key: site[key] for key in expected}, expected)
            self.assertEqual((site["closed_reset"], site["closed_connecting"], site["open"]), (0, 0, 0))
        self.assertEqual(accepted["call"], "accept")
        self.assertEqual(accepted["stack"][0]["line"], self.line_of("ACCEPT"))
        self.assertEqual(made["stack"][0]["line"], self.line_of("CONNECT"))

    def test_lifetimes(self):
        _, ledgers = self.run_program()
        site = self.sites(ledgers)["accept_client"]
        self.assertEqual(sum(site["lifetimes"]), 8)
        self.assertGreaterEqual(site["lifetime_max_ms"], 60)
        median = site["lifetime_median_ms"]
        self.assertLess(median["from"], 60)  # seven of the eight
        self.assertLessEqual(median["to"], 60)

    def test_the_most_leaked_come_first(self):
        _, ledgers = self.run_program()
        document = json.loads(sockleak("report", "--format=json", ledgers).stdout)
        self.assertEqual([site["leaked"] for site in document["sites"]], [2, 0, 0])
        self.assertEqual([site["opened"] for site in document["sites"]], [10, 10, 1])

    def test_processes_are_summed(self):
        _, ledgers = self.run_program("twice")
        site = self.sites(ledgers)["accept_client"]
        self.assertEqual((site["opened"], site["closed_passive"], site["leaked"]), (20, 14, 4))

    def test_documents_and_ledgers_are_summed(self):
        _, ledgers = self.run_program()
        sockleak("report", f"--format=json:{self.path('saved.json')}", ledgers)
        shutil.rmtree(ledgers)
        self.run_program()
        done = sockleak("report", "--format=json", self.path("saved.json"), ledgers)
        sites = [s for s in json.loads(done.stdout)["sites"] if s["stack"][0]["function"] == "accept_client"]
        self.assertEqual([(s["opened"], s["closed"], s["leaked"]) for s in sites], [(20, 16, 4)])

    def test_table(self):
        text, _ = self.run_program()
        rows = re.findall(r"(?m)^==\d+== +2 +0 +10 +7 +1 +0 +0 +0 +\S+ ms +\d+ ms  accept_client "
                          r"\S*sites\.c:(\d+) \(accept\)$", text)
        self.assertEqual(rows, [str(self.line_of("ACCEPT"))])

    def test_no_table_unasked(self):
        text = sockleak("run", self.program).stderr
        self.assertNotIn("call sites", text)

    def test_a_live_process_has_them_too(self):
        process, _ = self.leaker("eof=3", preload=True)
        document = json.loads(sockleak("dump", "--format=json", "--sites", process.pid).stdout)
        opened = sorted(site["opened"] for site in document["sites"])
        self.assertEqual(sum(opened), 7)  # the listener, three clients, three accepted
        text = sockleak("dump", "--sites", "--threads", "--time-wait", process.pid).stdout
        self.assertIn("call sites", text)
        self.assertNotRegex(text, r"(?m)^==\d+==\n==\d+==$")  # one empty line between the parts
        self.assertEqual(sum(site["open"] + site["leaked"] for site in document["sites"]), 4)

    def test_a_process_without_the_library_has_none(self):
        process, _ = self.leaker("eof=1")
        done = sockleak("dump", "--sites", process.pid)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("no socket was seen born", done.stdout)


if __name__ == "__main__":
    harness.main()
