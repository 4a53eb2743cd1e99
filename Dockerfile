# The agent, the libraries that it is linked with, and nothing else. For several architectures, compiled for each by the machine that builds:
#   docker buildx build --platform linux/amd64,linux/arm64 --tag REGISTRY/telesonde .
# (Podman 4.3 has to be told what Docker and newer ones know: --build-arg BUILDPLATFORM=linux/amd64, or what the machine is.)
# `cargo xtask image` makes the same root file system without Docker; `cargo xtask e2e dockerfile` builds this file with Podman.
FROM --platform=$BUILDPLATFORM rust:1.95-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends binutils ca-certificates clang libbpf-dev libcap2-bin linux-libc-dev
WORKDIR /source
COPY . .
ARG TARGETARCH
RUN cargo xtask image --root /root-of-image ${TARGETARCH:+--arch "$TARGETARCH"}

FROM scratch
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="telesonde" \
      org.opencontainers.image.description="Turns what the Linux kernel knows into telemetry" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
COPY --from=build /root-of-image /
ENV PATH=/usr/bin
# The binary's file permits CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN, as far as the container has them.
USER 65532:65532
EXPOSE 9464 9465
ENTRYPOINT ["/usr/bin/telesonde"]
CMD ["run"]
