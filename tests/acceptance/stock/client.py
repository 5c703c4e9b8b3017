"""The same client on Python's websocket-client: see client.js."""

import json
import sys
import time

import websocket

url, key, secret, *buckets = sys.argv[1:]


def say(step: str) -> None:
    print(json.dumps({"step": step}), flush=True)


def on_open(ws: websocket.WebSocketApp) -> None:
    say("open")
    ws.send(json.dumps({"action": "auth", "key": key, "secret": secret}))


def on_message(ws: websocket.WebSocketApp, data: str) -> None:
    print(data, flush=True)
    message = json.loads(data)
    if message["type"] == "status" and message["status"] == "authenticated":
        ws.send(json.dumps({"action": "subscribe", "buckets": buckets}))
    if message["type"] == "status" and message["status"] == "ping":
        ws.send(json.dumps({"action": "pong"}))


def on_close(ws: websocket.WebSocketApp, code: int | None, reason: str | None) -> None:
    say(f"close {code}")


while True:
    websocket.WebSocketApp(url, on_open=on_open, on_message=on_message, on_close=on_close).run_forever()
    time.sleep(3)
