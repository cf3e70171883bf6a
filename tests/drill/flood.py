"""Wrong passwords from many addresses, from a process of its own: what it costs is not to be counted as the daemon's.

`python -m tests.drill.flood PORT LOGINS ADDRESSES` prints how often each status was answered, as JSON.
"""

import asyncio
import base64
import json
import random
import sys
from collections import Counter


async def flood(port: int, logins: int, addresses: int) -> Counter[int]:
    """One connection an address, each as fast as it is answered."""
    statuses: Counter[int] = Counter()
    numbers = random.Random(7)

    async def attack(number: int) -> None:
        local = (f"127.0.0.{10 + number}", 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=local)
        for _ in range(logins // addresses):
            wrong = f"{numbers.choice(['admin', 'root', 'a'])}:{numbers.random()}"
            credential = base64.b64encode(wrong.encode()).decode()
            writer.write(
                f"POST /admin/auth/login HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Basic {credential}\r\n"
                "content-length: 0\r\n\r\n".encode()
            )
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            await reader.readexactly(int(head.partition("content-length: ")[2].partition("\r\n")[0]))
            statuses[int(head.split(" ", 2)[1])] += 1
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(attack(number) for number in range(addresses)))
    return statuses


if __name__ == "__main__":
    print(json.dumps(asyncio.run(flood(*map(int, sys.argv[1:])))))
