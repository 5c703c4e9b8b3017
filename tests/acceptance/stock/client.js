// A client as the original's documentation shows it: authenticates on open, subscribes when it reads `authenticated`,
// reconnects 3 s after a close. Prints every frame that it gets, and its own steps as {"step": …}.
// Arguments: the socket's URL, key, secret, then the buckets' names.
const WebSocket = require("ws");

const [url, key, secret, ...buckets] = process.argv.slice(2);
const reconnectInterval = 3000;
const say = (step) => console.log(JSON.stringify({ step }));

function connect() {
  const ws = new WebSocket(url);
  ws.on("open", () => {
    say("open");
    ws.send(JSON.stringify({ action: "auth", key: key, secret: secret }));
  });
  ws.on("message", (data) => {
    console.log(data.toString());
    const msg = JSON.parse(data);
    if (msg.type === "status" && msg.status === "authenticated") {
      ws.send(JSON.stringify({ action: "subscribe", buckets: buckets }));
    }
    if (msg.type === "status" && msg.status === "ping") {
      ws.send(JSON.stringify({ action: "pong" }));
    }
  });
  ws.on("error", () => {});
  ws.on("close", (code) => {
    say("close " + code);
    setTimeout(connect, reconnectInterval);
  });
}
connect();
