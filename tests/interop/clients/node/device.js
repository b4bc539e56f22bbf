"use strict";
/* Devices and modules of azure-iot-device, by MQTT, MQTT over WebSocket, or HTTPS. */

const { Readable } = require("stream");
const { Client, ModuleClient, Message, SharedAccessKeyAuthenticationProvider } = require("azure-iot-device");
const transports = {
  mqtt: require("azure-iot-device-mqtt").Mqtt,
  websocket: require("azure-iot-device-mqtt").MqttWs,
  http: require("azure-iot-device-http").Http,
};
const { NoRetry } = require("azure-iot-common");
const { described, news } = require("./telling");

const SYSTEM = {
  message_id: "messageId",
  correlation_id: "correlationId",
  user_id: "userId",
  content_type: "contentType",
  content_encoding: "contentEncoding",
  expiry_time_utc: "expiryTimeUtc",
};
const devices = new Map(); // by the client's name: {client, kind, twin, messages}

function of(name) {
  return devices.get(name);
}

/** A client, not connected yet. `x509`: certificate and key as PEM. `token`: its seconds, and the margin of its end. */
async function create({ client: name, connection_string, transport = "mqtt", module, x509, ca, token, modelId, retry = true }) {
  const kind = module ? ModuleClient : Client;
  const client = token
    ? kind.fromAuthenticationProvider(
        SharedAccessKeyAuthenticationProvider.fromConnectionString(connection_string, token.seconds, token.margin),
        transports[transport],
      )
    : kind.fromConnectionString(connection_string, transports[transport]);
  if (x509 || ca || modelId) {
    // `ca` counts once the SDK has found that no file has this name: who connects before trusts the public roots. The
    // promise of the HTTPS transport never settles, and its options count at once.
    const set = client.setOptions({ cert: x509?.certificate, key: x509?.key, ca, modelId });
    if (transport !== "http") {
      await set;
    }
  }
  if (!retry) {
    client.setRetryPolicy(new NoRetry());
  }
  client.on("connect", () => news(name, "connected"));
  client.on("disconnect", ({ transportObj: error }) =>
    news(name, "disconnected", { error: error ? described(error) : null }),
  );
  client.on("error", (error) => news(name, "error", { error: described(error) }));
  devices.set(name, { client, transport, twin: null, messages: new Map() });
}

function connect({ client }) {
  return of(client).client.open().then(() => undefined);
}

function told(message) {
  const system = {};
  for (const [name, property] of Object.entries(SYSTEM)) {
    if (message[property] !== undefined && message[property] !== "") {
      system[name] = message[property];
    }
  }
  const properties = {};
  for (const { key, value } of message.properties.propertyList) {
    properties[key] = value;
  }
  return { body: message.getData().toString(), properties, system };
}

/** Receive cloud-to-device messages from now on. What is not settled at once waits for `settle`. */
function listen({ client: name, complete = true }) {
  const { client, messages } = of(name);
  client.on("message", (message) => {
    const said = told(message);
    messages.set(said.body, message);
    news(name, "message", said);
    if (complete) {
      client.complete(message, (error) => error && news(name, "error", { error: described(error) }));
    }
  });
}

/** Complete, reject or abandon the received message with this body. */
async function settle({ client: name, how, body }) {
  const { client, messages } = of(name);
  await client[how](messages.get(body));
}

function written(body, properties = {}, system = {}) {
  const message = new Message(body);
  for (const [key, value] of Object.entries(properties)) {
    message.properties.add(key, value);
  }
  for (const [key, value] of Object.entries(system)) {
    message[SYSTEM[key]] = value;
  }
  return message;
}

/** Send one message; returns when the hub has acknowledged it. */
async function send({ client, body, properties, system, output }) {
  const message = written(body, properties, system);
  if (output) {
    await of(client).client.sendOutputEvent(output, message);
  } else {
    await of(client).client.sendEvent(message);
  }
}

async function send_batch({ client, bodies, properties }) {
  await of(client).client.sendEventBatch(bodies.map((body) => written(body, properties)));
}

/** Send `count` messages one after the other, numbered from 0; tell of each acknowledged one, send again what failed. */
async function stream({ client: name, count, pause = 0 }) {
  for (let number = 0; number < count; ) {
    try {
      await of(name).client.sendEvent(new Message(String(number)));
      news(name, "sent", { number });
      number += 1;
    } catch (error) {
      news(name, "retry", { error: described(error) });
    }
    await new Promise((resume) => setTimeout(resume, pause * 1000));
  }
}

/** The twin's properties as the hub has them now. */
async function twin({ client: name }) {
  const device = of(name);
  device.twin = device.twin ? await device.twin.get() : await device.client.getTwin();
  return JSON.parse(JSON.stringify(device.twin.properties)); // without functions
}

/** Tell of every change of a desired property. `twin` has to come first. */
function watch({ client: name }) {
  of(name).twin.on("properties.desired", (patch) => news(name, "desired", { patch }));
}

/** Patch the reported properties. */
function report({ client, patch }) {
  return new Promise((resolve, reject) => {
    of(client).twin.properties.reported.update(patch, (error) => (error ? reject(error) : resolve()));
  });
}

/** Answer calls of a method from now on: with what was asked, after a pause. */
function answer({ client: name, method, status = 200, pause = 0 }) {
  const { client } = of(name);
  const handle = (request, response) => {
    news(name, "method", { method: request.methodName, payload: request.payload ?? null });
    const payload = { method: request.methodName, payload: request.payload };
    const told = (error) => error && news(name, "error", { error: described(error) });
    setTimeout(() => response.send(status, payload, told), pause * 1000);
  };
  if (client.onDeviceMethod) {
    client.onDeviceMethod(method, handle);
  } else {
    client.onMethod(method, handle);
  }
}

/** Upload a file; the hub says where it goes. */
async function upload({ client, name, text }) {
  await of(client).client.uploadToBlob(name, Readable.from(Buffer.from(text)), Buffer.byteLength(text));
}

async function disconnect({ client }) {
  await of(client).client.close();
}

async function shutdown({ client }) {
  const { client: ended } = of(client);
  devices.delete(client);
  ended.removeAllListeners();
  await ended.close();
}

module.exports = {
  answer, connect, create, disconnect, listen, report, send, send_batch, settle, shutdown, stream, twin, upload, watch,
};
