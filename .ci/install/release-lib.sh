# shellcheck shell=bash
# A release for machines: its install.sh, which contains the checksums of the binary and of the service files, and a curl
# that serves both. Definitions only.
# shellcheck source=.ci/install/lib.sh
. .ci/install/lib.sh

# shellcheck disable=SC2034 # a scenario uses it
release=https://github.com/pia-qbittorrent-sync/pia-qbittorrent-sync/releases/download/v9.8.7
asset=$name-x86_64-unknown-linux-musl
services=$name-services.tar.gz

# add_curl MACHINE: busybox cannot check certificates, so this stand-in serves what is in /srv, and records the URLs in
# /srv/asked and the protocols that a redirect may lead to in /srv/protocols.
add_curl() {
  mkdir -p "$1/root/srv"
  cat >"$1/root/bin/curl" <<'CURL'
#!/bin/sh
while [ $# -gt 1 ]; do
  [ "$1" != --output ] || out=$2
  [ "$1" != --proto-redir ] || printf '%s\n' "$2" >>/srv/protocols
  shift
done
printf '%s\n' "$1" >>/srv/asked
exec cp "/srv/${1##*/}" "$out"
CURL
  chmod 755 "$1/root/bin/curl"
}

# add_release_script MACHINE BINARY SERVICES: as .ci/make-release does, with the checksums of these two files. It lies in
# /src with the service files and without a binary.
add_release_script() {
  local binary_sum services_sum
  binary_sum=$(sha256sum <"$2")
  services_sum=$(sha256sum <"$3")
  make_source "$1"
  rm "$1/root/src/$name"
  sed -e "s/^release_version=''$/release_version='9.8.7'/" \
    -e "s/^release_sums=''$/release_sums='${binary_sum%% *}  $asset\\n${services_sum%% *}  $services'/" \
    install.sh >"$1/root/src/install.sh"
}

# leave_script_alone MACHINE: install.sh is all that is left in /src.
leave_script_alone() { find "$1/root/src" -mindepth 1 -maxdepth 1 ! -name install.sh -exec rm -r {} +; }

# add_release MACHINE: all of a release that is as it should be, and its install.sh alone in /src.
add_release() {
  local srv=$1/root/srv
  add_curl "$1"
  cp "${1%/*}/$name" "$srv/$asset"
  tar -czf "$srv/$services" systemd openrc contrib
  add_release_script "$1" "$srv/$asset" "$srv/$services"
  leave_script_alone "$1"
}
