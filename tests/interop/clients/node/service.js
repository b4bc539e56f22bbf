"use strict";
/* The service side, azure-iothub: registry, service client and job client. Their REST half always dials port 443. */

const hub = require("azure-iothub");

const KINDS = { registry: hub.Registry, service: hub.Client, jobs: hub.JobClient };
const made = new Map(); // clients by kind and connection string

function client(kind, connection_string) {
  const key = `${kind} ${connection_string}`;
  if (!made.has(key)) {
    made.set(key, KINDS[kind].fromConnectionString(connection_string));
  }
  return made.get(key);
}

/** What a call gives: the body, without the HTTP response that some calls put beside it. */
function bodyOf(result) {
  if (result === undefined || result === null) {
    return null;
  }
  const value = result.responseBody ?? result.jobStatus ?? result.result ?? result;
  return JSON.parse(JSON.stringify(value, (key, each) => (key === "_registry" ? undefined : each)) ?? "null");
}

/** Call a method of a client; `on` is registry, service or jobs. */
async function call({ on, connection_string, method, arguments: given }) {
  return bodyOf(await client(on, connection_string)[method](...given));
}

/** All pages of a query, each a list: of twins, or of what else was selected. */
async function query({ connection_string, text, page_size }) {
  const asked = client("registry", connection_string).createQuery(text, page_size);
  const pages = [];
  do {
    const whole = /^select \*/i.test(text);
    pages.push(bodyOf(await (whole ? asked.nextAsTwin() : asked.next(asked.continuationToken))));
  } while (asked.hasMoreResults && pages.length < 100);
  return pages;
}

module.exports = { call, query };
