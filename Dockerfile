# Three images: `api`, `control` and `worker`.
#
#   docker build --target api --tag mixkd-api .
#   docker build --target control --tag mixkd-control .
#   docker build --target worker --build-arg TORCH=cuda --tag mixkd-worker .     (or TORCH=cpu)
#
# How they are run: docker-compose.yml and docs/deploy.md.

# 3.11 is what constraints.txt is tested with.
ARG PYTHON=docker.io/library/python:3.11-slim-bookworm

FROM ${PYTHON} AS tools
ENV PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src


# The dashboard's scripts. No image of Node.js: without an npm the script takes the one that constraints.txt pins.
FROM tools AS assets
COPY constraints.txt ./
COPY scripts/assets.py scripts/
COPY api/dashboard/package.json api/dashboard/package-lock.json api/dashboard/
RUN python scripts/assets.py


# Our own code, as a wheel.
FROM tools AS wheel
COPY pyproject.toml README.md LICENSE ./
COPY migrations migrations
COPY mixkd mixkd
COPY core core
COPY worker worker
COPY api api
COPY --from=assets /src/api/dashboard/static/vendor api/dashboard/static/vendor
RUN pip wheel --no-deps --wheel-dir /wheels .


# What the API and the control worker need: no torch. The environment has no pip; that of the base image fills it.
FROM tools AS service-packages
RUN python -m venv --without-pip /opt/mixkd
ENV PIP_PYTHON=/opt/mixkd/bin/python
COPY pyproject.toml constraints.txt docker/requirements.py ./
RUN python requirements.py > requirements.txt \
    && pip install --constraint constraints.txt --requirement requirements.txt

# Our code by itself too, under /code: a layer of its own, so that an upgrade does not bring every package again.
FROM service-packages AS service-code
COPY --from=wheel /wheels /wheels
RUN pip install --no-deps --root /code /wheels/*.whl \
    && pip install --no-deps /wheels/*.whl \
    && pip check


# The worker's, with torch. The default is the build that is right everywhere, if large: on a machine with a GPU
# the CPU build would take GPU jobs and train them on the CPU.
FROM tools AS worker-packages
RUN python -m venv --without-pip /opt/mixkd
ENV PIP_PYTHON=/opt/mixkd/bin/python
COPY pyproject.toml constraints.txt docker/requirements.py ./
ARG TORCH=cuda
# As scripts/environment.py does it: alone and first, so that what follows finds it and looks for no other build.
# PyPI's own Linux build is the CUDA one. The CPU build is asked of pip's own sources first, for those with a mirror.
RUN set -eu; version="$(sed -n 's/^torch==//p' constraints.txt)"; \
    case "$TORCH" in \
    cpu) pip install --no-deps "torch==$version+cpu" \
         || pip install --no-deps --index-url https://download.pytorch.org/whl/cpu "torch==$version+cpu" ;; \
    cuda) pip install --no-deps "torch==$version,!=$version+cpu" ;; \
    *) echo "TORCH is '$TORCH'; it must be cpu or cuda" >&2; exit 2 ;; \
    esac
RUN python requirements.py train onnx > requirements.txt \
    && pip install --constraint constraints.txt --requirement requirements.txt

FROM worker-packages AS worker-code
COPY --from=wheel /wheels /wheels
RUN pip install --no-deps --root /code /wheels/*.whl \
    && pip install --no-deps /wheels/*.whl \
    && pip check


# What all three share. Only /var/lib/mixkd and /tmp have to be writable; the rest may be mounted read-only.
FROM ${PYTHON} AS runtime
# One number in every image, also where names mean nothing (volumes, NFS): files in storage are their owner's only.
RUN groupadd --system --gid 10001 mixkd \
    && useradd --system --uid 10001 --gid mixkd --home-dir /tmp --no-create-home --shell /usr/sbin/nologin mixkd \
    && install --directory --owner mixkd --group mixkd --mode 0700 \
       /var/lib/mixkd /var/lib/mixkd/storage /var/lib/mixkd/work
# pip has compiled everything; nothing more is to be written. A trainer gets a HOME in its own work folder.
ENV PATH=/opt/mixkd/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    MIXKD_WORK_DIR=/var/lib/mixkd/work
COPY docker/health.py /usr/local/lib/mixkd/health.py
WORKDIR /var/lib/mixkd
USER 10001:10001
# `mixkd-server` becomes the process that it starts (exec), so this reaches the one that it is meant for.
STOPSIGNAL SIGTERM
ENTRYPOINT ["mixkd-server"]
LABEL org.opencontainers.image.title="mixkd" \
      org.opencontainers.image.description="Distillation as a job: MixKD as a self-hosted web service" \
      org.opencontainers.image.licenses="Apache-2.0"


FROM runtime AS service
COPY --from=service-packages /opt/mixkd /opt/mixkd
COPY --from=service-code /code/opt/mixkd /opt/mixkd


FROM service AS api
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.version=$VERSION org.opencontainers.image.revision=$REVISION
EXPOSE 8000
# /healthz, not /readyz: a database that is away is not cured by a new API.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 \
    CMD ["python", "-P", "/usr/local/lib/mixkd/health.py", "api"]
CMD ["api", "--host", "0.0.0.0"]


FROM service AS control
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.version=$VERSION org.opencontainers.image.revision=$REVISION
HEALTHCHECK --interval=60s --timeout=30s --start-period=120s --retries=3 \
    CMD ["python", "-P", "/usr/local/lib/mixkd/health.py", "control"]
CMD ["control"]


FROM runtime AS worker
COPY --from=worker-packages /opt/mixkd /opt/mixkd
COPY --from=worker-code /code/opt/mixkd /opt/mixkd
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.version=$VERSION org.opencontainers.image.revision=$REVISION
# What the container gets of the driver: CUDA, and NVML for the metrics.
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
HEALTHCHECK --interval=60s --timeout=30s --start-period=120s --retries=3 \
    CMD ["python", "-P", "/usr/local/lib/mixkd/health.py", "worker"]
CMD ["worker"]
