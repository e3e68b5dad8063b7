# shellcheck shell=bash
# PIA's CA certificate: fetched once, only where the service needs it, and only the right one.
# shellcheck source=.ci/install/lib.sh
. .ci/install/lib.sh

pias_sum=1fd25658456eab3041fba77ccd398ab8124edcc1b8b2fc1d55fdf6b1bbfc9d70

test_ca() {
  local machine=$1/ca sum ca
  make_machine "$machine"
  make_ca "$machine"
  sum=$(sum_of_ca "$machine/ca/ca.pem")
  ca=(PIA_CA_URL=http://127.0.0.1:8001/ca.pem "PIA_CA_SHA256=$sum")
  installs "$machine" || fail 'install/ca: an installation without the CA succeeds'

  serve "$machine" "$machine/ca" 8001
  check "install/ca: an installation succeeds when the server has a different certificate than PIA's" installs "$machine" "${ca[0]}"
  check 'install/ca: the installer reports the checksums of both, received and expected' \
    eq "$(grep -oE '[0-9a-f]{64}' "$machine/output")" "$sum"$'\n'"$pias_sum"
  check 'install/ca: a wrong certificate is not stored' has_no_state "$machine"
  check 'install/ca: an installation succeeds with a malformed checksum in the environment' \
    installs "$machine" PIA_CA_SHA256=1234
  check 'install/ca: the installer reports the malformed checksum' prints "$machine" 'PIA_CA_SHA256=1234: is not a SHA-256'
  stop_serving "$machine"

  serve "$machine" "$machine/ca" 8001
  check_fetched "$machine" "$sum" "${ca[@]}"
  check_not_needed "$machine" "${ca[@]}"
  check_configured "$machine" "$sum" "${ca[@]}"
  remove_machine "$machine"
}

# check_fetched MACHINE SUM VARIABLE...
check_fetched() {
  local machine=$1 sum=$2 ca=("${@:3}")
  check 'install/ca: --dry-run changes nothing when the CA is missing' changes_nothing "$machine" "${ca[@]}" --dry-run
  check 'install/ca: --dry-run announces that the CA would be fetched' prints "$machine" "would fetch PIA's CA certificate"
  check 'install/ca: --dry-run sends no request' received "$machine" ''
  check 'install/ca: an installation succeeds with the right certificate' installs "$machine" "${ca[@]}"
  check 'install/ca: the installer reports that the service needs the checksum, too' \
    prints "$machine" "until PIA_CA_SHA256=$sum is also in /"
  check 'install/ca: the CA is stored where the service looks for it' has_ca "$machine"
  check 'install/ca: the service can read the CA' ca_belongs_to "$machine" pia-sync
  check 'install/ca: the installer reports where the CA is stored' prints "$machine" "PIA's CA is now in /$stored_ca"
  check 'install/ca: the server receives one request' received "$machine" /ca.pem
  check 'install/ca: a second run changes nothing' changes_nothing "$machine" "${ca[@]}"
  check 'install/ca: a second run reports that nothing has changed' prints "$machine" 'nothing has changed'
  check 'install/ca: --dry-run changes nothing when the CA is stored' changes_nothing "$machine" "${ca[@]}" --dry-run
  check 'install/ca: --dry-run does not mention a stored CA' omits "$machine" "PIA's CA"
  check 'install/ca: the server receives no further request' received "$machine" /ca.pem
}

# check_not_needed MACHINE VARIABLE...
check_not_needed() {
  local machine=$1 ca=("${@:2}") config=$1/root/$etc/config.env
  cp "$config" "$machine/config.env"
  rm "$machine/root/$stored_ca"
  printf '%s\n' 'PIA_CA_CERT="/etc/ca.pem"  ' >>"$config"
  check 'install/ca: an installation succeeds when the user configured a CA' installs "$machine" "${ca[@]}"
  check "install/ca: the user's own CA is not supplemented by PIA's" has_no_state "$machine"
  printf '%s\n' PIA_CA_CERT= 'export PORT_SOURCE=gluetun' >>"$config"
  check 'install/ca: an installation succeeds when the port comes from gluetun' installs "$machine" "${ca[@]}"
  check 'install/ca: no CA is stored when the port comes from gluetun' has_no_state "$machine"
  check 'install/ca: the server receives no request for a CA that is not needed' received "$machine" /ca.pem
  cp "$machine/config.env" "$config"
}

# check_configured MACHINE SUM VARIABLE...: the configuration has them, with overridden lines above.
check_configured() {
  local machine=$1 sum=$2 ca=("${@:3}") config=$1/root/$etc/config.env state="/var/lib/my $name"
  printf '%s\n' 'PIA_CA_CERT="/etc/ca.pem"  ' PIA_CA_CERT= 'export PORT_SOURCE=gluetun' "PORT_SOURCE='pia'" "${ca[@]}" \
    "STATE_DIR='$state'" >>"$config"
  check 'install/ca: an installation succeeds when the configuration has address, checksum and state folder' \
    installs "$machine" PIA_CA_URL=
  check 'install/ca: the CA is stored in the configured state folder' eq "$(sum_of_ca "$machine/root$state/ca.rsa.4096.crt")" "$sum"
  check "install/ca: the service's user can read the CA in the configured state folder" \
    eq "$(enter "$machine" stat -c '%a %U' "$state" "$state/ca.rsa.4096.crt")" $'700 pia-sync\n600 pia-sync'
}
