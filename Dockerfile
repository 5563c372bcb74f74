# For CPUs:  docker build -t sidetune .
# For GPUs:  docker build -t sidetune --build-arg DEVICE=gpu .   and run it with --gpus all
#
#     docker run --rm -v "$PWD:/work" sidetune run --out runs/first
#
# Files of runs are written to the current folder, and downloads to the volume /cache.
FROM python:3.11-slim

ARG DEVICE=cpu
WORKDIR /opt/sidetune

# PyTorch alone, which changes rarely; without a GPU in its build for CPUs, which is much smaller.
COPY constraints.txt ./
RUN pip install --no-cache-dir $(grep -E '^torch(vision)?==' constraints.txt) \
    $([ "$DEVICE" = gpu ] || echo --index-url https://download.pytorch.org/whl/cpu)

COPY pyproject.toml setup.cfg README.md LICENSE ./
COPY sidetune_core ./sidetune_core
COPY plugins ./plugins
RUN pip install --no-cache-dir . -c constraints.txt

ENV SIDETUNE_HOME=/cache
VOLUME /cache
WORKDIR /work
ENTRYPOINT ["sidetune"]
CMD ["--help"]
