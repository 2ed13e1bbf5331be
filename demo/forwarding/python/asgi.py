"""FastAPI and httpx, by hand: a context variable keeps the value of the request.

    NEXT=http://backend.service/ uvicorn asgi:app
"""

import contextvars
import os

import httpx
from fastapi import FastAPI
from fastapi.responses import Response

app = FastAPI()
environment = contextvars.ContextVar("environment", default=None)


class Remember:
    """Keeps the value for all that the request does."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        value = dict(scope.get("headers", [])).get(b"x-mayfly")
        environment.set(value.decode() if value else None)
        await self.app(scope, receive, send)


app.add_middleware(Remember)


async def forward(request):
    """Sets the header on each call of a client."""
    if value := environment.get():
        request.headers["x-mayfly"] = value


# One client for all requests, and for your own services only.
client = httpx.AsyncClient(event_hooks={"request": [forward]})


@app.get("/")
async def call():
    """Calls the next service."""
    return Response((await client.get(os.environ["NEXT"])).content)


@app.get("/thread")
def call_in_a_thread():
    """FastAPI runs a function without `async` in a thread, with the context of the request."""
    value = environment.get()
    headers = {"x-mayfly": value} if value else {}
    return Response(httpx.get(os.environ["NEXT"], headers=headers).content)
