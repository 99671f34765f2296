# docker build -t quern .
# docker run --gpus all -p 8000:8000 -v /path/to/Qwen3-8B:/model quern --model /model
ARG CUDA_VERSION=13.0.1

FROM nvidia/cuda:${CUDA_VERSION}-devel-ubuntu24.04 AS build
WORKDIR /src
COPY scripts/install-deps scripts/
RUN scripts/install-deps build
COPY . .
RUN meson setup build --buildtype=release -Dcuda=enabled -Dtests=false && ninja -C build quern && strip build/quern
# Of CUDA only what the program loads (cuBLASLt, and NCCL when it is linked); libcuda comes from the host.
RUN mkdir /libraries && \
    ldd build/quern | awk '/libcublas|libcudart|libnccl/ { print $3 }' | xargs -r cp -L -t /libraries

FROM ubuntu:24.04
COPY scripts/install-deps scripts/healthcheck /opt/quern/scripts/
RUN /opt/quern/scripts/install-deps runtime && rm -rf /var/lib/apt/lists/*
COPY --from=build /libraries/ /opt/quern/lib/
COPY --from=build /src/build/quern /opt/quern/bin/
COPY config/shapes /opt/quern/config/shapes
COPY models/demo /opt/quern/models/demo
ENV LD_LIBRARY_PATH=/opt/quern/lib \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /opt/quern
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=10m CMD ["scripts/healthcheck"]
ENTRYPOINT ["bin/quern", "serve", "--host", "0.0.0.0"]
CMD ["--model", "models/demo"]
