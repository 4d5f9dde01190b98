# The server in a container, without PyTorch, as a user without rights:
#   docker build --tag bitmar . && docker run --rm --publish 127.0.0.1:8000:8000 --env BITMAR_API_KEY=secret bitmar
#   docker run --rm --volume "$PWD:/data:ro" bitmar caption /data/photo.jpg
FROM python:3.11-slim-bookworm AS build
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --no-install-recommends --yes g++ \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY requirements requirements
RUN python -m venv /tools \
    && /tools/bin/pip install --no-cache-dir --no-deps --require-hashes --requirement requirements/build.txt \
    && python -m venv /app \
    && PATH=/tools/bin:$PATH /app/bin/pip install --no-cache-dir --no-deps --require-hashes --requirement requirements/serve.txt
COPY CMakeLists.txt pyproject.toml README.md LICENSE ./
COPY native native
COPY src src
RUN PATH=/tools/bin:$PATH BITMAR_REQUIRE_NATIVE=1 \
    /tools/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels . \
    && /app/bin/pip install --no-cache-dir --no-deps --no-index /wheels/*.whl \
    && /app/bin/pip uninstall --yes pip

FROM python:3.11-slim-bookworm
COPY --from=build /app /app
RUN useradd --uid 10001 --no-create-home bitmar && install --directory --owner bitmar /memory
USER 10001
ENV PATH=/app/bin:$PATH
VOLUME /memory
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["bitmar"]
CMD ["serve", "--host", "0.0.0.0", "--memory", "/memory/home.mem"]
