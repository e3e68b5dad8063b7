# shellcheck shell=bash
# install.sh while the Python daemon runs: on the machine that .ci/install/booted.sh has booted, where nothing is installed.
# shellcheck source=.ci/install/lib.sh
. .ci/install/lib.sh
# shellcheck source=.ci/install/python-lib.sh
. .ci/install/python-lib.sh
# shellcheck source=.ci/install/service-lib.sh
. .ci/install/service-lib.sh

python_runs() { enter "$1" pgrep -f "^/opt/$name/venv/bin/python" >/dev/null; }

# start_python MACHINE
start_python() {
  local scenario=install/${1##*/}-over-python init
  init=$(cat "$1/init")
  add_python "$1" "$init"
  case $init in
  systemd)
    enter "$1" systemctl daemon-reload
    enter "$1" systemctl --quiet enable "$name"
    ;;
  openrc) enter "$1" rc-update --quiet add "$name" default ;;
  esac
  service "$1" start || fail "$scenario: the Python daemon starts"
  wait_for 5 python_runs "$1" || fail "$scenario: the Python daemon runs"
}

# python_settings MACHINE: the last file of settings that the Python daemon reads.
python_settings() {
  case $(cat "$1/init") in
  systemd) printf 'etc/pia-extra\n' ;;
  openrc) printf '%s\n' "$confd" ;;
  esac
}

# check_over_python MACHINE CONFIGURATION SERVICE_FILE
check_over_python() {
  local machine=$1 scenario=install/${1##*/}-over-python
  make_source "$machine"
  start_python "$machine"
  check "$scenario: --uninstall --purge refuses to touch the Python daemon" \
    leaves_unchanged "$machine" refuses_with "$machine" 1 'was not installed by this script' --uninstall --purge
  check_wrong_settings "$@"

  check "$scenario: --dry-run changes nothing" changes_nothing "$machine" --dry-run
  check "$scenario: --dry-run does not stop the Python daemon" python_runs "$machine"
  check "$scenario: --dry-run does not mention PIA's CA, since there is one" omits "$machine" "PIA's CA"
  check "$scenario: an installation succeeds" installs "$machine"
  check "$scenario: the Python daemon is stopped" refuses python_runs "$machine"
  check "$scenario: the new service runs" wait_for 5 is_running "$machine"
  check "$scenario: the installer does not fetch PIA's CA, since there is one" omits "$machine" "PIA's CA"
  check "$scenario: the new service is enabled" is_enabled "$machine"
  case $(cat "$machine/init") in
  systemd) check_replaced_unit "$machine" "$scenario" ;;
  openrc) check_replaced_confd "$machine" "$scenario" ;;
  esac
  check "$scenario: the installer prints no secret" prints_no_secret "$machine"
  check "$scenario: a second run changes nothing" changes_nothing "$machine"
  check "$scenario: --uninstall succeeds" installs "$machine" --uninstall
  check "$scenario: --uninstall stops the new service" is_stopped "$machine"
  check "$scenario: --uninstall keeps the Python daemon's folder" has_file "$machine" "opt/$name/venv/bin/python"
}

# Settings that the Python daemon accepted.
check_wrong_settings() {
  local machine=$1 scenario=install/${1##*/}-over-python configuration=$2 service_file=$3
  write_bad_setting "$machine" "$(python_settings "$machine")"
  check "$scenario: the installer refuses settings that the new service would not start with" \
    refuses_with "$machine" 1 'CHECK_INTERVAL=never'
  check "$scenario: wrong settings leave the Python daemon running" python_runs "$machine"
  check "$scenario: wrong settings leave the Python daemon's service file in place" \
    grep -q "opt/$name" "$machine/root/$service_file"
  # What was taken over by then is the user's to correct.
  case $(cat "$machine/init") in
  systemd) sed -i 's/never/250/' "$machine/root/$configuration" ;;
  openrc) sed -i '/never/d' "$machine/root/$configuration" ;;
  esac
}
