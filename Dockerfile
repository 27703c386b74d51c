# Two stages: build tools stay out of the final image. All installed packages are pinned by hash.
# To pin the base image, too, name it with its digest: --build-arg BASE=python:3.11-slim@sha256:…
ARG BASE=python:3.11-slim
FROM ${BASE} AS build
WORKDIR /src
# The data path is compiled to C.
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev
RUN python -m venv /opt/otlp-gateway && python -m venv /opt/build
COPY requirements-runtime.lock requirements-build.lock ./
RUN /opt/otlp-gateway/bin/pip install --no-cache-dir --require-hashes -r requirements-runtime.lock
RUN /opt/build/bin/pip install --no-cache-dir --require-hashes -r requirements-build.lock
COPY pyproject.toml setup.py README.md LICENSE NOTICE ./
COPY deploy/alerts.yaml deploy/dashboard.json deploy/gateway.schema.json ./deploy/
COPY deploy/share ./deploy/share
COPY gateway ./gateway
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
    && /opt/otlp-gateway/bin/pip install --no-cache-dir --no-deps /wheels/*.whl \
    && /opt/otlp-gateway/bin/gateway version \
    && /opt/otlp-gateway/bin/pip uninstall --yes setuptools pip

FROM ${BASE}
ARG VERSION=0.2.0
ARG REVISION=unknown
ARG SOURCE=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="otlp-gateway" \
      org.opencontainers.image.description="An authenticating gateway for OTLP and StackState telemetry" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.vendor="The otlp-gateway authors" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.created="${CREATED}"
# The base image's pip would be the only way to install anything here.
RUN python -m pip uninstall --yes --root-user-action=ignore setuptools wheel pip \
    && rm -rf /usr/local/lib/python3*/ensurepip /usr/local/lib/python3*/idlelib
RUN useradd --system --uid 10001 --home-dir /var/lib/otlp-gateway --shell /usr/sbin/nologin gateway \
    && install -d -o gateway -g gateway -m 0700 /var/lib/otlp-gateway
COPY --from=build /opt/otlp-gateway /opt/otlp-gateway
COPY LICENSE NOTICE /usr/share/doc/otlp-gateway/
COPY deploy/gateway.yaml /etc/otlp-gateway/gateway.yaml
# Nothing is written outside the volume: run it with --read-only.
ENV PATH=/opt/otlp-gateway/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    GATEWAY_CONFIG=/etc/otlp-gateway/gateway.yaml
# Numeric, so that Kubernetes can check that it is not root.
USER 10001:10001
VOLUME /var/lib/otlp-gateway
EXPOSE 4317 4318 9090
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD \
    ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:9090/livez', timeout=2)"]
# SIGTERM drains; see limits.drain_delay and limits.drain_timeout.
STOPSIGNAL SIGTERM
# The kernel discards what is sent to process 1 before it has a handler, unless the signal is blocked.
ENTRYPOINT ["env", "--block-signal=HUP,INT,TERM", "gateway"]
CMD ["serve"]
