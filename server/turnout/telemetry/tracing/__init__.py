"""Tracing of requests, in OpenTelemetry's terms and formats.

    context   the caller's span, from W3C Trace Context       trace      the timings recorded for one request
    tracer    decides which requests are traced               spans      makes the spans of an ended request
    otlp      encodes spans as OTLP                           exporter   sends them to a collector, by transport

Only `otlp` and `transport` import OpenTelemetry packages, and they are imported only if tracing is on.
"""
