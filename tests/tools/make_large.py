"""make_large.py OUT [MEGABYTES]: links a program of at least so many megabytes (50), nearly all of it
debug information, for bench_symbols. One generated source is compiled once; its object is linked many
times, each time with a prefix of its own for its functions."""

import os
import subprocess
import sys
import tempfile

CC = os.environ.get("CC", "cc")
FUNCTIONS = 1500
FUNCTION = """
struct thing_{i} {{ int id; char name[{size}]; struct thing_{i} *next; long counts[4]; }};
static inline __attribute__((always_inline)) long sum_{i}(const struct thing_{i} *thing, int n) {{
    long total = 0;
    for (int k = 0; k < n && k < 4; k++)
        total += thing->counts[k] * {i};
    return total;
}}
long function_{i}(struct thing_{i} *thing, int depth) {{
    long result = sum_{i}(thing, depth);
    for (struct thing_{i} *at = thing; at && depth > 0; at = at->next, depth--) {{
        if (at->id == {i})
            result += sum_{i}(at, 2);
        else if (at->name[0] == 'x')
            result ^= at->counts[depth & 3];
    }}
    return result;
}}
"""


def run(*command):
    subprocess.run(command, check=True)


def main():
    out, megabytes = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 50
    with tempfile.TemporaryDirectory() as place:
        part, start = os.path.join(place, "part"), os.path.join(place, "start")
        with open(part + ".c", "w", encoding="ascii") as file:
            file.writelines(FUNCTION.format(i=i, size=8 + i % 50) for i in range(FUNCTIONS))
        with open(start + ".c", "w", encoding="ascii") as file:
            file.write("int main(void) { return 0; }\n")
        run(CC, "-g", "-O1", "-c", "-o", part + ".o", part + ".c")
        run(CC, "-g", "-c", "-o", start + ".o", start + ".c")
        objects = []
        for i in range(megabytes * 1_000_000 * 2 // os.path.getsize(part + ".o") + 1):
            objects.append(os.path.join(place, f"part{i}.o"))
            run("objcopy", f"--prefix-symbols=part{i}_", part + ".o", objects[-1])
        run(CC, "-o", out, start + ".o", *objects)
    size = os.path.getsize(out)
    if size < megabytes * 1_000_000:
        os.unlink(out)
        sys.exit(f"make_large.py: only {size} bytes")


if __name__ == "__main__":
    main()
