# shellcheck shell=bash
# The images of the pod: ours, from the last stage of the Dockerfile, and the stand-ins for gluetun and qBittorrent, whose
# programs are in .ci/kubernetes/gluetun and .ci/kubernetes/qbittorrent.

# shellcheck source=.ci/kubernetes/podman.sh
. .ci/kubernetes/podman.sh

# build_image ENGINE NAME FOLDER
build_image() { podman "$1" build --quiet --network none --tag "localhost/pia-sync-$2:ci" --file "$3/Dockerfile" "$3" >/dev/null; }

# test_images FOLDER ENGINE BINARY
test_images() {
  local folder=$1 engine=$2 name
  mkdir -p "$folder/sync/image/volumes/state"
  cp "$3" "$folder/sync/image/"
  chmod 700 "$folder/sync/image/volumes/state"
  # The lines from the last FROM on; what it copies from the stage before it comes from this folder.
  awk '/^FROM / { stage = "" } { stage = stage $0 "\n" } END { printf "%s", stage }' Dockerfile |
    sed 's,--from=binary ,,; s,^\(COPY .*\)/image/,\1image/,' >"$folder/sync/Dockerfile"
  check 'kubernetes/images: podman builds our image from the last stage of the Dockerfile' build_image "$engine" sync "$folder/sync"
  for name in gluetun qbittorrent; do
    cp -R ".ci/kubernetes/$name" "$folder/"
    add_busybox "$folder/$name"
    add_simulator "$folder/$name"
    printf 'FROM scratch\nCOPY . /\nENV PATH=/bin\nENTRYPOINT ["/start"]\n' >"$folder/$name/Dockerfile"
    build_image "$engine" "$name" "$folder/$name"
  done
}
