# shellcheck shell=bash
# The Python daemon as its own installer left it, and what ours makes of its files. Definitions only.
# shellcheck source=.ci/install/lib.sh
. .ci/install/lib.sh

# The password in its settings.
awkward="it's 50% \"q\" \\ \$x \`y\` é"

# add_python MACHINE systemd|openrc: its CA is the machine's stand-in.
add_python() {
  local root=$1/root
  mkdir -p "$root/opt/$name/venv/bin"
  cp "$1/ca/ca.pem" "$root/opt/$name/ca.pem"
  # A program that runs under the daemon's name until it is ended.
  cp "$(type -P sleep)" "$root/opt/$name/venv/bin/python"
  case $2 in
  systemd)
    # In the file, next to the certificate; the installed copy is for every user to read.
    printf 'a secret of root\n' >>"$root/opt/$name/ca.pem"
    printf 'CHECK_INTERVAL="250"\n' >"$root/etc/pia-extra"
    python_unit >"$root/$unit"
    ;;
  openrc)
    mkdir -p "$root/etc/conf.d"
    python_confd >"$root/$confd"
    python_initd >"$root/$initd"
    chmod 755 "$root/$initd"
    ;;
  esac
}

python_unit() {
  cat <<'UNIT' | sed 's/$/\r/'
[Unit]
Description=PIA port forwarding for qBittorrent

[Service]
Type=simple
# Environment=PIA_HOSTNAME=not-this-one
Environment=PIA_USERNAME=p1234567
Environment="PIA_PASSWORD=it's 50%% \"q\" \\ $x `y` \xc3\251"
Environment='PIA_HOSTNAME=mexico409' PIA_GATEWAY=127.0.0.1:9 \
  "PIA_CA_CERT=/opt/pia-qbittorrent-sync/ca.pem"
Environment=PIA_TOKEN_FILE=/run/pia/token PYTHONUNBUFFERED=1
EnvironmentFile=-/etc/pia-extra
Environment=QBITTORRENT_USERNAME=admin QBITTORRENT_PASSWORD=web-password "QBITTORRENT_HOST=http://127.0.0.1:9/it's" CHECK_INTERVAL=200
Environment=LOG_FILE=/home/me/pia.log
ExecStart=/opt/pia-qbittorrent-sync/venv/bin/python 100000

[Install]
WantedBy=multi-user.target
UNIT
}

python_confd() {
  cat <<'CONFD' | sed 's/$/\r/'
# Settings
export PIA_USERNAME="p1234567"
export PIA_PASSWORD='the old "$password"'
export PIA_GATEWAY="127.0.0.1:9"
export PIA_CA_CERT=/opt/pia-qbittorrent-sync/ca.pem
export PIA_TOKEN_FILE="/run/pia/token"
export QBITTORRENT_HOST="http://127.0.0.1:9"
export LOG_FILE="/var/log/pia_qbittorrent_sync.log"
CONFD
}

python_initd() {
  cat <<'INITD'
#!/sbin/openrc-run
command="/opt/pia-qbittorrent-sync/venv/bin/python"
command_args="100000"
command_background="yes"
pidfile="/run/pia-qbittorrent-sync.pid"
INITD
}

# check_replaced_unit MACHINE SCENARIO, check_replaced_confd MACHINE SCENARIO: the files of the service that took over from it.
check_replaced_unit() {
  local machine=$1 scenario=$2 credentials=$1/root/$etc/credentials
  check "$scenario: PIA's password is a credential, verbatim" eq "$(cat "$credentials/PIA_PASSWORD")" "$awkward"
  check "$scenario: PIA's user name is a credential" eq "$(cat "$credentials/PIA_USERNAME")" p1234567
  check "$scenario: qBittorrent's user name is a credential" eq "$(cat "$credentials/QBITTORRENT_USERNAME")" admin
  check "$scenario: only root can read a credential" has_mode "$machine" "$etc/credentials/PIA_PASSWORD" 600
  check "$scenario: only root can enter the folder of credentials" has_mode "$machine" "$etc/credentials" 700
  check "$scenario: only root can read the settings" has_mode "$machine" "$etc/config.env" 600
  check "$scenario: every setting of the old unit is kept, and an EnvironmentFile wins" \
    eq "$(grep -v '^#' "$machine/root/$etc/config.env" | grep .)" "$(
      cat <<'SETTINGS'
CHECK_INTERVAL='250'
PIA_CA_CERT='/etc/pia-qbittorrent-sync/ca.rsa.4096.crt'
PIA_GATEWAY='127.0.0.1:9'
PIA_HOSTNAME='mexico409'
PIA_TOKEN_FILE='/run/pia/token'
QBITTORRENT_HOST="http://127.0.0.1:9/it's"
SETTINGS
    )"
  check "$scenario: the old CA certificate, and nothing else of its file, is copied to a folder that the service sees" \
    has_copy "$machine" "$etc/ca.rsa.4096.crt" "$machine/ca/ca.pem"
  check "$scenario: every user can read the CA certificate" has_mode "$machine" "$etc/ca.rsa.4096.crt" 644
  check "$scenario: a copy of the old unit is kept, for root only" has_mode "$machine" "$etc/replaced-$name.service" 600
  check "$scenario: the new unit takes the place of the old one" has_copy "$machine" "$unit" "systemd/$name.service"
}

check_replaced_confd() {
  local machine=$1 scenario=$2
  check "$scenario: the old settings are kept without their carriage returns" \
    eq "$(cat "$machine/root/$confd")" "$(python_confd | tr -d '\r')"
  check "$scenario: only root can read the settings" has_mode "$machine" "$confd" 600
  check "$scenario: the new template is stored next to the old settings" has_copy "$machine" "$confd.new" "openrc/$name.confd"
  check "$scenario: a copy of the old init script is kept, for root only" has_mode "$machine" "$etc/replaced-$name" 600
  check "$scenario: the new init script takes the place of the old one" has_copy "$machine" "$initd" "openrc/$name.initd"
}
