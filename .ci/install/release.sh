# shellcheck shell=bash
# Binary and service files from the release that install.sh belongs to.
# shellcheck source=.ci/install/lib.sh
. .ci/install/lib.sh
# shellcheck source=.ci/install/release-lib.sh
. .ci/install/release-lib.sh

test_release() {
  local machine=$1/release
  make_machine "$machine"
  add_curl "$machine"
  check_release_binary "$machine" "$1/$name"
  check_architectures "$machine"
  check_release_services "$machine"
  # After the binary, which this changes.
  check_attestation "$machine"
  check 'install/release: install.sh works when it is read from a pipe' \
    enter "$machine" env "$nowhere" sh -c 'cat /src/install.sh | sh -s -- --init none >/dev/null 2>&1'
  remove_machine "$machine"
  check_redirect "$1"
}

# check_release_binary MACHINE BINARY
check_release_binary() {
  local machine=$1 srv=$1/root/srv
  rm "$machine/root/src/$name"
  check 'install/release: an install.sh from a checkout refuses to download without a checksum' \
    refuses_with "$machine" 1 'this install.sh is not from a release'
  check 'install/release: an install.sh from a checkout sends no request' has_no "$machine" srv/asked

  cp "$2" "$srv/$asset"
  printf 'something else' >"$machine/other"
  add_release_script "$machine" "$machine/other" "$machine/other"
  check 'install/release: a binary with a wrong checksum is an error' \
    refuses_with "$machine" 1 'wrong SHA-256 of pia-qbittorrent-sync-x86_64'
  check 'install/release: the binary of the release is the only request' eq "$(cat "$srv/asked")" "$release/$asset"
  check 'install/release: redirects may lead to https only' eq "$(sort -u "$srv/protocols")" =https
  add_release_script "$machine" "$srv/$asset" "$machine/other"
  check 'install/release: an installation from a release succeeds' installs "$machine"
  check "install/release: the release's binary is installed" has_copy "$machine" "$installed" "$2"
}

# pretend_machine MACHINE NAME: by `uname -m`.
pretend_machine() {
  rm -f "$1/root/bin/uname"
  printf '#!/bin/sh\necho %s\n' "$2" >"$1/root/bin/uname"
  chmod 755 "$1/root/bin/uname"
}

check_architectures() {
  local machine=$1 srv=$1/root/srv
  : >"$srv/asked"
  pretend_machine "$machine" aarch64
  check 'install/release: an installation on a Raspberry Pi fails when the release lacks its binary' \
    refuses_with "$machine" 1 'cannot download'
  check 'install/release: a Raspberry Pi requests the binary for aarch64' \
    has "$(cat "$srv/asked")" "$name-aarch64-unknown-linux-musl"
  pretend_machine "$machine" armv7l
  check 'install/release: an installation on an old NAS fails when the release lacks its binary' \
    refuses_with "$machine" 1 'cannot download'
  check 'install/release: an old NAS requests the binary for armv7' \
    has "$(cat "$srv/asked")" "$name-armv7-unknown-linux-musleabihf"
  pretend_machine "$machine" mips
  check 'install/release: an old router is an unsupported machine' refuses_with "$machine" 1 'there is no release for mips: build the binary'
  rm "$machine/root/bin/uname"
  ln -s busybox "$machine/root/bin/uname"
}

check_release_services() {
  local machine=$1 srv=$1/root/srv
  : >"$srv/asked"
  tar -C "$srv" -czf "$srv/$services" -T /dev/null
  add_release_script "$machine" "$srv/$asset" "$srv/$services"
  leave_script_alone "$machine"
  check 'install/release: a release without service files is an error for an install.sh alone' \
    refuses_with "$machine" 1 'the release lacks service files'
  tar -czf "$srv/$services" systemd openrc contrib
  check 'install/release: service files with a wrong checksum change nothing' \
    leaves_unchanged "$machine" refuses_with "$machine" 1 'wrong SHA-256'
  add_release_script "$machine" "$srv/$asset" "$srv/$services"
  leave_script_alone "$machine"
  check 'install/release: an installation with install.sh alone succeeds' installs "$machine"
  check 'install/release: install.sh alone downloads service files and binary' \
    eq "$(sed "s|$release/||" "$srv/asked" | sort -u)" "$services"$'\n'"$asset"
}

check_attestation() {
  local machine=$1
  printf '#!/bin/sh\n' >"$machine/root/bin/gh"
  chmod 755 "$machine/root/bin/gh"
  printf x >>"$machine/root/$installed"
  check 'install/release: an installation succeeds on a machine with gh' installs "$machine"
  check 'install/release: the installer prints the gh command that verifies the build' \
    prints "$machine" "gh attestation verify /$installed --repo pia-qbittorrent-sync/"
}

# check_redirect WORK: this machine's curl, and a server that leads from https to http.
check_redirect() {
  local machine=$1/redirect status=0
  start_machine "$machine"
  mkdir "$machine/served"
  printf 'downloaded\n' >"$machine/served/$name"
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj '/CN=127.0.0.1' \
    -addext subjectAltName=IP:127.0.0.1 -keyout "$machine/web.key" -out "$machine/web.pem" 2>/dev/null
  nsenter --net="$(network_of "$machine")" python3 - "$machine" <<'PYTHON' &
import http.server, ssl, sys, threading
machine = sys.argv[1]
class Redirects(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(302)
        self.send_header("Location", "http://127.0.0.1:8003" + self.path)
        self.end_headers()
class Serves(http.server.SimpleHTTPRequestHandler):
    def __init__(self, *arguments):
        super().__init__(*arguments, directory=machine + "/served")
secure = http.server.HTTPServer(("127.0.0.1", 8002), Redirects)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(machine + "/web.pem", machine + "/web.key")
secure.socket = context.wrap_socket(secure.socket, server_side=True)
threading.Thread(target=http.server.HTTPServer(("127.0.0.1", 8003), Serves).serve_forever, daemon=True).start()
open(machine + "/ready", "w").close()
secure.serve_forever()
PYTHON
  printf '%d\n' "$!" >"$machine/server"
  wait_for 20 test -e "$machine/ready" || fail 'install/release: the server that redirects starts'
  nsenter --net="$(network_of "$machine")" env CURL_CA_BUNDLE="$machine/web.pem" sh -c '. "$0"; fetch "$1" "$2"' \
    <(sed '$d' install.sh) "https://127.0.0.1:8002/$name" "$machine/fetched" >"$machine/output" 2>&1 || status=$?
  check 'install/release: a download over https does not follow a redirect to http' \
    eq "$status $(test -s "$machine/fetched" && echo fetched)" '1 '
  check 'install/release: the installer names the URL of a failed download' \
    prints "$machine" "cannot download https://127.0.0.1:8002/$name"
  info "install.sh printed: $(tr '\n' '|' <"$machine/output")"
  remove_machine "$machine"
}
