# syntax=docker/dockerfile:1
# The GPU server. Not run: no machine of this project's CI has a GPU or NVIDIA's registry.
#
# The image and the TensorRT inside it belong together, and are written here and nowhere else:
# 25.10 of NVIDIA's framework containers has CUDA 13.0.2 and TensorRT 10.13.3.9 (their environment's
# TRT_VERSION, and the label com.nvidia.tensorrt.version). A plan loads in the version that built it.
ARG TRITON_TAG=25.10-py3
FROM nvcr.io/nvidia/tritonserver:${TRITON_TAG}
ARG TENSORRT_VERSION=10.13.3.9

# Refuses another pair at once, not when the first plan is loaded. TRT_VERSION is the image's own.
RUN case "${TRT_VERSION}" in "${TENSORRT_VERSION}"*) ;; *) \
      echo "TENSORRT_VERSION: expected ${TRT_VERSION}, which this image has, got ${TENSORRT_VERSION}"; \
      exit 1;; esac

WORKDIR /opt/stars
COPY pyproject.toml README.md LICENSE ./
COPY engine engine
COPY kernels kernels
# The same version as the server's library: the builder runs here too, on the card that serves.
RUN python3 -m pip install --no-cache-dir --break-system-packages ".[gpu]" \
      "tensorrt-cu13==${TENSORRT_VERSION}" --extra-index-url https://pypi.nvidia.com
COPY model_repository model_repository
EXPOSE 8000 8001 8002
CMD ["tritonserver", "--model-repository=/opt/stars/model_repository", "--model-config-name=gpu"]
