"""An asyncio server and 40 clients of it in one process; every second client half-closes first,
every tenth hangs up without reading its answer. All is closed at the end."""

import asyncio

CLIENTS = 40


async def serve(reader, writer):
    data = await reader.read()  # to end of stream
    await asyncio.sleep(0.01)  # in CLOSE_WAIT meanwhile, as it should be
    try:
        writer.write(data[::-1])
        await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def ask(port, number):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    text = f"client {number}".encode()
    writer.write(text)
    writer.write_eof()
    correct = number % 10 == 9 or await reader.read() == text[::-1]
    writer.close()
    try:
        await writer.wait_closed()
    except ConnectionError:
        pass
    return correct


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    answers = await asyncio.gather(*(ask(port, n) for n in range(CLIENTS)))
    server.close()
    await server.wait_closed()
    process = await asyncio.create_subprocess_exec("/bin/echo", "a child of the loop",
                                                   stdout=asyncio.subprocess.PIPE)
    print((await process.communicate())[0].decode().strip())
    print(sum(answers), "of", CLIENTS, "answers are right")


asyncio.run(main())
