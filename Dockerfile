# Two stages: build tools stay out of the final image. All installed packages are pinned by hash.
FROM python:3.11-slim AS build
WORKDIR /src
# The data path is compiled to C.
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev
RUN python -m venv /opt/otlp-gateway && python -m venv /opt/build
COPY requirements-runtime.lock requirements-build.lock ./
RUN /opt/otlp-gateway/bin/pip install --no-cache-dir --require-hashes -r requirements-runtime.lock
RUN /opt/build/bin/pip install --no-cache-dir --require-hashes -r requirements-build.lock
COPY pyproject.toml setup.py README.md ./
COPY gateway ./gateway
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
    && /opt/otlp-gateway/bin/pip install --no-cache-dir --no-deps /wheels/*.whl \
    && /opt/otlp-gateway/bin/gateway version \
    && /opt/otlp-gateway/bin/pip uninstall --yes setuptools pip

FROM python:3.11-slim
RUN useradd --system --uid 10001 --home-dir /var/lib/otlp-gateway --shell /usr/sbin/nologin gateway \
    && install -d -o gateway -g gateway -m 0700 /var/lib/otlp-gateway
COPY --from=build /opt/otlp-gateway /opt/otlp-gateway
COPY deploy/gateway.yaml /etc/otlp-gateway/gateway.yaml
ENV PATH=/opt/otlp-gateway/bin:$PATH \
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
