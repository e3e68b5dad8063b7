# shellcheck shell=bash
# The stand-in for the Rust Alpine image: Debian's rustc, the standard library built from its source, and zig as C compiler
# and linker, as in .ci/build-musl. The crates of the lock files are in the image, because a build has no network.

# shellcheck source=.ci/docker/lib.sh
. .ci/docker/lib.sh

zig_version() { sed -n 's/^zig_version=//p' .ci/build-musl; }
zig_folder() { printf '%s/zig-%s\n' "$CACHE" "$(zig_version)"; }

# A release needs the binaries of three architectures, and the builder needs their tools. .ci/test-binaries leaves both.
build_binaries() {
  local arch
  [ -x "$(zig_folder)/bin/zig-ld-x86_64" ] || .ci/build-musl x86_64
  for arch in x86_64 aarch64 armv7; do
    [ -x "$(musl_binary "$arch")" ] || .ci/build-musl "$arch"
  done
}

toolchain_tag() { printf 'pia-sync/toolchain:zig-%s\n' "$(zig_version)"; }

# make_toolchain FOLDER: the part of the builder that does not depend on our dependencies.
make_toolchain() {
  local folder=$1 zig tool
  ! has_image "$(toolchain_tag)" || return 0
  info 'making the toolchain image'
  zig=$(zig_folder)
  mkdir -p "$folder/bin"
  # In /var/tmp: the /dev/shm of a container has 64 MB.
  TMPDIR=/var/tmp mmdebstrap --quiet --variant=minbase --include=rustc-web,cargo-web,rust-web-src,gcc,libc6-dev \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' '' "$folder.tar" \
    "deb $(mirror) bookworm main" "deb $(mirror security) bookworm-security main" >"$folder.log" 2>&1 || {
    tail -n 20 "$folder.log"
    return 1
  }
  docker import "$folder.tar" pia-sync/debian-rust:latest >/dev/null
  rm "$folder.tar"
  cp -r "$zig"/lib/python3*/site-packages/ziglang "$folder/zig"
  for tool in zig-ar zig-cc-x86_64 zig-ld-x86_64; do
    sed -e "s,$zig/bin/python -m ziglang,/opt/zig/zig," -e "s,$zig/bin/,/usr/local/bin/," "$zig/bin/$tool" >"$folder/bin/$tool"
  done
  cat >"$folder/bin/cargo" <<'CARGO'
#!/bin/sh
# Builds the standard library as well, because Debian's rustc has none for musl.
case $1 in
build) exec /usr/bin/cargo "$@" -Zbuild-std=std,panic_abort -Zbuild-std-features=optimize_for_size ;;
*) exec /usr/bin/cargo "$@" ;;
esac
CARGO
  chmod 755 "$folder"/bin/*
  cat >"$folder/Dockerfile" <<'DOCKERFILE'
FROM pia-sync/debian-rust:latest
COPY zig /opt/zig
COPY bin /usr/local/bin
ENV PATH=/usr/local/bin:/usr/bin:/bin \
    CARGO_HOME=/usr/local/cargo \
    CARGO_NET_OFFLINE=true \
    RUSTC=/usr/bin/rustc \
    RUSTC_BOOTSTRAP=1 \
    ZIG_GLOBAL_CACHE_DIR=/tmp/zig \
    ZIG_LOCAL_CACHE_DIR=/tmp/zig \
    CARGO_TARGET_X86_64_UNKNOWN_LINUX_MUSL_LINKER=/usr/local/bin/zig-ld-x86_64 \
    CARGO_TARGET_X86_64_UNKNOWN_LINUX_MUSL_RUSTFLAGS=-Clink-self-contained=no \
    CC_x86_64_unknown_linux_musl=/usr/local/bin/zig-cc-x86_64 \
    AR_x86_64_unknown_linux_musl=/usr/local/bin/zig-ar
DOCKERFILE
  build --tag "$(toolchain_tag)" "$folder"
}

vendor_config='[source.crates-io]
replace-with = "vendor"
[source.vendor]
directory = "/usr/local/cargo/vendor"'

# builder_tag: changes with the toolchain and the lock file. The toolchain must have been made.
builder_tag() {
  printf 'pia-sync/builder:%s\n' "$({
    docker image inspect --format '{{.Id}}' "$(toolchain_tag)"
    printf '%s\n' "$vendor_config"
    cat Cargo.lock
  } | sha256sum | cut -c 1-16)"
}

# make_builder FOLDER TAG: the toolchain with the crates of our lock file and of the standard library's.
make_builder() {
  local folder=$1 tag=$2 library=/usr/lib/rustlib/src/rust/library container
  ! has_image "$tag" || return 0
  info 'making the builder image'
  docker images --quiet pia-sync/builder | xargs -r /usr/bin/docker rmi --force >/dev/null
  mkdir -p "$folder"
  container=$(docker create "$(toolchain_tag)" true)
  docker cp "$container:$library" "$folder.library"
  docker rm "$container" >/dev/null
  RUSTC_BOOTSTRAP=1 RUSTC=/usr/bin/rustc /usr/bin/cargo vendor --quiet --locked --versioned-dirs \
    --sync "$folder.library/Cargo.toml" "$folder/vendor" >/dev/null
  printf '%s\n' "$vendor_config" >"$folder/config.toml"
  printf 'FROM %s\nCOPY config.toml /usr/local/cargo/\nCOPY vendor /usr/local/cargo/vendor\n' "$(toolchain_tag)" >"$folder/Dockerfile"
  build --tag "$tag" "$folder"
}
