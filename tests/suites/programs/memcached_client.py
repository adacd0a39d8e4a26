"""Asks a memcached many things at once: python3 memcached_client.py PORT SECONDS. Every tenth
connection is reset in the middle of an answer, every seventh closed without a word."""

import socket
import struct
import sys
import threading
import time

PORT, SECONDS = int(sys.argv[1]), float(sys.argv[2])
THREADS = 8
VALUE = b"v" * 2000
failures = []
done = [0] * THREADS


def converse(number, thread):
    with socket.create_connection(("127.0.0.1", PORT), timeout=20) as connection:
        if number % 7 == 6:
            return
        key = f"key-{thread}-{number % 50}".encode()
        lines = connection.makefile("rb")
        for _ in range(20):
            connection.sendall(b"set %s 0 0 %d\r\n%s\r\n" % (key, len(VALUE), VALUE))
            if lines.readline() != b"STORED\r\n":
                failures.append("set")
            connection.sendall(b"get %s\r\n" % key)
            answer = b"".join(iter(lines.readline, b"END\r\n"))
            if not answer.endswith(VALUE + b"\r\n"):
                failures.append("get")
            done[thread] += 2
        if number % 10 == 9:
            connection.sendall(b"get %s\r\n" % key * 10)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            connection.sendall(b"quit\r\n")
            if lines.read():
                failures.append("quit")


def work(thread):
    number, end = 0, time.monotonic() + SECONDS
    while time.monotonic() < end:
        try:
            converse(number, thread)
        except OSError as error:
            failures.append(repr(error))
        number += 1


threads = [threading.Thread(target=work, args=(i,)) for i in range(THREADS)]
for each in threads:
    each.start()
for each in threads:
    each.join()
print(f"{'many' if sum(done) > 100 else sum(done)} requests, {len(failures)} failed {failures[:3]}")
