"use strict";
/* Devices and services, each a client of the unmodified Azure IoT SDKs for Node. NODE_PATH leads to the SDKs.
 *
 * Every line of standard input is a command, {"id": N, "do": NAME, ...}; commands of one line after the other run at the
 * same time. Every line of standard output is an answer, {"id": N, "ok": VALUE} or {"id": N, "error": {...}}, or news of
 * a client, {"client": NAME, "event": KIND, ...}. It is what tests/interop/clients/device.py is for Python.
 */

const readline = require("readline");
const { tell, described } = require("./telling");

const COMMANDS = {
  ...require("./device"),
  ...require("./service"),
  ...require("./plain"),
  ...require("./provisioning"),
};

async function run({ id, do: name, ...words }) {
  try {
    tell({ id, ok: (await COMMANDS[name](words)) ?? null });
  } catch (error) {
    tell({ id, error: described(error) });
  }
}

const lines = readline.createInterface({ input: process.stdin });
lines.on("line", (line) => run(JSON.parse(line)));
lines.on("close", () => process.exit(0));
