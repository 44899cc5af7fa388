"""Traces of requests, in OpenTelemetry's terms and formats.

    context   who called, by W3C Trace Context                trace      what is noted of one request as it goes
    tracer    which requests are traced                       spans      a request that ended, as spans
    otlp      spans as OTLP's bytes                           exporter   bytes -> collector, by transport

Only `otlp` and `transport` import OpenTelemetry's own code, and nothing imports them if tracing is off.
"""
