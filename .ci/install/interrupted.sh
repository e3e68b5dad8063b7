# shellcheck shell=bash
# install.sh over the Python daemon, killed before each of its changes in turn and then run again: the end is that of a
# run without an interruption. With busybox for OpenRC; for systemd with dash and the GNU tools. Neither is booted.
# shellcheck source=.ci/install/lib.sh
. .ci/install/lib.sh
# shellcheck source=.ci/install/python-lib.sh
. .ci/install/python-lib.sh
# shellcheck source=.ci/install/trust-lib.sh
. .ci/install/trust-lib.sh

test_interrupted() {
  make_machine "$1/interrupted-openrc"
  check_interrupted "$1/interrupted-openrc" openrc "etc/runlevels/default/$name"
  make_systemd_machine "$1/interrupted-systemd"
  check_interrupted "$1/interrupted-systemd" systemd "etc/systemd/system/multi-user.target.wants/$name.service"
}

# check_interrupted MACHINE INIT LINK: LINK is there when the service is enabled.
check_interrupted() {
  local machine=$1 scenario=install/${1##*/} init=$2 link=$3 steps
  make_ca "$machine"
  mkdir "$machine/accounts"
  cp "$machine"/root/etc/{passwd,group,shadow} "$machine/accounts/"
  # The same as in install/trust, here with this machine's programs.
  check_without_release "$machine"
  add_shims "$machine"
  reset_machine "$machine" "$init"
  check_dry_run "$machine" "$init"

  interrupt "$machine" 0 KILL --init "$init"
  has_status "$machine" 0 || fail "$scenario: a run without an interruption succeeds"
  steps=$(wc -c <"$machine/root/shim/count")
  check "$scenario: a run without an interruption makes more than 12 changes" test "$steps" -gt 12
  contents "$machine" >"$machine/wanted"
  check "$scenario: the installer prints no secret" prints_no_secret "$machine"
  check "$scenario: no command line contains a secret" \
    refuses grep -qE '50%|old .*password|web-password' "$machine/root/shim/calls"
  check "$scenario: the service is enabled" has_file "$machine" "$link"
  check_each_step "$machine" "$init" "$link" "$steps"

  reset_machine "$machine" "$init"
  interrupt "$machine" $((steps / 2)) TERM --init "$init"
  check "$scenario: SIGTERM ends the installer" has_status "$machine" 143
  check "$scenario: the interrupted installer prints what to do" prints "$machine" 'interrupted; run it again'
  check "$scenario: the interrupted installer leaves no temporary files" \
    eq "$(temporary_files "$machine" | grep -v unfinished)" ''
  remove_machine "$machine"
}

check_dry_run() {
  local machine=$1 scenario=install/${1##*/}
  check "$scenario: --dry-run over the Python daemon changes nothing" changes_nothing "$machine" --init "$2" --dry-run
  check "$scenario: --dry-run does not mention PIA's CA, since there is one" omits "$machine" "PIA's CA"
  if [ "$2" = systemd ]; then
    check "$scenario: --dry-run lists the old unit's gateway among the settings to be kept" prints "$machine" ' PIA_GATEWAY'
    sed -i 's/PIA_GATEWAY=127.0.0.1:9/PIA_GATEWAY=10.0.0.1/' "$machine/root/$unit"
    installs "$machine" --init "$2" --dry-run
    check "$scenario: --dry-run drops the old default gateway, which would prevent the search for one" omits "$machine" PIA_GATEWAY
    reset_machine "$@"
  fi
}

# check_each_step MACHINE INIT LINK STEPS
check_each_step() {
  local machine=$1 scenario=install/${1##*/} init=$2 link=$3 steps=$4 step
  for ((step = 1; step <= steps; step++)); do
    reset_machine "$machine" "$init"
    interrupt "$machine" "$step" KILL --init "$init"
    eq "$(cat "$machine/status")" 137 || fail "$scenario: SIGKILL ends the installer at change $step of $steps"
    run_script "$machine" /src/install.sh --init "$init"
    rm -rf "$machine/root/tmp/$name".*
    contents "$machine" >"$machine/got"
    diff "$machine/wanted" "$machine/got" || {
      cat "$machine/output"
      fail "$scenario: a run after SIGKILL at change $step of $steps completes the installation"
    }
    has_file "$machine" "$link" || {
      cat "$machine/output"
      fail "$scenario: a run after SIGKILL at change $step of $steps enables the service"
    }
  done
  ok "$scenario: a run after SIGKILL at each of $steps changes completes the installation"
}

# Files of ours, by content.
contents() {
  (
    cd "$1/root"
    find etc usr/local var/lib tmp -path '*pia*' -printf '%p %y %m %U:%G %l\n' | sort
    find etc usr/local var/lib tmp -path '*pia*' -type f -print0 | sort -z | xargs -0r sha256sum
    grep -h '^pia-sync:' etc/passwd etc/group
  ) || true
}

# add_shims MACHINE: every command of the root is recorded, and one that changes something can end the installer instead.
add_shims() {
  local root=$1/root program
  mkdir -p "$root/shim/bin"
  cat >"$root/shim/run" <<'SHIM'
#!/bin/sh
PATH=${PATH#/shim/bin:}
name=${0##*/}
printf '%s\n' "$name $*" >>/shim/calls
case $name in
mv | mkdir | cp | useradd | groupadd | adduser | addgroup | systemctl | rc-update)
  printf '.' >>/shim/count
  read -r wanted </shim/wanted
  read -r count </shim/count || :
  if [ "${#count}" = "$wanted" ]; then
    read -r signal </shim/signal
    read -r pid </shim/pid
    kill -s "$signal" "$pid"
    [ "$signal" != KILL ] || exit 1
  fi
  ;;
esac
exec "$name" "$@"
SHIM
  chmod 755 "$root/shim/run"
  for program in "$root"/{usr/bin,usr/sbin}/*; do ln -sf ../run "$root/shim/bin/${program##*/}"; done
}

# interrupt MACHINE CHANGE SIGNAL OPTION...: ends install.sh with that signal before that change; 0 is none of them.
interrupt() {
  local machine=$1 shim=$1/root/shim status=0
  printf '%s\n' "$2" >"$shim/wanted"
  printf '%s\n' "$3" >"$shim/signal"
  : >"$shim/calls"
  : >"$shim/count"
  enter "$machine" env PATH="/shim/bin:$path" /bin/sh -c 'echo $$ >/shim/pid; exec /bin/sh /src/install.sh "$@"' sh "${@:4}" \
    >"$machine/output" 2>&1 || status=$?
  printf '%d\n' "$status" >"$machine/status"
}

# reset_machine MACHINE INIT: only the Python daemon is installed.
reset_machine() {
  local root=$1/root
  (cd "$root" && find etc usr/local var/lib var/log tmp opt -path '*pia[-_]*' -prune -exec rm -rf {} +)
  # Each run makes this folder; otherwise there would be one change less.
  rm -rf "$root/usr/local/share/man"
  cp "$1"/accounts/* "$root/etc/"
  add_python "$@"
}
