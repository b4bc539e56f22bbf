"use strict";
/* A device that registers (azure-iot-provisioning-device, by MQTT, WebSocket or HTTPS), and the service's own client
 * (azure-iot-provisioning-service).
 */

const { ProvisioningDeviceClient } = require("azure-iot-provisioning-device");
const { ProvisioningServiceClient } = require("azure-iot-provisioning-service");
const { SymmetricKeySecurityClient } = require("azure-iot-security-symmetric-key");
const { X509Security } = require("azure-iot-security-x509");
const transports = {
  mqtt: require("azure-iot-provisioning-device-mqtt").Mqtt,
  websocket: require("azure-iot-provisioning-device-mqtt").MqttWs,
  http: require("azure-iot-provisioning-device-http").Http,
};

/** Register once; the registration's state in the end. */
function register({ host, scope, registration, transport, key, x509, payload }) {
  const security = key
    ? new SymmetricKeySecurityClient(registration, key)
    : new X509Security(registration, { cert: x509.certificate, key: x509.key });
  const client = ProvisioningDeviceClient.create(host, scope, new transports[transport](), security);
  if (payload) {
    client.setProvisioningPayload(payload);
  }
  return new Promise((resolve, reject) => {
    client.register((error, result) => (error ? reject(error) : resolve(result)));
  });
}

/** Call a method of the service client; what it answers. One of the promises never settles: callbacks do. */
async function provisioning({ connection_string, method, arguments: words }) {
  const client = ProvisioningServiceClient.fromConnectionString(connection_string);
  const answer = await new Promise((resolve, reject) => {
    client[method](...words, (error, result) => (error ? reject(error) : resolve(result)));
  });
  return JSON.parse(JSON.stringify(answer ?? null));
}

/** All pages of a query of the service client. */
async function provisioning_query({ connection_string, method, page_size, of }) {
  const client = ProvisioningServiceClient.fromConnectionString(connection_string);
  const query = client[method]({ query: "SELECT *" }, ...(of ? [of] : []), page_size);
  const pages = [];
  do {
    const { result } = await new Promise((resolve, reject) => {
      query.next((error, result) => (error ? reject(error) : resolve({ result })));
    });
    pages.push(JSON.parse(JSON.stringify(result)));
  } while (query.hasMoreResults);
  return pages;
}

module.exports = { register, provisioning, provisioning_query };
