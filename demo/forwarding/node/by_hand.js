// Express and fetch, by hand: AsyncLocalStorage keeps the value of the request.
//
//     NEXT=http://backend.service/ PORT=8001 node by_hand.js

const { AsyncLocalStorage } = require("node:async_hooks");
const express = require("express");

const environment = new AsyncLocalStorage();
const app = express();

// Before all routes. What a route awaits keeps the value.
app.use((request, response, next) => environment.run(request.get("x-mayfly"), next));

// Use this in place of `fetch` for your own services.
function call(url, options = {}) {
  const headers = new Headers(options.headers);
  const value = environment.getStore();
  if (value !== undefined) headers.set("x-mayfly", value);
  return fetch(url, { ...options, headers });
}

app.get("/", async (request, response, next) => {
  try {
    response.send(await (await call(process.env.NEXT)).text());
  } catch (error) {
    next(error);
  }
});

app.listen(Number(process.env.PORT), "127.0.0.1");
