"""sockleak report, on ledgers that the examples leave behind: every format, the way back from JSON,
suppressions, baselines, exit statuses.

Environment: BUILD is the build directory (default: build/ of this tree).
"""

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import unittest
import xml.etree.ElementTree

try:
    import jsonschema
except ImportError:
    jsonschema = None

try:
    import junitparser
except ImportError:
    junitparser = None

import harness
import sarif

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.abspath(os.environ.get("BUILD", os.path.join(ROOT, "build")))
SOCKLEAK = os.path.join(BUILD, "sockleak")
SCHEMA = os.path.join(ROOT, "tools", "sockleak-report.schema.json")

LEAKING = {  # by the examples' first comments: sockets, verdict, call and function, the same of eof
    "forgotten_close": (3, "eof-ignored", "accept4:accept_client", "recv:handle_request"),
    "idle_pool": (4, "fin-unread", "socket:pool_connect", None),
    "unread_data": (2, "data-unread", "accept:enqueue_client", None),
    "reset_kept": (2, "reset-unclosed", "accept4:accept_client", None),
}


def expected(name):
    """COUNT VERDICT birth=CALL:FUNCTION eof=CALL:FUNCTION of an example's source."""
    with open(os.path.join(ROOT, "examples", name + ".c"), encoding="utf-8") as source:
        found = re.search(r"expect: (\d+) (\S+) birth=(\S+) eof=(\S+)", source.read())
    count, verdict, birth, eof = found.groups()
    return int(count), verdict, birth, None if eof == "-" else eof


class Schema:
    """What the schema of the report says of a key, without the package jsonschema."""

    def __init__(self):
        with open(SCHEMA, encoding="utf-8") as file:
            self.document = json.load(file)

    def branches(self, node):
        """The node and all that it refers to."""
        yield node
        if "$ref" in node:
            yield from self.branches(self.document["$defs"][node["$ref"].rsplit("/", 1)[1]])
        for each in node.get("anyOf", []) + node.get("allOf", []):
            yield from self.branches(each)

    def properties(self, node):
        return {key: value for branch in self.branches(node) for key, value in branch.get("properties", {}).items()}

    def unnamed(self, value, node=None, path=""):
        """The keys of a document that are no properties in the schema."""
        node = node or self.document
        if isinstance(value, list):
            items = [branch["items"] for branch in self.branches(node) if "items" in branch]
            return {found for each in value for found in self.unnamed(each, items[0], path + "[]")}
        if not isinstance(value, dict):
            return set()
        properties = self.properties(node)
        found = {f"{path}.{key}" for key in value if key not in properties}
        return found.union(*(self.unnamed(each, properties[key], f"{path}.{key}")
                             for key, each in value.items() if key in properties))

    def undescribed(self, name, node):
        """The counters below a node that do not say what they count."""
        is_counter = (node.get("$ref", "").rsplit("/", 1)[-1] in ("count", "count_or_null", "rate", "rate_or_null")
                      and name.rsplit(".", 1)[-1] not in ("pid", "ppid", "tid", "inode"))
        found = [name] if is_counter and "description" not in node else []
        for key in ("properties", "$defs"):
            for name_below, below in node.get(key, {}).items():
                found += self.undescribed(f"{name}.{name_below}", below)
        for below in node.get("anyOf", []) + node.get("allOf", []):
            found += self.undescribed(name, below)
        # What an array is of is described where the array is.
        return found + (self.undescribed(name + "[]", node["items"]) if "$ref" not in node.get("items", {"$ref": ""})
                        else [])


class ReportCase(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.mkdtemp(prefix="sockleak-report-")
        for name in LEAKING:
            cls.ledgers(name)

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.dir)

    @staticmethod
    def run_example(name, ledger_dir):
        env = dict(os.environ, LD_PRELOAD=os.path.join(BUILD, "libsockleak.so"),
                   SOCKLEAK_OPTIONS="ledger_dir=" + ledger_dir)
        subprocess.run([os.path.join(BUILD, "examples", name)], env=env, check=True,
                       stdout=subprocess.DEVNULL)

    @classmethod
    def ledgers(cls, name):
        """The directory with an example's ledgers, made at the first question."""
        path = os.path.join(cls.dir, name)
        if not os.path.isdir(path):
            os.mkdir(path)
            cls.run_example(name, path)
        return path

    def path(self, name):
        return os.path.join(self.dir, name)

    def write(self, name, text):
        with open(self.path(name), "w", encoding="utf-8") as file:
            file.write(text)
        return self.path(name)

    def run_report(self, *arguments, status=0):
        done = subprocess.run([SOCKLEAK, "report", *arguments], capture_output=True, text=True,
                              errors="replace", timeout=60, cwd=ROOT, check=False)
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        return done

    def json(self, *arguments):
        return json.loads(self.run_report(*arguments, "--format=json").stdout)

    def all_ledgers(self):
        return [self.ledgers(name) for name in LEAKING]


class Findings(ReportCase):
    def test_each_example_has_its_finding(self):
        for name in LEAKING:
            with self.subTest(name):
                count, verdict, birth, eof = expected(name)
                document = self.json(self.ledgers(name))
                findings = [f for p in document["processes"] for f in p["findings"]]
                self.assertEqual([f["verdict"] for f in findings], [verdict])
                finding = findings[0]
                self.assertEqual(finding["count"], count)
                self.assertEqual(len(finding["sockets"]), count)
                self.assertEqual(document["summary"]["leaks"], count)
                call, function = birth.split(":")
                self.assertEqual(finding["birth"]["call"], call)
                self.assertEqual(finding["birth"]["stack"][0]["function"], function)
                self.assertEqual(os.path.basename(finding["birth"]["stack"][0]["file"]),
                                 name + ".c")
                if eof:
                    call, function = eof.split(":")
                    self.assertEqual(finding["end_of_stream"]["call"], call)
                    self.assertEqual(finding["end_of_stream"]["stack"][0]["function"], function)
                else:
                    self.assertIsNone(finding["end_of_stream"])

    def test_line_is_that_of_the_call(self):
        frame = self.json(self.ledgers("forgotten_close"))["processes"][0]["findings"][0][
            "end_of_stream"]["stack"][0]
        with open(os.path.join(ROOT, "examples", "forgotten_close.c"), encoding="utf-8") as source:
            self.assertIn("recv(", source.readlines()[frame["line"] - 1])

    def test_text_names_file_and_line(self):
        text = self.run_report(self.ledgers("forgotten_close")).stdout
        self.assertRegex(text, r"3 sockets left in CLOSE_WAIT \(1 finding\) at exit of ")
        self.assertRegex(text, r"#0 handle_request +examples/forgotten_close\.c:\d+\n")
        self.assertIn("summary: 3 leaked (3 close-wait, 0 dead)", text)

    def test_equal_findings_of_two_runs_are_shown_once(self):
        again = self.path("again")
        os.mkdir(again)
        self.run_example("forgotten_close", again)
        document = self.json(self.ledgers("forgotten_close"), again)
        self.assertEqual(document["summary"]["leaks"], 6)
        self.assertEqual(document["summary"]["findings"], 1)
        text = self.run_report(self.ledgers("forgotten_close"), again).stdout
        self.assertEqual(text.count("eof-ignored:"), 1)
        self.assertIn("6 sockets, eof-ignored", text)


    def test_a_process_counts_once_however_often_it_is_given(self):
        ledgers = self.ledgers("forgotten_close")
        once = self.json("--sites", ledgers)
        saved, both = self.path("once.json"), self.path("both")
        self.run_report("--sites", ledgers, "--format=json", "-o", saved)
        shutil.copytree(ledgers, both)
        shutil.copy(saved, os.path.join(both, "1.json"))
        for inputs in ([ledgers, ledgers], [ledgers, saved], [saved, ledgers], [saved, saved], [both]):
            self.assertEqual(self.json("--sites", *inputs), once, inputs)


class Formats(ReportCase):
    def test_json_is_valid_by_the_schema(self):
        if jsonschema is None:
            self.skipTest("python3-jsonschema is not installed")
        with open(SCHEMA, encoding="utf-8") as file:
            schema = json.load(file)
        jsonschema.Draft202012Validator.check_schema(schema)
        validator = jsonschema.Draft202012Validator(schema)
        for arguments in (["--show=all"], ["--show=leaks"]):
            errors = list(validator.iter_errors(self.json(*self.all_ledgers(), *arguments)))
            self.assertEqual(errors, [])

    def test_every_key_is_a_property_in_the_schema(self):
        document = self.json(*self.all_ledgers(), "--show=all")
        findings = [each for process in document["processes"] for each in process["findings"]]
        self.assertTrue(any(each["error"] for each in findings))
        self.assertTrue(any(each["active_close"] for each in document["sites"]))
        self.assertEqual(Schema().unnamed(document), set())

    def test_every_counter_is_described_in_the_schema(self):
        schema = Schema()
        self.assertEqual(schema.undescribed("", schema.document), [])

    def test_json_comes_back_as_it_was(self):
        ledgers = self.all_ledgers()
        saved = self.path("saved.json")
        self.run_report(*ledgers, "--format=json", "-o", saved)
        self.assertEqual(self.run_report(*ledgers).stdout, self.run_report(saved).stdout)
        with open(saved, encoding="utf-8") as file:
            self.assertEqual(json.load(file), self.json(saved))

    def test_sockets_that_are_not_listed_are_counted(self):
        ledgers = self.ledgers("idle_pool")
        for limit, last in ((0, "4 sockets, none listed"), (1, "... and 3 more")):
            text = self.run_report(ledgers, f"--max-sockets={limit}").stdout
            self.assertEqual(re.findall(r"(?m)^==\d+==   (\d sockets, none.*|\.\.\. and .*)$", text), [last])
        for text in (self.run_report(ledgers).stdout, self.run_report(ledgers, "--max-sockets=4").stdout):
            self.assertNotRegex(text, "none listed|and . more")

    def test_junit_is_xml_with_a_failure_a_finding(self):
        root = xml.etree.ElementTree.fromstring(
            self.run_report(*self.all_ledgers(), "--format=junit").stdout)
        self.assertEqual(root.tag, "testsuites")
        suite = root.find("testsuite")
        self.assertEqual(int(suite.get("tests")), len(LEAKING))
        self.assertEqual(int(suite.get("failures")), len(LEAKING))
        self.assertEqual(len(suite.findall("testcase/failure")), len(LEAKING))
        self.assertEqual(len({case.get("name") for case in suite.iter("testcase")}), len(LEAKING))

    def test_sarif_has_what_the_standard_wants(self):
        log = json.loads(self.run_report(*self.all_ledgers(), "--format=sarif").stdout)
        self.assertEqual(log["version"], "2.1.0")
        self.assertEqual(sarif.problems(log), [])
        (run,) = log["runs"]
        rules = run["tool"]["driver"]["rules"]
        self.assertEqual(len(run["results"]), len(LEAKING))
        for result in run["results"]:
            self.assertEqual(rules[result["ruleIndex"]]["id"], result["ruleId"])
            self.assertTrue(result["message"]["text"])
            self.assertEqual(len(result["partialFingerprints"]), 1)
            location = result["locations"][0]["physicalLocation"]
            self.assertRegex(location["artifactLocation"]["uri"], r"\.c$")
            self.assertGreater(location["region"]["startLine"], 0)
            self.assertTrue(result["stacks"][0]["frames"])
            (flow,) = result["codeFlows"]
            steps = [step for thread in flow["threadFlows"] for step in thread["locations"]]
            self.assertEqual([step["executionOrder"] for step in steps], list(range(1, len(steps) + 1)))
            names = [step["location"]["logicalLocations"][0]["fullyQualifiedName"] for step in steps]
            shown = [[f["location"]["logicalLocations"][0]["fullyQualifiedName"] for f in stack["frames"]]
                     for stack in result["stacks"]]
            self.assertEqual(names, [name for stack in shown for name in reversed(stack)])
            told = [step["location"]["message"]["text"] for step in steps if step["importance"] == "essential"]
            self.assertEqual(told, [stack["message"]["text"] for stack in result["stacks"]])

    def test_sarif_of_everything_is_valid(self):
        """With what is no leak, what is suppressed, what is known, and nothing at all."""
        known = self.path("known.json")
        self.run_report(self.ledgers("idle_pool"), "-q", "--format=json:" + known)
        rules = self.write("some", "leak:accept_client\n")
        for arguments in (["--show=all"], ["--suppressions=" + rules], ["--baseline=" + known]):
            log = json.loads(self.run_report(*self.all_ledgers(), "--format=sarif", *arguments,
                                             "--fail-on=none").stdout)
            self.assertEqual(sarif.problems(log), [], arguments)
        log = json.loads(self.run_report(self.ledgers("clean_half_close"), "--format=sarif").stdout)
        self.assertEqual((sarif.problems(log), log["runs"][0]["results"]), ([], []))

    def test_sarif_is_valid_to_a_public_validator(self):
        if jsonschema is None:
            self.skipTest("python3-jsonschema is not installed")
        jsonschema.Draft7Validator.check_schema(sarif.schema())
        validator = jsonschema.Draft7Validator(sarif.schema(), format_checker=jsonschema.FormatChecker())
        for arguments in ([], ["--show=all"]):
            log = json.loads(self.run_report(*self.all_ledgers(), "--format=sarif", *arguments).stdout)
            self.assertEqual([e.message for e in validator.iter_errors(log)], [], arguments)
        log["runs"][0]["results"][0]["codeFlows"][0]["threadFlows"] = []
        self.assertEqual(len(list(validator.iter_errors(log))), 1)

    def test_the_check_of_sarif_finds_mistakes(self):
        log = json.loads(self.run_report(self.ledgers("idle_pool"), "--format=sarif").stdout)
        for spoil, pattern in ((lambda l: l.pop("version"), "without version"),
                               (lambda l: l["runs"][0].pop("tool"), "run without tool"),
                               (lambda l: l["runs"][0]["results"][0].pop("message"), "result without message"),
                               (lambda l: l["runs"][0]["results"][0].update(level="fatal"), "level: 'fatal'"),
                               (lambda l: l["runs"][0]["results"][0].update(ruleIndex=0), "ruleIndex 0"),
                               (lambda l: l["runs"][0].update(tools=1), "run has tools")):
            spoiled = json.loads(json.dumps(log))
            spoil(spoiled)
            self.assertIn(pattern, "; ".join(sarif.problems(spoiled)))

    def test_sarif_fingerprints_stay_the_same(self):
        """Of another run of the program, at other addresses and ports."""
        again = self.path("idle_pool_again")
        os.mkdir(again)
        env = dict(os.environ, LD_PRELOAD=os.path.join(BUILD, "libsockleak.so"),
                   SOCKLEAK_OPTIONS="ledger_dir=" + again)
        subprocess.run([os.path.join(BUILD, "examples", "idle_pool")], env=env, check=True,
                       stdout=subprocess.DEVNULL)
        prints = [json.loads(self.run_report(ledgers, "--format=sarif").stdout)["runs"][0]["results"][0][
            "partialFingerprints"] for ledgers in (self.ledgers("idle_pool"), again)]
        self.assertEqual(prints[0], prints[1])

    def test_junit_is_read_by_junitparser(self):
        if junitparser is None:
            self.skipTest("python3-junitparser is not installed")
        path = self.path("leaks.xml")
        self.run_report(*self.all_ledgers(), "-q", "--format=junit:" + path)
        (suite,) = junitparser.JUnitXml.fromfile(path)
        self.assertEqual((suite.tests, suite.failures, suite.errors, suite.skipped),
                         (len(LEAKING), len(LEAKING), 0, 0))
        failures = {failure.type: failure for case in suite for failure in case.result}
        self.assertEqual(set(failures), {verdict for _, verdict, _, _ in LEAKING.values()})
        self.assertIn("pool_connect", failures["fin-unread"].text)
        self.assertRegex(failures["fin-unread"].text, r"examples/idle_pool\.c:\d+")
        self.run_report(self.ledgers("clean_half_close"), "-q", "--format=junit:" + path)
        (suite,) = junitparser.JUnitXml.fromfile(path)
        self.assertEqual([(case.classname, case.result) for case in suite], [("sockleak", [])])

    def test_github_lines_point_at_the_source(self):
        lines = self.run_report(*self.all_ledgers(), "--format=github").stdout.splitlines()
        self.assertEqual(len(lines), len(LEAKING))
        for line in lines:
            self.assertRegex(line, r"^::error file=examples/\w+\.c,line=\d+,title=sockleak%3A "
                                   r"[a-z-]+::\d+ sockets?, .*%0A")

    def test_folded_weights_are_the_leaks(self):
        lines = self.run_report(*self.all_ledgers(), "--format=folded").stdout.splitlines()
        self.assertEqual(sum(int(line.rsplit(" ", 1)[1]) for line in lines),
                         sum(expected(name)[0] for name in LEAKING))
        self.assertTrue(any(";main;accept_client;accept4 " in line for line in lines))

    def test_pprof_is_opened_by_go(self):
        go = shutil.which("go")
        if not go:
            self.skipTest("go is not installed")
        profile = self.path("leaks.pb.gz")
        self.run_report(*self.all_ledgers(), "-q", "--format=pprof:" + profile)
        top = subprocess.run([go, "tool", "pprof", "-top", profile], capture_output=True,
                             text=True, check=True).stdout
        self.assertRegex(top, r"11 total")
        self.assertRegex(top, r"\n +4 .* pool_connect")

    def test_formats_with_files_come_beside_the_text(self):
        one, other = self.path("one.json"), self.path("other.xml")
        done = self.run_report(self.ledgers("idle_pool"), "--format=json:" + one,
                               "--format=junit:" + other)
        self.assertIn("fin-unread", done.stdout)
        self.assertTrue(os.path.getsize(one) and os.path.getsize(other))


class Rules(ReportCase):
    def test_suppressed_findings_are_counted_not_shown(self):
        for rule, left in (("leak:handle_request", 0), ("leak:forgotten_cl*.c", 0),
                           ("leak:forgotten_close", 0), ("leak:request", 3),
                           ("verdict:eof-ignored", 0), ("verdict:fin-unread", 3),
                           ("peer:127.0.0.1", 0), ("peer:127.0.0.1:*", 0), ("peer:10.*", 3)):
            with self.subTest(rule):
                rules = self.write("rules", "# a comment\n\n" + rule + "\n")
                document = self.json(self.ledgers("forgotten_close"), "--suppressions=" + rules)
                self.assertEqual(document["summary"]["leaks"], left)
                self.assertEqual(document["summary"]["suppressed"], 3 - left)
                if not left:
                    self.assertEqual(document["processes"][0]["findings"][0]["suppressed_by"], rule)
                    done = self.run_report(self.ledgers("forgotten_close"),
                                           "--suppressions=" + rules, "--fail-on=all")
                    self.assertTrue(done.stdout.endswith("3 suppressed by 1 rule\n"), done.stdout)

    def test_rules_may_come_from_a_pipe(self):
        done = subprocess.run(["bash", "-c", f"{SOCKLEAK} report --fail-on=all --suppressions=<(echo leak:pool_connect) "
                               f"{self.ledgers('idle_pool')}"], capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("4 suppressed by 1 rule", done.stdout)

    def test_rules_of_a_directory_are_refused_and_nothing_is_written(self):
        rules, out = self.ledgers("idle_pool"), self.path("refused")
        for command, what in (("report", rules), ("dump", os.getpid())):
            done = harness.sockleak(command, "--suppressions=" + rules, "-o", out, what)
            self.assertEqual((done.returncode, done.stdout), (2, ""), command)
            self.assertIn(rules + ": cannot read the suppressions: Is a directory", done.stderr)
            self.assertFalse(os.path.exists(out))

    def test_mistakes_are_said_with_file_and_line(self):
        rules = self.write("wrong", "leak:fine\nleek:handle\nverdict:none\n")
        done = self.run_report(self.ledgers("idle_pool"), "--suppressions=" + rules, status=2)
        self.assertIn(rules + ":2: 'leek:handle'", done.stderr)
        self.assertIn(rules + ":3: ", done.stderr)

    def test_unused_rules_are_listed_when_asked(self):
        rules = self.write("unused", "leak:nowhere\n")
        done = self.run_report(self.ledgers("idle_pool"), "--suppressions=" + rules, "--verbose")
        self.assertIn("unused suppression leak:nowhere (%s:1)" % rules, done.stdout)

    def test_suggested_rules_silence_what_is_shown(self):
        rules = self.write("suggested", self.run_report(*self.all_ledgers(), "--suggest").stdout)
        document = self.json(*self.all_ledgers(), "--suppressions=" + rules)
        self.assertEqual(document["summary"]["leaks"], 0)

    def test_baseline_findings_do_not_fail(self):
        old = self.path("old.json")
        self.run_report(self.ledgers("idle_pool"), "-q", "--format=json:" + old)
        self.run_report(self.ledgers("idle_pool"), "--fail-on=all", status=23)
        self.run_report(self.ledgers("idle_pool"), "--baseline=" + old)
        self.run_report(self.ledgers("idle_pool"), self.ledgers("unread_data"),
                        "--baseline=" + old, status=23)


class Status(ReportCase):
    def test_a_leak_fails_only_where_asked(self):
        ledgers = self.ledgers("reset_kept")  # of the group dead
        self.run_report(ledgers)
        self.run_report(ledgers, "--fail-on=dead", status=23)
        self.run_report(ledgers, "--fail-on=close-wait")
        self.run_report(ledgers, "--fail-on=none")
        self.run_report(ledgers, "--exit-code=7", status=7)

    def test_wrong_usage_is_2(self):
        for arguments in ([], ["x", "--format=yaml"], ["x", "--format=json:"],
                          ["x", "--fail-on=never"], ["x", "--exit-code=256"],
                          ["x", "--max-sockets=many"], ["x", "--format=json", "--format=text"]):
            with self.subTest(arguments):
                done = self.run_report(*arguments, status=2)
                self.assertRegex(done.stderr, r"^sockleak report: ")

    def test_what_cannot_be_read_is_1(self):
        empty = self.path("empty")
        os.makedirs(empty, exist_ok=True)
        for path in (self.path("missing"), empty, "/dev/null", "/dev/zero",
                     self.write("noise.ledger", "no ledger\n"),
                     self.write("other.json", '{"schema": "other/1"}'),
                     self.write("broken.json", '{"schema":')):
            with self.subTest(path):
                done = self.run_report(path, status=1)
                self.assertIn(path, done.stderr)
                self.assertEqual(done.stdout, "")

    def test_another_document_is_told_what_it_lacks(self):
        for text, lack in (("{}", "it has no schema"), ('{"schema": "other/1"}', "its schema is 'other/1', and '"),
                           ('{"schema": "sockleak-report/1"}', "it has no list of processes")):
            done = self.run_report(self.write("other.json", text), status=1)
            self.assertIn(f": not a report of sockleak: {lack}", done.stderr)

    def test_fifo_does_not_hold_it_up(self):
        fifo = self.path("fifo.ledger")
        os.mkfifo(fifo)
        self.run_report(fifo, status=1)

    def test_full_disk_is_said(self):
        done = self.run_report(self.ledgers("idle_pool"), "--output=/dev/full", status=1)
        self.assertIn("could not be written", done.stderr)


class Clashes(ReportCase):
    """What is written must not be written over, nor what is read."""

    def setUp(self):
        self.ledger_dir = self.ledgers("idle_pool")
        self.saved = self.path("saved.json")
        if not os.path.exists(self.saved):
            self.run_report(self.ledger_dir, "-q", "--format=json:" + self.saved)
        self.place = tempfile.mkdtemp(prefix="clash-", dir=self.dir)

    def sockleak(self, *arguments):
        return harness.sockleak(*arguments, cwd=self.place)

    def contents(self):
        return {name: harness.read(os.path.join(self.place, name)) for name in os.listdir(self.place)
                if os.path.isfile(os.path.join(self.place, name))}

    def here(self, name, text=""):
        with open(os.path.join(self.place, name), "w", encoding="utf-8") as file:
            file.write(text)

    def assert_refused(self, arguments, *words):
        before = self.contents()
        done = self.sockleak(*arguments)
        self.assertEqual((done.returncode, done.stdout), (2, ""), arguments)
        self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
        for word in (*words, "name another file"):
            self.assertIn(word, done.stderr)
        self.assertEqual(self.contents(), before)

    def test_two_outputs_to_one_file_are_refused(self):
        os.symlink("./both", os.path.join(self.place, "link"))
        os.mkdir(os.path.join(self.place, "sub"))
        for one, other in (("--output=both", "--format=json:both"), ("--format=text:both", "--format=json:./both"),
                           ("--format=text:both", "--format=json:sub/../both"),
                           ("--format=text:both", f"--format=json:{self.place}/both"),
                           ("--output=both", "--format=sarif:link")):
            with self.subTest(other):
                self.assert_refused(["report", one, other, self.saved], one, other)
                self.assert_refused(["run", one, other, "touch", "ran"], one, other)
        self.here("both", "old")  # there already: by its inode
        os.link(os.path.join(self.place, "both"), os.path.join(self.place, "hard"))
        for other in ("--format=json:link", "--format=json:hard", "--format=json:./both"):
            with self.subTest(other):
                self.assert_refused(["report", "--output=both", other, self.saved], "--output=both", other)

    def test_an_output_over_an_input_is_refused(self):
        shutil.copy(self.saved, os.path.join(self.place, "led.json"))
        os.symlink("led.json", os.path.join(self.place, "link"))
        self.here("s", "leak:nobody\n")
        for output in ("led.json", "./led.json", "link"):
            self.assert_refused(["report", "-o", output, "led.json"], f"--output={output} ", "led.json")
            self.assert_refused(["report", "--format=json:" + output, "led.json"], f"--format=json:{output} ")
            self.assert_refused(["run", "--baseline=led.json", "-o", output, "touch", "ran"],
                                f"--output={output} ", "--baseline=led.json")
        self.assert_refused(["run", "--suppressions=s", "-o", "./s", "touch", "ran"], "--output=./s ",
                            "--suppressions=s")
        self.assert_refused(["dump", "--suppressions=s", "--format=json:s", os.getpid()], "--suppressions=s")

    def test_an_output_over_a_file_of_an_input_directory_is_refused(self):
        os.mkdir(os.path.join(self.place, "kept"))
        shutil.copy(self.saved, os.path.join(self.place, "kept", "led.json"))
        self.assert_refused(["report", "-o", "kept/led.json", "kept"], "--output=kept/led.json ", "kept:")
        self.assert_refused(["report", "-o", "led.json", "--baseline=kept", "-o", "kept/led.json", self.saved],
                            "--baseline=kept")
        # What is not read from there, or not yet, may be written there.
        for output in ("kept/text", "kept/new.json"):
            self.assertEqual(self.sockleak("report", "-o", output, "kept").returncode, 0)

    def test_streams_may_be_written_twice(self):
        for options in (["-o", "/dev/null", "--format=json:/dev/null"],
                        ["-o", "/dev/stdout", "--format=json:/dev/stdout"],
                        ["-o", "/dev/stderr", "--format=json:/dev/stdout", "--format=sarif:/dev/stdout"],
                        ["--suppressions=/dev/null", "-o", "/dev/null"]):
            done = self.sockleak("report", *options, self.saved)
            self.assertEqual(done.returncode, 0, done.stderr)
            with open(os.path.join(self.place, "all"), "w", encoding="utf-8") as file:
                done = subprocess.run([SOCKLEAK, "report", *options, self.saved], stdout=file, stderr=file, check=False)
            self.assertEqual(done.returncode, 0)

    def test_two_files_are_two(self):
        done = self.sockleak("report", "-o", "one", "--format=json:other", "--baseline=" + self.saved, self.saved)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(set(self.contents()), {"one", "other"})


class Symbols(ReportCase):
    SOURCE = """
        #include <arpa/inet.h>
        #include <sys/socket.h>
        #include <unistd.h>
        namespace net {
        static inline __attribute__((always_inline)) int take(int fd) {
            return accept(fd, nullptr, nullptr); // take
        }
        __attribute__((noinline)) int get(int fd) {
            int s = take(fd); __asm__ volatile(""); // get
            return s;
        }
        }
        int main() {
            sockaddr_in a{};
            a.sin_family = AF_INET;
            a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
            socklen_t len = sizeof a;
            int l = socket(AF_INET, SOCK_STREAM, 0), c = socket(AF_INET, SOCK_STREAM, 0);
            bind(l, (sockaddr *)&a, len), listen(l, 1), getsockname(l, (sockaddr *)&a, &len);
            connect(c, (sockaddr *)&a, len);
            int s = net::get(l); // main
            close(c);
            char byte;
            return (int)read(s, &byte, 1);
        }
        """

    def build(self, name, *flags):
        source = self.write(name + ".cc", self.SOURCE)
        program = self.path(name)
        subprocess.run(["g++", "-O2", *flags, "-o", program, source], check=True)
        return program

    def run_ledger(self, program):
        directory = program + ".ledgers"
        os.mkdir(directory)
        env = dict(os.environ, LD_PRELOAD=os.path.join(BUILD, "libsockleak.so"),
                   SOCKLEAK_OPTIONS="ledger_dir=" + directory)
        subprocess.run([program], env=env, check=True)
        return directory

    def births(self, directory):
        return self.json(directory)["processes"][0]["findings"][0]["birth"]["stack"]

    def line_of(self, word):
        lines = self.SOURCE.splitlines()
        return next(i + 1 for i, line in enumerate(lines) if line.endswith("// " + word))

    def test_inlined_functions_are_frames_with_their_lines(self):
        stack = self.births(self.run_ledger(self.build("inlined", "-g")))
        # g++ gives a static function no linker's name, and DWARF's plain one has no namespace.
        self.assertRegex(stack[0]["function"], r"^(net::)?take\b")
        self.assertTrue(stack[0]["inlined"])
        self.assertIsNone(stack[0]["offset"])
        self.assertEqual(stack[0]["line"], self.line_of("take"))
        self.assertRegex(stack[1]["function"], r"^net::get\(int\)$")
        self.assertFalse(stack[1]["inlined"])
        self.assertEqual(stack[1]["line"], self.line_of("get"))
        self.assertEqual(stack[0]["module_offset"], stack[1]["module_offset"])
        self.assertEqual((stack[2]["function"], stack[2]["line"]), ("main", self.line_of("main")))

    def test_without_debug_information_function_and_offset(self):
        stack = self.births(self.run_ledger(self.build("plain")))
        self.assertRegex(stack[0]["function"], r"^net::get\(int\)$")
        self.assertRegex(stack[0]["offset"], r"^0x[0-9a-f]+$")
        self.assertIsNone(stack[0]["line"])

    def test_separate_debug_file_beside_the_program(self):
        program = self.build("separate", "-g")
        subprocess.run(["objcopy", "--only-keep-debug", program, program + ".debug"], check=True)
        subprocess.run(["strip", program], check=True)
        subprocess.run(["objcopy", "--add-gnu-debuglink=" + program + ".debug", program],
                       check=True)
        stack = self.births(self.run_ledger(program))
        self.assertEqual(stack[0]["line"], self.line_of("take"))

    def test_replaced_program_is_said_and_not_named(self):
        program = self.build("replaced", "-g")
        directory = self.run_ledger(program)
        os.replace(self.build("newer"), program)
        document = self.json(directory)
        stack = document["processes"][0]["findings"][0]["birth"]["stack"]
        self.assertIsNone(stack[0]["function"])
        self.assertIsNone(stack[0]["line"])
        self.assertTrue(any("replaced" in note and program in note for note in document["notes"]))


class Memory(ReportCase):
    def test_valgrind_has_nothing_to_say(self):
        with open(SOCKLEAK, "rb") as file:
            if not shutil.which("valgrind") or b"__asan_init" in file.read():
                self.skipTest("no valgrind, or a sanitized build")
        saved, rules = self.path("valgrind.json"), self.write("valgrind.rules", "leak:pool_*\nleak:none\n")
        formats = [f"--format={f}:{self.path('valgrind.' + f)}"
                   for f in ("text", "json", "junit", "sarif", "github", "folded", "pprof")]
        self.run_report(*self.all_ledgers(), "-q", "--format=json:" + saved)
        for arguments, status in (([*self.all_ledgers(), *formats, "-v", "--show=all"], 0),
                                  ([saved, "--suppressions=" + rules, "--baseline=" + saved, "-v"], 0),
                                  ([saved, "--suggest"], 0), ([self.write("noise.ledger", "noise")], 1),
                                  (["--format=yaml", saved], 2), (["--help"], 0)):
            done = subprocess.run(["valgrind", "-q", "--leak-check=full", "--error-exitcode=99", SOCKLEAK,
                                   "report", *arguments], capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, status, done.stderr)


class Deaths(ReportCase):
    def test_killed_process_is_last_known(self):
        directory = self.path("killed")
        os.mkdir(directory)
        script = ("import os, signal, socket\n"
                  "l = socket.create_server(('127.0.0.1', 0))\n"
                  "c = socket.create_connection(l.getsockname())\n"
                  "s = l.accept()[0]\n"
                  "c.close()\n"
                  "s.recv(1)\n"
                  "os.kill(os.getpid(), signal.SIGKILL)\n")
        env = dict(os.environ, LD_PRELOAD=os.path.join(BUILD, "libsockleak.so"),
                   SOCKLEAK_OPTIONS="ledger_dir=" + directory)
        done = subprocess.run(["/usr/bin/python3", "-c", script], env=env, check=False)
        self.assertEqual(done.returncode, -signal.SIGKILL)
        (process,) = self.json(directory)["processes"]
        self.assertEqual(process["ended"], "killed")
        (finding,) = process["findings"]
        self.assertEqual(finding["verdict"], "eof-ignored")
        self.assertEqual(finding["count"], 1)
        self.assertIsNone(finding["sockets"][0]["state"])
        self.assertIn("last known", self.run_report(directory).stdout)

    def test_why_a_killed_process_leaked_is_said_where_its_ledger_tells(self):
        """Its reader has opened another socket since, and had the time to close this one before."""
        script = ("import os, signal, socket, sys, time\n"
                  "l = socket.create_server(('127.0.0.1', 0))\n"
                  "c = socket.create_connection(l.getsockname())\n"
                  "d = socket.create_connection(l.getsockname())\n"
                  "s = l.accept()[0]\n"
                  "c.close()\n"
                  "s.recv(1)\n"
                  "time.sleep(float(sys.argv[1]))\n"
                  "t = l.accept()[0]\n"
                  "os.kill(os.getpid(), signal.SIGKILL)\n")
        for pause_s, cause in (("0.5", "forgotten"), ("0", "unknown")):
            directory = self.path("killed" + pause_s)
            os.mkdir(directory)
            env = dict(os.environ, LD_PRELOAD=os.path.join(BUILD, "libsockleak.so"),
                       SOCKLEAK_OPTIONS=f"grace_ms=300:ledger_dir={directory}")
            subprocess.run(["/usr/bin/python3", "-c", script, pause_s], env=env, check=False)
            (finding,) = self.json(directory)["processes"][0]["findings"]
            self.assertEqual((finding["verdict"], finding["cause"]), ("eof-ignored", cause))


if __name__ == "__main__":
    harness.need_build()
    unittest.main()
