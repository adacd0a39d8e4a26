"""An echo server: `server.py clean|leaking [HOST] [finalize]`.

The leaking one reads end of stream, forgets to close, and keeps the connection. Prints `port N`,
and ends when stdin ends: with `finalize` as any Python program does, which closes every socket
object that is left; without it by os._exit, with its sockets as they are.
"""

import os
import selectors
import socket
import sys

leaking = sys.argv[1] == "leaking"
host = sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1"
finalize = "finalize" in sys.argv

family = socket.AF_INET6 if ":" in host else socket.AF_INET
listener = socket.create_server((host, 0), family=family, backlog=1024)
selector = selectors.DefaultSelector()
kept = []


def accept_client():
    client, _ = listener.accept()
    selector.register(client, selectors.EVENT_READ)


def serve(client):
    data = client.recv(4096)
    if data:
        client.sendall(data)
        return
    selector.unregister(client)
    if leaking:
        kept.append(client)
    else:
        client.close()


selector.register(listener, selectors.EVENT_READ)
selector.register(sys.stdin, selectors.EVENT_READ)
print("port", listener.getsockname()[1], flush=True)
running = True
while running:
    for key, _ in selector.select():
        if key.fileobj is listener:
            accept_client()
        elif key.fileobj is sys.stdin:
            running = False
        else:
            serve(key.fileobj)
print("kept", len(kept), flush=True)
if not finalize:
    os._exit(0)
