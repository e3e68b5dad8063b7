# shellcheck shell=bash
# Images of the stand-ins for gluetun and LinuxServer's qBittorrent. Their programs are in .ci/docker/vpn and
# .ci/docker/qbittorrent.

# shellcheck source=.ci/docker/lib.sh
. .ci/docker/lib.sh

# make_vpn FOLDER
make_vpn() {
  local folder=$1
  cp -R .ci/docker/vpn "$folder"
  add_busybox "$folder"
  add_simulator "$folder"
  cat >"$folder/Dockerfile" <<DOCKERFILE
FROM scratch
COPY . /
ENV PATH=/bin PORT=$first_port GATEWAY=$gateway
HEALTHCHECK --interval=1s CMD ["/bin/healthy"]
ENTRYPOINT ["/start"]
DOCKERFILE
  build --tag "$vpn_image" "$folder"
}

# make_qbittorrent FOLDER: with the real qbittorrent-nox of Debian 13.
make_qbittorrent() {
  local folder=$1 suite=trixie client=${CLIENT_ROOTS:-$CACHE/clients}/qbittorrent
  .ci/fetch-client qbittorrent "$suite" >/dev/null
  cp -R .ci/docker/qbittorrent "$folder"
  mkdir -p "$folder/qbittorrent" "$folder/tmp"
  cp -al "$client/$suite/root" "$client/$suite/bin" "$folder/qbittorrent/" 2>/dev/null ||
    cp -a "$client/$suite/root" "$client/$suite/bin" "$folder/qbittorrent/"
  add_busybox "$folder"
  cat >"$folder/Dockerfile" <<'DOCKERFILE'
FROM scratch
COPY . /
ENV PATH=/bin LC_ALL=C.UTF-8 HOME=/config
ENTRYPOINT ["/start"]
DOCKERFILE
  build --tag "$qbittorrent_image" "$folder"
}
