"""Flask and requests, by hand: a context variable keeps the value of the request.

    NEXT=http://backend.service/ flask --app by_hand run
"""

import contextvars
import os
from concurrent.futures import ThreadPoolExecutor

import requests
from flask import Flask, request

app = Flask(__name__)
environment = contextvars.ContextVar("environment", default=None)
pool = ThreadPoolExecutor(4)


@app.before_request
def remember():
    """Keeps the value for all that the request does."""
    environment.set(request.headers.get("x-mayfly"))


class Forward(requests.adapters.HTTPAdapter):
    """Sets the header on each call of a session."""

    def send(self, request, **kwargs):
        if value := environment.get():
            request.headers["x-mayfly"] = value
        return super().send(request, **kwargs)


def session():
    """Use this in place of `requests.get`. Its adapter is for your own services only."""
    made = requests.Session()
    made.mount(os.environ["NEXT"], Forward())
    return made


@app.get("/")
def call():
    """Calls the next service."""
    return session().get(os.environ["NEXT"]).text


@app.get("/pool")
def call_in_a_pool():
    """A thread of a pool does not have the context of the request, unless it is copied."""
    context = contextvars.copy_context()
    return pool.submit(context.run, call).result()
