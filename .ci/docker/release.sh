# shellcheck shell=bash
# The images of a release, made of prebuilt binaries as in the release workflow. Nothing is pushed.

# shellcheck source=.ci/docker/lib.sh
. .ci/docker/lib.sh

# The binaries of build_binaries must be there.
test_release() {
  local platform
  check 'docker/release: .ci/make-release succeeds' .ci/make-release
  for platform in linux/amd64 linux/arm64 linux/arm/v7; do
    check "docker/release: the image for $platform builds" build --platform "$platform" --build-arg BINARY=prebuilt \
      --tag "pia-sync/release:${platform##*/}" .
  done
  check 'docker/release: the image for linux/arm/v7 is one of a 32-bit ARM' \
    eq "$(docker image inspect --format '{{.Architecture}} {{.Variant}}' pia-sync/release:v7)" 'arm v7'
  check 'docker/release: the image for linux/amd64 runs' \
    has "$(docker run --rm --network none pia-sync/release:amd64 --version)" 'pia-qbittorrent-sync '
}
