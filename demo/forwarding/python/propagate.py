"""Flask and the API of OpenTelemetry, without its automatic instrumentation.

    NEXT=http://backend.service/ flask --app propagate run
"""

import os

import requests
from flask import Flask, request
from opentelemetry import context, propagate

app = Flask(__name__)


@app.before_request
def extract():
    """Makes the baggage of the request current."""
    request.token = context.attach(propagate.extract(request.headers))


@app.teardown_request
def detach(_):
    """Ends it."""
    context.detach(request.token)


@app.get("/")
def call():
    """Calls the next service."""
    headers = {}
    propagate.inject(headers)
    return requests.get(os.environ["NEXT"], headers=headers).text
