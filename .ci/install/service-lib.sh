# shellcheck shell=bash
# The service on a booted machine. Definitions only.
# shellcheck source=.ci/install/lib.sh
. .ci/install/lib.sh

# service MACHINE ACTION: by the machine's own service manager.
service() {
  case $(cat "$1/init") in
  systemd) enter "$1" systemctl "$2" "$name" ;;
  openrc) enter "$1" rc-service "$name" "$2" ;;
  esac
}
is_enabled() {
  case $(cat "$1/init") in
  systemd) enter "$1" systemctl --quiet is-enabled "$name" ;;
  openrc) has_file "$1" "etc/runlevels/default/$name" ;;
  esac
}

# Our process; empty when there is none.
daemon_pid() { enter "$1" pgrep -f "^/$installed" | head -n 1; }
is_running() { [ -n "$(daemon_pid "$1")" ] && service "$1" status >/dev/null; }
is_stopped() { eq "$(daemon_pid "$1")" ''; }
# is_another MACHINE PID, is_still MACHINE PID: the process that runs is not PID, or is.
is_another() { [ "$(daemon_pid "$1")" != "$2" ] && is_running "$1"; }
is_still() { eq "$(daemon_pid "$1")" "$2"; }

# reports MACHINE PROBLEM: in its status.
reports() {
  case $(cat "$1/init") in
  systemd) has "$(enter "$1" "/$installed" status)" "$2" ;;
  openrc) has "$(enter "$1" "/$installed" --config "/$confd" status)" "$2" ;;
  esac
}

# write_settings MACHINE CONFIGURATION: they are right, though no server listens at these addresses.
write_settings() {
  local root=$1/root configuration=$1/root/$2 settings
  settings=("$nowhere" "PIA_CA_SHA256=$(sum_of_ca "$1/ca/ca.pem")" "PIA_TOKEN_FILE=/$etc/token" PIA_GATEWAY=127.0.0.1:9
  PIA_LOGIN_URL=https://127.0.0.1:9/ QBITTORRENT_HOST=http://127.0.0.1:9)
  case $(cat "$1/init") in
  systemd)
    mkdir -p "$root/$etc/credentials"
    printf 'p1234567\n' >"$root/$etc/credentials/PIA_USERNAME"
    printf 'secret\n' >"$root/$etc/credentials/PIA_PASSWORD"
    chmod 600 "$root/$etc"/credentials/*
    printf '%s\n' "${settings[@]}" >>"$configuration"
    ;;
  openrc) printf 'export %s\n' PIA_USERNAME=p1234567 PIA_PASSWORD=secret "${settings[@]}" >>"$configuration" ;;
  esac
  # With a token the service proceeds to the gateway, for which it needs PIA's CA.
  printf 'a-token\n' >"$root/$etc/token"
  chmod 644 "$root/$etc/token"
}

# write_bad_setting MACHINE CONFIGURATION
write_bad_setting() {
  case $(cat "$1/init") in
  systemd) printf 'CHECK_INTERVAL=never\n' >>"$1/root/$2" ;;
  openrc) printf 'export CHECK_INTERVAL=never\n' >>"$1/root/$2" ;;
  esac
}
