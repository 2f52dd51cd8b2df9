# The image of every Lengthwise process. Targets: cpu, gpu. scripts/image makes the wheels it copies:
# no package index is asked while it builds. Dependencies lie in a layer of their own below the code, so that
# a change of code moves a few megabytes. torch's own tests, headers and compiler are left out: 190 MB.
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS base
# Bytecode is written while installing; at run time the root file system is read-only.
ENV PATH=/opt/lengthwise/bin:$PATH \
    HOME=/tmp \
    USER=lengthwise \
    PYTHONDONTWRITEBYTECODE=1
RUN useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin lengthwise && \
    python3 -m venv /opt/lengthwise

FROM base AS cpu-dependencies
COPY build/wheels/cpu /wheels
RUN pip install --no-cache-dir --no-index --find-links /wheels --requirement /wheels/requirements.txt && \
    cd /opt/lengthwise/lib/python3*/site-packages/torch && \
    rm -rf test include bin/test_* bin/*Test* bin/protoc*

FROM base AS cpu
COPY --from=cpu-dependencies /opt/lengthwise /opt/lengthwise
COPY build/wheels/code /wheels
RUN pip install --no-cache-dir --no-deps --no-index /wheels/*.whl && \
    ln -s /opt/lengthwise/lib/python3*/site-packages/lengthwise_engine/demo_model /opt/lengthwise/
USER 10001:10001
CMD ["lengthwise", "--help"]

FROM base AS gpu-dependencies
COPY build/wheels/gpu /wheels
RUN pip install --no-cache-dir --no-index --find-links /wheels --requirement /wheels/requirements.txt && \
    cd /opt/lengthwise/lib/python3*/site-packages/torch && \
    rm -rf test include bin/test_* bin/*Test* bin/protoc*

# CUDA's libraries come with torch; the driver is the node's. Triton compiles its launcher with a C
# compiler when a worker first runs a kernel, into $HOME/.triton, which is on the pod's /tmp. Where the
# base image has no compiler, this is the one step that needs a network.
FROM base AS gpu
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN command -v cc >/dev/null || \
    { apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && \
      rm -rf /var/lib/apt/lists/*; }
COPY --from=gpu-dependencies /opt/lengthwise /opt/lengthwise
COPY build/wheels/code /wheels
RUN pip install --no-cache-dir --no-deps --no-index /wheels/*.whl && \
    ln -s /opt/lengthwise/lib/python3*/site-packages/lengthwise_engine/demo_model /opt/lengthwise/
USER 10001:10001
CMD ["lengthwise", "--help"]
