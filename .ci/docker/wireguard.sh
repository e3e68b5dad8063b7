# shellcheck shell=bash
# contrib/compose/wireguard.yml: gluetun has no port forwarding, so the sidecar leases the port from PIA itself.

# shellcheck source=.ci/docker/compose.sh
. .ci/docker/compose.sh

# write_pia_settings STACK: PIA's certificate, name and website are the simulator's, so gluetun must have been started. Its
# gateway is a local address, which the sidecar would not look for.
write_pia_settings() {
  local stack=$1 pia=$1/run/pia
  cp "$pia/login-ca.pem" "$stack/secrets/pia_login_ca"
  chown 65532:65532 "$stack/secrets/pia_login_ca"
  cat >"$stack/pia.yml" <<COMPOSE
services:
  sync:
    environment:
      PIA_CA_URL: http://127.0.0.1:8081/pia/gateway-ca.pem
      PIA_CA_SHA256: $(openssl x509 -in "$pia/gateway-ca.pem" -outform der | sha256sum | cut -d ' ' -f 1)
      PIA_LOGIN_CA_CERT: /run/secrets/pia_login_ca
$(sed -nE 's/^(PIA_GATEWAY|PIA_HOSTNAME|PIA_LOGIN_URL)=(.*)/      \1: "\2"/p' "$pia/env")
    secrets: [pia_login_ca]
secrets:
  pia_login_ca: {file: ./secrets/pia_login_ca}
COMPOSE
}

# test_wireguard FOLDER BUILDER: with a folder for the stack.
test_wireguard() {
  local stack=$1
  mkdir "$stack"
  cp contrib/compose/wireguard.yml "$stack/docker-compose.yml"
  cp -R contrib/compose/wireguard "$stack/"
  printf '[Interface]\nPrivateKey = none\n' >"$stack/pia.conf"
  check 'docker/wireguard: the commands in the first lines of wireguard.yml work' follow_header "$stack" docker-compose.yml
  write_override "$stack" "$2" true
  check 'docker/wireguard: Compose accepts the files' compose "$stack" config --quiet
  check 'docker/wireguard: wireguard.yml builds the sidecar from the repository' \
    eq "$(build_context -f contrib/compose/wireguard.yml)" "$PWD"
  compose "$stack" up --detach gluetun
  wait_for 20 test -s "$stack/run/pia/env" || fail 'docker/wireguard: the gateway starts within 20 s'
  write_pia_settings "$stack"
  check_start "$stack"
  check_lease "$stack"
  check_outages "$stack"
  remove_stack "$stack"
}

check_lease() {
  local stack=$1
  check 'docker/wireguard: the health check reports the port as bound' becomes "$stack" healthy 30 "port $first_port bound"
  check 'docker/wireguard: PIA has bound the port and has no complaints' \
    eq "$(count "$stack" pia bound) $(count "$stack" pia complaints)" "$first_port 0"
  check "docker/wireguard: PIA's CA certificate is in the volume, readable by the sidecar only" \
    eq "$(docker cp "$(container "$stack" sync):/state/ca.rsa.4096.crt" - |
      tar --list --verbose --numeric-owner | awk '{ print $1, $2 }')" '-rw------- 65532/65532'
  check 'docker/wireguard: qBittorrent still listens on the port after these checks' listens "$stack" "$first_port"
  check 'docker/wireguard: the log does not contain the password' \
    lacks "$(docker logs "$(container "$stack" sync)" 2>&1)" "$account_password"
}

check_outages() {
  local stack=$1
  docker exec "$(container "$stack" gluetun)" /bin/tunnel down
  check 'docker/wireguard: without a tunnel, the sidecar becomes unhealthy within 10 s' becomes "$stack" unhealthy 10 'traffic now leaves through eth0'
  docker exec "$(container "$stack" gluetun)" /bin/tunnel up
  check 'docker/wireguard: with the tunnel back, the sidecar becomes healthy within 60 s' becomes "$stack" healthy 60 "port $first_port bound"
  docker stop "$(container "$stack" qbittorrent)" >/dev/null
  check 'docker/wireguard: without qBittorrent, the sidecar becomes unhealthy within 10 s' \
    becomes "$stack" unhealthy 10 "nothing listens on port $first_port"
  check 'docker/wireguard: without qBittorrent, the port stays bound and PIA has no complaints' \
    eq "$(count "$stack" pia bound) $(count "$stack" pia complaints)" "$first_port 0"
}
