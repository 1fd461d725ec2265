"""A sandbox without an agent: commands, a process, files, and a port, with the network off."""

import asyncio

import sandboxkit as sk


async def main() -> None:
    async with sk.Sandbox.create("docker", memory_gib=0.5) as sandbox:
        await sandbox.files.write("hello.py", "print('Hello from', __import__('os').getcwd())")
        done = await sandbox.exec(["python3", "hello.py"], timeout_s=10)
        print(done.exit_code, done.text)

        async with await sandbox.spawn(["tr", "a-z", "A-Z"], stdin=sk.PIPE) as process:
            await process.stdin.write(b"streams, signals, exit codes\n")
            await process.stdin.close()
            print(await process.stdout.read(), await process.wait())

        server = ["python3", "-u", "-m", "http.server", "8000"]
        async with await sandbox.spawn(server) as process:
            await process.stdout.receive()  # it says that it serves
            async with sandbox.ports.forward(8000) as address:
                reader, writer = await asyncio.open_connection(address.host, address.port)
                writer.write(b"GET /hello.py HTTP/1.0\r\n\r\n")
                print(await reader.readline())
                writer.close()


if __name__ == "__main__":
    asyncio.run(main())
