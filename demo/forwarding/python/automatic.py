"""Flask, requests and httpx, with OpenTelemetry. The code does nothing for Mayfly.

    NEXT=http://backend.service/ OTEL_TRACES_EXPORTER=none OTEL_METRICS_EXPORTER=none \\
        OTEL_LOGS_EXPORTER=none opentelemetry-instrument flask --app automatic run
"""

import os
from concurrent.futures import ThreadPoolExecutor

import httpx
import requests
from flask import Flask

app = Flask(__name__)
pool = ThreadPoolExecutor(4)


@app.get("/")
def call():
    """Calls the next service with requests."""
    return requests.get(os.environ["NEXT"]).text


@app.get("/httpx")
def call_with_httpx():
    """Calls the next service with httpx."""
    return httpx.get(os.environ["NEXT"]).text


@app.get("/pool")
def call_in_a_pool():
    """opentelemetry-instrumentation-threading copies the context into the pool."""
    return pool.submit(call).result()
