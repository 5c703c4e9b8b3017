// Ready-made code that sends to a bucket or reads from it, with the real values in it. Pure functions from values to text.
import { quote as shell } from "../event/curl.js";

/** A text in JavaScript or Python. */
const quote = (text) => JSON.stringify(text);

export const SECRET = "YOUR_SECRET";

/** What stands in for the key of a token where the one who looks has none: the relay's owner. */
export const KEY = "YOUR_KEY";

/** What stands in for a password or a token that the one who looks may not see. */
export const PASSWORD = "YOUR_PASSWORD";

function authorization({ type, username, password, token }) {
  if (type === "basic") return ` \\\n  -u ${shell(`${username}:${password || PASSWORD}`)}`;
  if (type === "token") return ` \\\n  -H ${shell(`Authorization: Bearer ${token || PASSWORD}`)}`;
  return "";
}

export const send = ({ url, auth }) => `curl ${shell(url)} \\
  -H 'Content-Type: application/json'${authorization(auth)} \\
  -d '{"hello": "relay"}'`;

/** The stock protocol: what works here works with the original, too. */
export const node = ({ socket, key, name }) => `// npm install ws
const WebSocket = require("ws");

const key = ${quote(key)};
const secret = ${quote(SECRET)};

function connect() {
  const socket = new WebSocket(${quote(socket)});
  const send = (message) => socket.send(JSON.stringify(message));

  socket.on("open", () => send({ action: "auth", key, secret }));
  socket.on("message", (data) => {
    const { type, status, message, ...event } = JSON.parse(data);
    if (type === "webhook") {
      console.log(event.method, event.meta.id, event.body);
    } else if (status === "authenticated") {
      send({ action: "subscribe", buckets: [${quote(name)}] });
    } else if (status === "ping") {
      send({ action: "pong" });
    } else {
      console.log(status, message);
    }
  });
  socket.on("error", (error) => console.error(error.message));
  socket.on("close", (code) => {
    if (code !== 4001) setTimeout(connect, 1000);
  });
}

connect();`;

export const python = ({ relay, key, name }) => `import asyncio
from relay_tornado.client import subscribe

async def main():
    async with subscribe(
        ${quote(relay)},
        ${quote(key)},
        ${quote(SECRET)},
        buckets=[${quote(name)}],
        since="earliest",
        checkpoint="events.checkpoint",
    ) as events:
        async for event in events:
            print(event.id, event.method, event.path, event.text)

asyncio.run(main())`;

export const forward = ({ relay, name }) => `printf %s ${SECRET} > ~/.relay-secret && chmod 600 ~/.relay-secret
relay --url ${shell(relay)} --secret-file ~/.relay-secret \\
  forward ${shell(name)} http://localhost:3000`;

export const listen = ({ relay, name }) => `printf %s ${SECRET} > ~/.relay-secret && chmod 600 ~/.relay-secret
relay --url ${shell(relay)} --secret-file ~/.relay-secret \\
  listen ${shell(name)} --since last:10`;

export const stream = ({ streamed }) => `curl --no-buffer -H 'Authorization: Bearer ${SECRET}' \\
  ${shell(`${streamed}&since=earliest`)}`;
