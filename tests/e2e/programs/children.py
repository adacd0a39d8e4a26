"""200 children by subprocess while connections are open: `children.py CONNECTIONS`.

close_fds is on (the default), so every child closes what it inherited, in a vfork child that runs
in this process's memory. The connections must still be known afterwards: they are left in
CLOSE_WAIT, and the program ends with them when stdin ends.
"""

import os
import socket
import subprocess
import sys

COUNT = int(sys.argv[1])

listener = socket.create_server(("127.0.0.1", 0))
clients = [socket.create_connection(listener.getsockname()) for _ in range(COUNT)]
kept = [listener.accept()[0] for _ in range(COUNT)]

output = b""
for number in range(200):
    kind = number % 4
    if kind == 0:
        output += subprocess.run(["/bin/echo", str(number)], capture_output=True, check=True).stdout
    elif kind == 1:  # this one forks, since a function is to run in the child
        subprocess.run(["/bin/true"], check=True, preexec_fn=os.getpid)
    elif kind == 2:  # the child gets a copy of a connection
        subprocess.run(["/bin/true"], check=True, pass_fds=(kept[0].fileno(),) if kept else ())
    else:
        try:
            subprocess.run(["/nonexistent/program"], check=True)
        except FileNotFoundError:
            output += b"none\n"
print(len(output), "bytes from the children")

for client in clients:
    client.shutdown(socket.SHUT_WR)
for connection in kept:
    assert connection.recv(1) == b""  # and no close
for client in clients:
    client.close()
listener.close()
print("port 0", flush=True)
sys.stdin.read()
os._exit(0)
