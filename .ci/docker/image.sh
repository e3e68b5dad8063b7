# shellcheck shell=bash
# The image of the Dockerfile: how it is built, and what is in it.

# shellcheck source=.ci/docker/lib.sh
. .ci/docker/lib.sh

# build_image TAG BUILDER LOG
build_image() {
  docker build --network none --build-arg "RUST_IMAGE=$2" --build-arg REVISION=0123abc --tag "$1" . >"$3" 2>&1 || {
    tail -n 40 "$3"
    return 1
  }
}

# config_of TAG FIELD
config_of() { docker image inspect --format "{{$2}}" "$1"; }

# list_image TAG: mode, owner and path of every file and folder of the image; the Engine's own are left out.
list_image() {
  local container
  container=$(docker create "$1")
  docker export "$container" | tar --list --verbose --numeric-owner |
    awk '$6 !~ /^(\.dockerenv|(dev|etc|proc|sys)\/.*)$/ { print $1, $2, $6 }'
  docker rm --volumes "$container" >/dev/null
}

# run_with_unreadable_secret TAG FILE: the exit code is in the last line.
run_with_unreadable_secret() {
  local status=0
  install -m 600 /dev/null "$2"
  printf secret >"$2"
  docker run --rm --network none --volume "$2:/secret:ro" --env PORT_SOURCE=gluetun \
    --env GLUETUN_API_KEY_FILE=/secret "$1" 2>&1 || status=$?
  printf 'exit code %d\n' "$status"
}

# test_image FOLDER BUILDER
test_image() {
  local tag=pia-sync:ci most_bytes=2000000 size output
  mkdir "$1"
  check 'docker/image: the Dockerfile builds' build_image "$tag" "$2" "$1/build.log"
  info "image: $SECONDS s"
  size=$(config_of "$tag" .Size)
  check "docker/image: the image has $size bytes, at most $most_bytes" test "$size" -le "$most_bytes"
  check 'docker/image: the image contains the binary, a folder for the state, and nothing else' eq "$(list_image "$tag")" \
    $'-rwxr-xr-x 0/0 pia-qbittorrent-sync\ndrwx------ 65532/65532 state/'
  check 'docker/image: the user of the image is 65532' eq "$(config_of "$tag" .Config.User)" 65532:65532
  check 'docker/image: the stop signal of the image is SIGTERM' eq "$(config_of "$tag" .Config.StopSignal)" SIGTERM
  check 'docker/image: the health check of the image runs without a shell' eq "$(config_of "$tag" 'json .Config.Healthcheck.Test')" \
    '["CMD","/pia-qbittorrent-sync","healthcheck"]'
  check 'docker/image: the entry point of the image runs without a shell' \
    eq "$(config_of "$tag" 'json .Config.Entrypoint') $(config_of "$tag" 'json .Config.Cmd')" '["/pia-qbittorrent-sync"] null'
  check 'docker/image: the only volume of the image is /state' eq "$(config_of "$tag" 'json .Config.Volumes')" '{"/state":{}}'
  check 'docker/image: the variables of the image put state and token into /state' has "$(config_of "$tag" 'json .Config.Env')" \
    '"STATE_DIR=/state","PIA_TOKEN_FILE=/state/token"'
  check 'docker/image: the label of the image names the licence' has "$(config_of "$tag" 'json .Config.Labels')" '"org.opencontainers.image.licenses":"MIT"'
  check 'docker/image: the label of the image has the version of the program' \
    eq "pia-qbittorrent-sync $(config_of "$tag" 'index .Config.Labels "org.opencontainers.image.version"')" \
    "$(docker run --rm --network none "$tag" --version)"
  check 'docker/image: the label of the image has the revision that was given to the build' \
    eq "$(config_of "$tag" 'index .Config.Labels "org.opencontainers.image.revision"')" 0123abc

  output=$(run_with_unreadable_secret "$tag" "$1/unreadable")
  check 'docker/image: a secret that only root can read is named in the error' has "$output" '/secret'
  check 'docker/image: a secret that only root can read ends the program with exit code 78' eq "${output##*$'\n'}" 'exit code 78'
}
