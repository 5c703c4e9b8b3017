"""A worker on a consumer: prints each event's body once it is dealt with, and acks it then, so that what was acked was
said. Arguments: the socket's URL, key, secret, and the fields of its subscribe message as JSON."""

import json
import sys
import time

from websockets.sync.client import connect

url, key, secret, fields = sys.argv[1:]
sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
with connect(url, proxy=None, open_timeout=60, ping_interval=None) as socket:
    socket.send(json.dumps({"action": "auth", "key": key, "secret": secret}))
    socket.recv()
    socket.send(json.dumps({"action": "subscribe", **json.loads(fields)}))
    for message in socket:
        frame = json.loads(message)
        if frame["type"] == "webhook":
            time.sleep(0.002)
            sys.stdout.write(f"{frame['body']}\n")
            socket.send(json.dumps({"action": "ack", "id": frame["meta"]["id"]}))
        else:
            sys.stdout.write(f"status {frame['status']}\n")
