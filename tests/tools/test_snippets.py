"""The snippets of the README's quick start, each run as it stands in snippets/, on a small project
that leaks and then on the same project mended. Those whose tool is not installed are skipped."""

import json
import os
import shutil
import socket
import subprocess
import textwrap
import time
import unittest

import harness
from harness import PYTHON, ROOT

SNIPPETS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "snippets")
SECTION = "## The sockleak command"

try:
    import yaml
except ImportError:
    yaml = None
try:
    import pytest
except ImportError:
    pytest = None


def snippet(name):
    return harness.read(os.path.join(SNIPPETS, name))


class SnippetCase(harness.TestCase):
    """self.project is a directory with the example's source, and `sockleak` is in PATH."""

    def setUp(self):
        super().setUp()
        self.project = self.path("project")
        os.mkdir(self.project)
        os.mkdir(self.path("bin"))
        os.symlink(harness.SOCKLEAK, self.path("bin/sockleak"))
        shutil.copy(os.path.join(ROOT, "examples/peer.h"), self.project)
        self.put_source("forgotten_close")

    def put_source(self, example):
        """server_test.c of the project: forgotten_close leaks, clean_half_close does not."""
        shutil.copy(os.path.join(ROOT, "examples", example + ".c"), os.path.join(self.project, "server_test.c"))

    def put(self, name, text):
        self.write(os.path.join("project", name), text)

    def put_makefile(self, more=""):
        self.put("Makefile", "CFLAGS = -g\nLDLIBS = -pthread\ncheck test: server_test\n\t./server_test\n" + more)

    def run_line(self, line, **env):
        env = {"PATH": self.path("bin") + ":" + os.environ["PATH"], **env}
        return subprocess.run(["bash", "-e", "-c", line], cwd=self.project, stdin=subprocess.DEVNULL,
                              env=harness.clean_environment(**env), capture_output=True, text=True,
                              timeout=120, check=False)

    def run_ok(self, line, **env):
        done = self.run_line(line, **env)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done

    def check_both(self, line, prepare="true", status=None):
        """Fails on the project that leaks, and not on the mended one."""
        self.run_ok(prepare)
        done = self.run_line(line)
        output = done.stdout + done.stderr
        self.assertNotEqual(done.returncode, 0, output)
        if status is not None:
            self.assertEqual(done.returncode, status, output)
        self.put_source("clean_half_close")
        self.run_ok(prepare)
        self.run_ok(line)
        return output


class Shell(SnippetCase):
    SERVER = """
#define _GNU_SOURCE // accept4
#include <arpa/inet.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
int main(int argc, char **argv) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[argc - 1]))};
    int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 8)) return 1;
    for (;;) { char c; int s = accept4(listener, 0, 0, 0); while (read(s, &c, 1) > 0) ; }
}
"""

    @unittest.skipUnless(shutil.which("pidof"), "pidof is not installed")
    def test_interactive(self):
        run, dump, scan = snippet("interactive.sh").splitlines()
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        # A name of its own: another `server` may run on this machine.
        name = f"server{os.getpid()}"
        shutil.copy(self.compile("server", self.SERVER), os.path.join(self.project, name))
        run = run.replace("./server", "./" + name).replace("8080", str(port))
        env = harness.clean_environment(PATH=self.path("bin") + ":" + os.environ["PATH"])
        shell = self.start("sh", "-c", "exec " + run, cwd=self.project, env=env, stderr=subprocess.PIPE)
        harness.wait_until(lambda: not self.refused(port), "server")
        time.sleep(1.2)
        told = self.run_ok(dump.replace("pidof server", "pidof " + name)).stdout
        self.assertRegex(told, r"\d sockets?, eof-ignored")
        self.assertRegex(self.run_ok(scan.replace("1m", "1s")).stdout, name)
        pid = int(self.run_ok("pidof " + name).stdout)
        os.kill(pid, 2)  # as ^C: to the command, and to sockleak, which waits for it
        self.assertEqual(shell.wait(harness.DEADLINE_S), 23)
        self.assertRegex(shell.stderr.read(), r"#0 main +\S*server.c:\d+")

    @staticmethod
    def refused(port):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) != 0

    def test_ci(self):
        self.put_makefile()
        output = self.check_both(snippet("ci.sh"), "make -s server_test", 23)
        self.assertIn("3 sockets, eof-ignored", output)
        for name in ("leaks.xml", "leaks.json"):  # of the second run
            self.assertTrue(os.path.getsize(os.path.join(self.project, name)))
        with open(os.path.join(self.project, "leaks.json"), encoding="utf-8") as file:
            self.assertEqual(json.load(file)["summary"]["leaks"], 0)

    def test_baseline(self):
        self.put_makefile()
        self.run_ok("make -s server_test")
        self.run_ok(snippet("baseline.sh"))
        shutil.copy(os.path.join(ROOT, "examples/idle_pool.c"), os.path.join(self.project, "server_test.c"))
        self.run_ok("make -s server_test")
        self.assertEqual(self.run_line(snippet("baseline.sh").splitlines()[1]).returncode, 23)

    def test_make(self):
        self.put_makefile(snippet("leaks.mk"))
        self.assertIn("eof-ignored", self.check_both("make check-leaks", "make -s server_test"))


class Build(SnippetCase):
    @unittest.skipUnless(shutil.which("cmake") and shutil.which("ctest"), "cmake is not installed")
    def test_ctest(self):
        self.put("CMakeLists.txt", "cmake_minimum_required(VERSION 3.16)\nproject(p C)\nenable_testing()\n"
                 "find_package(Threads REQUIRED)\nadd_executable(server_test server_test.c)\n"
                 "target_link_libraries(server_test Threads::Threads)\n" + snippet("ctest.cmake"))
        output = self.check_both("ctest --test-dir build --output-on-failure",
                                 "cmake -S . -B build >/dev/null && cmake --build build >/dev/null")
        self.assertIn("3 sockets, eof-ignored", output)

    @unittest.skipUnless(shutil.which("meson") and shutil.which("ninja"), "meson is not installed")
    def test_meson(self):
        self.put("meson.build", "project('p', 'c')\ntest('server', executable('server_test', 'server_test.c',"
                 " dependencies: dependency('threads')))\n")
        output = self.check_both(snippet("meson.sh"), "meson setup build >/dev/null 2>&1 || true")
        self.assertRegex(output, r"server +FAIL .*exit status 23")

    @unittest.skipUnless(pytest, "python3-pytest is not installed")
    def test_pytest(self):
        self.put("test_client.py", textwrap.dedent("""
            import socket
            POOL = []
            def test_ask():
                with socket.create_server(("127.0.0.1", 0)) as server:
                    client = socket.create_connection(server.getsockname())
                    server.accept()[0].close()
                    assert client.recv(1) == b""
                    POOL.append(client)
                import time
                time.sleep(0.2)
            """))
        self.put("conftest.py", snippet("conftest.py"))
        line = snippet("pytest.sh").replace("python3", PYTHON)
        leaking = self.run_line(line)
        self.assertEqual(leaking.returncode, 23, leaking.stdout + leaking.stderr)
        self.assertIn("1 passed", leaking.stdout)
        self.assertIn("1 socket, eof-ignored", leaking.stderr)
        text = harness.read(os.path.join(self.project, "test_client.py"))
        self.put("test_client.py", text.replace("POOL.append(client)", "client.close()"))
        self.run_ok(line)
        self.put("test_client.py", "def test_fails():\n    assert False\n")
        self.assertEqual(self.run_line(line).returncode, 1)
        self.put("test_client.py", "def test_fails(:\n")
        self.assertEqual(self.run_line(line).returncode, 2)


@unittest.skipUnless(yaml, "python3-yaml is not installed")
class GitHub(SnippetCase):
    def steps(self):
        document = yaml.safe_load(snippet("github.yml"))
        self.assertEqual(document[True], ["push", "pull_request"])  # YAML 1.1 takes `on` for true
        (job,) = document["jobs"].values()
        self.assertIsInstance(job["runs-on"], str)
        for step in job["steps"]:
            self.assertEqual(len({"uses", "run"} & set(step)), 1, step)
        return document, [step for step in job["steps"] if "run" in step]

    def source(self):
        """A repository of what this working tree has, as the first step clones it."""
        place = self.path("origin")
        names = subprocess.run(["git", "-C", ROOT, "ls-files", "-co", "--exclude-standard", "-z"],
                               capture_output=True, check=False)
        if names.returncode:
            self.skipTest("this tree is no git checkout")
        for name in filter(None, names.stdout.decode().split("\0")):
            if os.path.isfile(os.path.join(ROOT, name)):
                os.makedirs(os.path.dirname(os.path.join(place, name)), exist_ok=True)
                shutil.copy2(os.path.join(ROOT, name), os.path.join(place, name))
        self.run_ok(f"cd {place} && git init -q && git add . && "
                    "git -c user.name=test -c user.email=test@localhost commit -qm test")
        return "file://" + place

    @unittest.skipUnless(shutil.which("git") and not harness.is_sanitized(), "needs git, and a plain build")
    def test_its_run_lines_work(self):
        document, (install, test, show) = self.steps()
        self.assertIn("SOCKLEAK_URL", document["env"])
        self.put_makefile()
        self.run_ok("make -s server_test")
        env = {"SOCKLEAK_URL": self.source(), "HOME": self.path("home"), "RUNNER_TEMP": self.path("temp"),
               "GITHUB_PATH": self.path("github_path"),
               # Of `make deps`, what the build needs: that is here. -j as the build has no end else.
               "MAKEFLAGS": "j2 -- TEST_PACKAGES="}
        os.mkdir(env["HOME"]), os.mkdir(env["RUNNER_TEMP"])
        os.unlink(self.path("bin/sockleak"))
        self.run_ok(install["run"], **env)
        del env["MAKEFLAGS"]
        env["PATH"] = harness.read(env["GITHUB_PATH"]).strip() + ":" + os.environ["PATH"]
        self.assertEqual(self.run_ok("command -v sockleak", **env).stdout.strip(),
                         self.path("home/.local/bin/sockleak"))
        self.assertEqual(self.run_line(test["run"], **env).returncode, 23)
        self.assertEqual(show["if"], "failure()")
        shown = self.run_ok(show["run"], **env).stdout
        self.assertRegex(shown, r"^::error file=server_test\.c,line=\d+,")


class Readme(unittest.TestCase):
    def test_it_shows_the_snippets_as_they_are_tested(self):
        readme = harness.read(os.path.join(ROOT, "README.md"))
        if SECTION not in readme:
            self.skipTest(f"README.md has no section '{SECTION}'")
        names = sorted(os.listdir(SNIPPETS))
        self.assertTrue(names)
        for name in names:
            self.assertIn(textwrap.indent(snippet(name).rstrip(), "    "), readme, name)


if __name__ == "__main__":
    harness.main()
