# An image in which everything is set up, for CPUs, or with DEVICE=cuda for GPUs. Its command is `make demo`:
#   docker build -t mmtwins . && docker run --rm --shm-size 2g -v "$PWD/work_dirs:/mmtwins/work_dirs" mmtwins
ARG DEVICE=cpu

FROM debian:12-slim AS base-cpu
ENV PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu

# The CUDA for which the torch of requirements/torch.txt is built: mmcv's operators are compiled with its nvcc.
FROM nvidia/cuda:13.0.1-devel-ubuntu24.04 AS base-cuda
# No GPU is visible while an image is built: name the architectures that it shall run on.
ARG TORCH_CUDA_ARCH_LIST="8.0;8.6;8.9;9.0"
ENV TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST}

# hadolint ignore=DL3006
FROM base-${DEVICE}
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        ca-certificates g++ git libgl1 libglib2.0-0 make python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/venv
ENV VIRTUAL_ENV=/opt/venv PATH=/opt/venv/bin:$PATH
WORKDIR /mmtwins
COPY . .
# mmcv's wheel stays in the builder's cache, so that a change of the sources does not cost another build of it.
RUN --mount=type=cache,target=/root/.cache make setup
CMD ["make", "demo"]
