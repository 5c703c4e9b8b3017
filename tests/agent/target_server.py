"""A target as a process: it appends each request, byte for byte, to a file, and answers as the request says.

Headers of a webhook steer it: `X-Answer: 503 200` is answered by 503 at the first try (of this `X-Number`), by 200 at
the second and all later ones; `X-Retry-After: 1` stands in its first answer; `X-Wait: 0.2` are seconds that it takes.
"""

import asyncio
import json
import os
import ssl
import sys
from collections import Counter
from email.parser import BytesParser

BODY = b"\x00answer\xff"


async def main(record: str, port: int, certificate: str) -> None:
    file = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    tries: Counter[str] = Counter()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                headers = BytesParser().parsebytes(head.partition(b"\r\n")[2])
                body = await reader.readexactly(int(headers.get("Content-Length", "0")))
                line = json.dumps({"head": head.decode("latin-1"), "body": body.decode("latin-1")}) + "\n"
                os.write(file, line.encode())
                number = headers.get("X-Number", "")
                tries[number] += 1
                await asyncio.sleep(float(headers.get("X-Wait", "0")))
                statuses = headers.get("X-Answer", "201").split()
                status = int(statuses[min(tries[number], len(statuses)) - 1])
                answer = [f"HTTP/1.1 {status} Answer", "X-Of-Target: one", "X-Of-Target: two"]
                if "X-Retry-After" in headers and tries[number] == 1:
                    answer.append(f"Retry-After: {headers['X-Retry-After']}")
                content = b"" if status in (204, 304) else BODY
                answer += [f"Content-Length: {len(content)}"] if content else []
                writer.write("\r\n".join([*answer, "", ""]).encode() + content)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    context = None
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    server = await asyncio.start_server(serve, "127.0.0.1", port, ssl=context)
    sys.stdout.write(f"listening on http://127.0.0.1:{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else ""))
