# The server with its poet and its painter, for the CPU:
#   docker build -t qianyi .
#   docker run -p 127.0.0.1:8080:8080 -p 127.0.0.1:50051:50051 --memory 1g qianyi
# Another model, and keys: docker run -v /srv/models:/models:ro -v /srv/keys:/keys:ro … qianyi \
#   --model /models/NAME --keys /keys/keys.json
# tests/container/replay runs these steps where there is no container engine.

FROM debian:12-slim AS build
WORKDIR /src
COPY scripts/setup scripts/setup
RUN scripts/setup build
COPY CMakeLists.txt CMakePresets.json ./
COPY cmake cmake
COPY kernels kernels
COPY proto proto
COPY runtime runtime
COPY server server
COPY cli cli
RUN cmake --preset release -DQIANYI_TESTS=OFF -DQIANYI_BENCHMARKS=OFF \
    && cmake --build --preset release --target qianyi \
    && strip build/bin/qianyi

FROM debian:12-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        libabsl20220623 libgrpc++1.51 libicu72 libprometheus-cpp-core1.0 libprotobuf32 \
        liburing2 libxxhash0 libpng16-16 libjpeg62-turbo libwebp7 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --no-create-home --shell /usr/sbin/nologin qianyi
COPY --from=build /src/build/bin/qianyi /usr/local/bin/qianyi
COPY models /models
USER qianyi
EXPOSE 8080 50051
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
  CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8080 && printf 'GET /health/ready HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n' >&3 && read -r _ status _ <&3 && [ $status = 200 ]"]
ENTRYPOINT ["qianyi", "serve", "--host", "0.0.0.0"]
CMD ["--model", "/models/poet", "--model", "/models/painter", "--no-keys"]
