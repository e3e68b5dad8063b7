# The image: one static binary and nothing else.
#
# `docker build .` builds the binary in an image with Rust, for this machine's linux/amd64 or linux/arm64. With
# `--build-arg BINARY=prebuilt` it uses the binary that .ci/make-release has put into dist/. Releases are built that way, for
# linux/arm/v7 as well, and use no base image.

ARG BINARY=build
# Any image whose Rust targets musl natively, such as Alpine's. For reproducible bytes use .ci/build-musl.
ARG RUST_IMAGE=rust:1.94.1-alpine3.23@sha256:77237dd363a0b127bb5ef532c2d64c0deb380b738e43a9c4bdac73398d6d0a08

FROM ${RUST_IMAGE} AS build
WORKDIR /source
COPY Cargo.toml Cargo.lock ./
COPY src src
ARG TARGETARCH
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/source/target,sharing=locked \
    case "$TARGETARCH" in \
      amd64) target=x86_64-unknown-linux-musl ;; \
      arm64) target=aarch64-unknown-linux-musl ;; \
      *) echo "no Rust on Alpine for '$TARGETARCH': --build-arg BINARY=prebuilt" >&2 && exit 64 ;; \
    esac \
    && cargo build --release --locked --bin pia-qbittorrent-sync --target "$target" \
    && install -D -m 0755 "target/$target/release/pia-qbittorrent-sync" /image/pia-qbittorrent-sync \
    && install -d -m 0700 /image/volumes/state

FROM scratch AS prebuilt
ARG TARGETARCH
ARG TARGETVARIANT
COPY dist/image/linux-${TARGETARCH}${TARGETVARIANT} /image

FROM ${BINARY} AS binary

FROM scratch
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="pia-qbittorrent-sync" \
      org.opencontainers.image.description="Keeps PIA's forwarded port bound and the torrent client listening on it" \
      org.opencontainers.image.source="https://github.com/pia-qbittorrent-sync/pia-qbittorrent-sync" \
      org.opencontainers.image.documentation="https://github.com/pia-qbittorrent-sync/pia-qbittorrent-sync#readme" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=binary /image/pia-qbittorrent-sync /
# A new volume inherits the owner of the folder in the image.
COPY --from=binary --chown=65532:65532 /image/volumes/ /
# hadolint takes this path for a token.
# hadolint ignore=DL3064
ENV STATE_DIR=/state \
    PIA_TOKEN_FILE=/state/token \
    EXIT_WHEN_ISOLATED=60
VOLUME /state
USER 65532:65532
STOPSIGNAL SIGTERM
# The start period gives the VPN time to connect.
HEALTHCHECK --interval=20s --timeout=5s --start-period=2m --retries=2 \
    CMD ["/pia-qbittorrent-sync", "healthcheck"]
ENTRYPOINT ["/pia-qbittorrent-sync"]
