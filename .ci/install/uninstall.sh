# shellcheck shell=bash
# --uninstall and --purge, without an init system.
# shellcheck source=.ci/install/lib.sh
. .ci/install/lib.sh

test_uninstall() {
  local machine=$1/uninstall
  make_machine "$machine"
  installs "$machine" || fail 'install/uninstall: a first installation succeeds'
  # So that there is an edited configuration, and a new template next to it.
  printf '# mine\n' >>"$machine/root/$etc/config.env"
  change_templates "$machine"
  installs "$machine" || fail 'install/uninstall: an upgrade succeeds'

  check 'install/uninstall: --uninstall --purge --dry-run changes nothing' changes_nothing "$machine" --uninstall --purge --dry-run
  check 'install/uninstall: --uninstall succeeds' installs "$machine" --uninstall
  check 'install/uninstall: --uninstall removes the binary' has_no "$machine" "$installed"
  check 'install/uninstall: --uninstall removes the templates' has_no "$machine" "usr/local/share/$name"
  check 'install/uninstall: --uninstall keeps the configuration' grep -q mine "$machine/root/$etc/config.env"
  check 'install/uninstall: --uninstall keeps the state' has_file "$machine" "var/lib/$name"
  check 'install/uninstall: a second --uninstall succeeds' installs "$machine" --uninstall
  check_live_process "$machine"
  check 'install/uninstall: --uninstall --purge succeeds' installs "$machine" --uninstall --purge
  check 'install/uninstall: --purge removes every file of ours' is_gone "$machine"
  check "install/uninstall: --purge removes the service's user and group" \
    refuses grep -q pia-sync "$machine/root/etc/passwd" "$machine/root/etc/group"
  remove_machine "$machine"
}

# A process of the service's user outlives the service, and swaps a folder for a link to one of root's while --purge removes its files.
check_live_process() {
  local machine=$1 victim=$1/root/srv/victim swapper
  mkdir -p "$victim"
  (cd "$victim" && seq 2000 | xargs touch)
  python3 - "$machine/root/var/lib/$name" "$(enter "$machine" id -u pia-sync)" >"$machine/swapper" 2>&1 <<'PYTHON' &
import ctypes, os, sys

os.chdir(sys.argv[1])
os.setgroups([])
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[2]))
os.mkdir("folder")
for i in range(2000):
    open(f"folder/{i + 1}", "w").close()
libc = ctypes.CDLL(None)
swaps = 0
while True:
    try:
        os.symlink("/srv/victim", "link")
    except OSError:
        pass
    for _ in range(100):
        libc.renameat2(-100, b"folder", -100, b"link", 2)
    if swaps == 0:
        print("swaps", flush=True)
    swaps += 1
PYTHON
  swapper=$!
  wait_for 10 grep -q swaps "$machine/swapper"
  run_script "$machine" /src/install.sh --uninstall --purge
  check "install/uninstall: --purge removes nothing through a link that a process of the service's user swaps in" \
    eq "$(find "$victim" -type f | wc -l)" 2000
  end_process "$swapper"
  rm -r "$victim"
  installs "$machine" || fail 'install/uninstall: an installation after a disturbed --purge succeeds'
}
