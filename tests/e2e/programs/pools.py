"""multiprocessing by `pools.py fork|spawn|forkserver`: a pool, a queue, a pipe and a manager, all of
which speak over sockets or pipes, and a TCP listener of its own. All is closed at the end."""

import multiprocessing
import sys
from multiprocessing.connection import Client, Listener


def square(number):
    return number * number


def fill(queue, connection):
    queue.put("queued")
    connection.send("piped")
    connection.close()


def answer(address):
    with Client(address) as client:
        client.send(client.recv() + 1)


def main():
    context = multiprocessing.get_context(sys.argv[1])
    with context.Pool(3) as pool:
        print(sum(pool.map(square, range(100))))
    queue = context.Queue()
    ours, theirs = context.Pipe()
    child = context.Process(target=fill, args=(queue, theirs))
    child.start()
    theirs.close()
    print(queue.get(), ours.recv())
    child.join()
    with context.Manager() as manager:
        shared = manager.list([1, 2, 3])
        shared.append(4)
        print(list(shared))
    with Listener(("127.0.0.1", 0)) as listener:
        child = context.Process(target=answer, args=(listener.address,))
        child.start()
        with listener.accept() as connection:
            connection.send(41)
            print(connection.recv())
        child.join()
    print("exit codes", child.exitcode)


if __name__ == "__main__":
    main()
