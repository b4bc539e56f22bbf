"use strict";
/* What all clients have in common: lines of JSON, and errors as the SDKs raise them. */

function tell(line) {
  process.stdout.write(JSON.stringify(line) + "\n");
}

function news(client, event, more = {}) {
  tell({ client, event, ...more });
}

/** The SDK's error and those behind it. A service's answer has a status and a body that says more. */
function described(error) {
  const causes = [];
  for (let cause = error; cause; cause = cause.innerError ?? cause.transportError) {
    causes.push(cause.name ?? String(cause));
  }
  const status = error.response?.statusCode ?? error.transportError?.response?.statusCode;
  return { module: "node", causes, text: error.message ?? String(error), status, body: error.responseBody };
}

module.exports = { tell, news, described };
