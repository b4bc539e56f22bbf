"use strict";
/* MQTT.js alone, as programs use it that have no SDK. */

const mqtt = require("mqtt");
const { news } = require("./telling");

const clients = new Map();

/** Connect; `options` are MQTT.js's own. Returns what the CONNACK says. */
function mqtt_connect({ client: name, url, options }) {
  return new Promise((resolve, reject) => {
    const client = mqtt.connect(url, { reconnectPeriod: 0, ...options });
    client.once("connect", (connack) => resolve({ session_present: connack.sessionPresent }));
    client.once("error", reject);
    client.on("message", (topic, body) => news(name, "message", { topic, body: body.toString() }));
    clients.set(name, client);
  });
}

async function mqtt_subscribe({ client, filter, qos = 1 }) {
  return (await clients.get(client).subscribeAsync(filter, { qos })).map((granted) => granted.qos);
}

/** Publish; returns when it is acknowledged. */
async function mqtt_publish({ client, topic, body, qos = 1 }) {
  await clients.get(client).publishAsync(topic, body, { qos });
}

async function mqtt_end({ client }) {
  await clients.get(client).endAsync();
  clients.delete(client);
}

module.exports = { mqtt_connect, mqtt_end, mqtt_publish, mqtt_subscribe };
