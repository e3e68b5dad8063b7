# shellcheck shell=bash
# contrib/compose/add-to-gluetun.yml: the sidecar for a user who has gluetun and qBittorrent already.

# shellcheck source=.ci/docker/compose.sh
. .ci/docker/compose.sh

# write_user_stack FOLDER: as found in many guides.
write_user_stack() {
  cat >"$1/docker-compose.yml" <<'COMPOSE'
services:
  gluetun:
    image: qmcgaw/gluetun
    cap_add: [NET_ADMIN]
    devices: ["/dev/net/tun:/dev/net/tun"]
    ports: ["8080:8080"]
    environment:
      VPN_SERVICE_PROVIDER: private internet access
      VPN_TYPE: openvpn
      SERVER_REGIONS: Netherlands
    secrets: [openvpn_user, openvpn_password]
    restart: unless-stopped
  qbittorrent:
    image: lscr.io/linuxserver/qbittorrent
    network_mode: service:gluetun
    depends_on: [gluetun]
    environment: {PUID: "1000", PGID: "1000", WEBUI_PORT: "8080"}
    volumes: ["qbittorrent:/config"]
    restart: unless-stopped
volumes:
  qbittorrent:
secrets:
  openvpn_user: {file: ./secrets/openvpn_user}
  openvpn_password: {file: ./secrets/openvpn_password}
COMPOSE
  mkdir "$1/secrets"
  printf %s p1234567 >"$1/secrets/openvpn_user"
  printf %s "$account_password" >"$1/secrets/openvpn_password"
}

# test_add_to_gluetun FOLDER BUILDER: with a folder for the stack.
test_add_to_gluetun() {
  local stack=$1 addition=contrib/compose/add-to-gluetun.yml
  mkdir "$stack"
  write_user_stack "$stack"
  cp "$addition" "$stack/"
  check 'docker/add-to-gluetun: the commands in the first lines of add-to-gluetun.yml work' follow_header "$stack" add-to-gluetun.yml
  # The file's header asks for a bypass of the password on loopback.
  write_override "$stack" "$2" false
  check 'docker/add-to-gluetun: Compose accepts the files' compose "$stack" config --quiet
  check 'docker/add-to-gluetun: add-to-gluetun.yml builds the sidecar from the repository' eq "$PWD" \
    "$(PIA_SYNC_REPOSITORY=$PWD build_context -f "$stack/docker-compose.yml" -f "$addition")"
  check_start "$stack"
  check 'docker/add-to-gluetun: gluetun accepted every request of the sidecar' eq "$(count "$stack" gluetun gluetun_rejected)" 0
  check 'docker/add-to-gluetun: PIA received no request' eq "$(count "$stack" pia logins)$(count "$stack" pia signatures)" 00
  check 'docker/add-to-gluetun: the check command reports that everything works' \
    has "$(compose "$stack" exec -T sync /pia-qbittorrent-sync check)" 'all is well'
  remove_stack "$stack"
}
