# Two images of one federation: "superlink" is Flower's hub, without torch; "client" trains, averages and submits.
# Behind a mirror, or for a CPU build of torch, pass --build-arg PIP_EXTRA_INDEX_URL=... or PIP_FIND_LINKS=...
FROM python:3.11-slim-bookworm AS base
ENV PYTHONUNBUFFERED=1 \
    PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    FLWR_HOME=/tmp/flwr \
    FLWR_TELEMETRY_ENABLED=0 \
    FLWR_DISABLE_UPDATE_CHECK=1 \
    FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1
# A volume takes over the owner of the folder that it is first mounted on.
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin fedhar \
    && install -d -o fedhar -g fedhar /state /server-runs

FROM base AS superlink-packages
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/venv
COPY constraints.txt /
RUN pip install --constraint /constraints.txt flwr

# Of the packages in pyproject.toml only those that a client, a server or a job imports; of seglearn only its data file.
FROM superlink-packages AS client-packages
RUN pip install --constraint /constraints.txt \
      dp-accounting httpx numpy pillow psutil pydantic pyyaml rich safetensors scikit-learn scipy tensorboard threadpoolctl torch torchjd \
    && pip install --constraint /constraints.txt --no-deps seglearn

FROM base AS superlink
COPY --from=superlink-packages /opt/venv /opt/venv
USER fedhar
ENTRYPOINT ["flower-superlink"]

FROM base AS client
COPY --from=client-packages /opt/venv /opt/venv
WORKDIR /app
COPY . .
RUN python -m compileall -q .
USER fedhar
