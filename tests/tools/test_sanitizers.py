"""sockleak run on commands that are linked with a sanitizer's runtime, which wants to be first."""

import os
import re
import shutil
import subprocess
import unittest

import harness
from harness import LIBRARY, sockleak

# Strict: ld.so must have loaded the runtime first by itself, without the leave that `run` asks for.
STRICT = "verify_asan_link_order=1"


class Case(harness.TestCase):
    LEAK = harness.read(os.path.join(harness.ROOT, "examples", "forgotten_close.c"))
    # Prints the libraries in the order in which ld.so looks names up.
    ORDER = r"""
#define _GNU_SOURCE
#include <link.h>
#include <stdio.h>
static int show(struct dl_phdr_info *info, size_t size, void *context) {
    (void)size, (void)context;
    return puts(info->dlpi_name) < 0;
}
int main(void) { return dl_iterate_phdr(show, NULL); }
"""

    def build(self, name, source, *flags, compiler=None):
        shutil.copy(os.path.join(harness.ROOT, "examples", "peer.h"), self.directory)
        before = os.environ.get("CC")
        if compiler:
            os.environ["CC"] = compiler
        try:
            return self.compile(name, source, "-pthread", "-D_GNU_SOURCE", "-w", *flags)
        finally:
            os.environ.pop("CC", None)
            if before:
                os.environ["CC"] = before

    def libraries(self, program, **env):
        done = sockleak("run", program, env=harness.clean_environment(**env))
        self.assertEqual(done.returncode, 0, done.stderr)
        return [os.path.basename(line) for line in done.stdout.splitlines() if ".so" in line and "vdso" not in line]

    def check_leak(self, program, **env):
        done = sockleak("run", program, env=harness.clean_environment(**env))
        self.assertIn("eof-ignored", done.stderr)
        self.assertNotIn("does not come first", done.stderr)
        self.assertEqual(done.returncode, 23, done.stderr)


class Gcc(Case):
    def check(self, sanitizer, runtime):
        flags = (f"-fsanitize={sanitizer}",)
        order = self.libraries(self.build("order", self.ORDER, *flags, compiler="gcc"), ASAN_OPTIONS=STRICT)
        self.assertRegex(order[0], rf"^{runtime}\.so")
        self.assertEqual(order[1], os.path.basename(LIBRARY))
        self.check_leak(self.build("leak", self.LEAK, *flags, compiler="gcc"), ASAN_OPTIONS=STRICT)

    def test_address_comes_first(self):
        self.check("address", "libasan")

    def test_thread_comes_first(self):
        self.check("thread", "libtsan")

    @unittest.skipIf(harness.is_sanitized(), "a sanitized command wants its own runtime first, too")
    def test_a_users_preload_comes_behind(self):
        program = self.build("order", self.ORDER, "-fsanitize=address", compiler="gcc")
        other = self.build("other.so", "int nothing;", "-shared", "-fPIC")
        order = self.libraries(program, LD_PRELOAD=other, ASAN_OPTIONS=STRICT)
        self.assertRegex(order[0], r"^libasan\.so")
        self.assertEqual(order[1:3], [os.path.basename(LIBRARY), "other.so"])

    def test_a_runtime_that_only_the_runpath_finds(self):
        """As of a compiler in a place of its own: ld.so looks there for what is preloaded, too."""
        plain = self.build("order", self.ORDER, "-fsanitize=address", compiler="gcc")
        found = re.search(r"(libasan\.so\S*) => (\S+)", subprocess.run(
            ["ldd", plain], capture_output=True, text=True, check=True).stdout)
        os.mkdir(self.path("lib"))
        shutil.copy(found[2], self.path("lib", found[1]))
        program = self.build("moved", self.ORDER, "-fsanitize=address", "-Wl,-rpath," + self.path("lib"), compiler="gcc")
        done = sockleak("run", program, env=harness.clean_environment(ASAN_OPTIONS=STRICT))
        self.assertEqual(done.returncode, 0, done.stderr)
        names = [line for line in done.stdout.splitlines() if ".so" in line and "vdso" not in line]
        self.assertEqual(names[0], self.path("lib", found[1]))
        self.assertEqual(names[1], LIBRARY)


class Clang(Case):
    """Its runtimes are linked in: nothing has to be first."""

    @unittest.skipUnless(shutil.which("clang"), "no clang")
    def test_nothing_is_put_before_ours(self):
        for sanitizer in ("address", "thread"):
            with self.subTest(sanitizer):
                flags = (f"-fsanitize={sanitizer}",)
                order = self.libraries(self.build("order", self.ORDER, *flags, compiler="clang"), ASAN_OPTIONS=STRICT)
                self.assertEqual(order[0], os.path.basename(LIBRARY))
                self.check_leak(self.build("leak", self.LEAK, *flags, compiler="clang"), ASAN_OPTIONS=STRICT)

    @unittest.skipUnless(shutil.which("clang"), "no clang")
    def test_its_shared_runtime_comes_first(self):
        flags = ("-fsanitize=address", "-shared-libasan")
        directory = subprocess.run(["clang", "-print-runtime-dir"], capture_output=True, text=True, check=True).stdout.strip()
        program = self.build("order", self.ORDER, *flags, f"-Wl,-rpath,{directory}", compiler="clang")
        order = self.libraries(program, ASAN_OPTIONS=STRICT)
        self.assertRegex(order[0], r"^libclang_rt\.asan")
        self.assertEqual(order[1], os.path.basename(LIBRARY))


if __name__ == "__main__":
    harness.main()
