# syntax=docker/dockerfile:1
# An image that serves the models mounted at /models.
#   docker build -t turnout .                                   CPU
#   docker build -t turnout:gpu --build-arg EXTRAS=gpu,postgresql .   with the CUDA and cuDNN libraries from pip
#   docker run -e TURNOUT_INSECURE=true -p 127.0.0.1:8001:8001 -p 127.0.0.1:8000:8000 -v "$PWD/models:/models" turnout
# (add --gpus all for a GPU). It listens on every interface of its container, so it does not start without knowing who
# comes: give it certificates and TURNOUT_AUTH__ENABLED=true (docs/security.md), or say TURNOUT_INSECURE=true where, as
# above, the ports are published on loopback alone.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim-bookworm AS build
ARG EXTRAS=postgresql
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY protos protos
COPY server server
COPY client client
RUN python -m venv /opt/turnout \
 && /opt/turnout/bin/pip install --constraint constraints.txt ".[${EXTRAS}]"

FROM python:${PYTHON}-slim-bookworm
LABEL org.opencontainers.image.title="turnout" \
      org.opencontainers.image.description="Many semantic versions of an ONNX model behind one gRPC Predict" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin turnout \
 && install -d -o turnout -g turnout /models
COPY --from=build /opt/turnout /opt/turnout
ENV PATH=/opt/turnout/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    TURNOUT_MODELS=/models \
    TURNOUT_GRPC=0.0.0.0:8001 \
    TURNOUT_HTTP=0.0.0.0:8000
USER 10001
VOLUME /models
EXPOSE 8000 8001
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["turnout"]
CMD ["serve"]
