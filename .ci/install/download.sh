# shellcheck shell=bash
# The binary from a URL that the user gives with its checksum. busybox's wget fetches it.
# shellcheck source=.ci/install/lib.sh
. .ci/install/lib.sh

test_download() {
  local machine=$1/download url=http://127.0.0.1:8000/$name sum wrong
  make_machine "$machine"
  installs "$machine" || fail 'install/download: a first installation succeeds'
  mkdir "$machine/root/srv"
  mv "$machine/root/src/$name" "$machine/root/srv/$name"
  printf 'x' >>"$machine/root/srv/$name"
  sum=$(sha256sum <"$machine/root/srv/$name")
  sum=${sum%% *}
  wrong=${sum//[0-9]/0}
  serve "$machine" "$machine/root/srv" 8000

  check 'install/download: a wrong checksum is an error that names the URL' \
    refuses_with "$machine" 1 "wrong SHA-256 of $url; nothing was installed" --url "$url" --sha256 "$wrong"
  check 'install/download: a wrong checksum changes nothing' \
    leaves_unchanged "$machine" refuses_with "$machine" 1 wrong --url "$url" --sha256 "$wrong"
  check 'install/download: a URL without a checksum is a usage error' \
    refuses_with "$machine" 64 '--url needs the --sha256' --url "https://127.0.0.1:8000/$name"
  check 'install/download: a missing file is an error' \
    refuses_with "$machine" 1 'cannot download' --url http://127.0.0.1:8000/x --sha256 "$sum"
  check 'install/download: an installation with the right checksum succeeds' installs "$machine" --url "$url" --sha256="${sum^^}"
  check 'install/download: the downloaded binary is installed' has_copy "$machine" "$installed" "$machine/root/srv/$name"
  remove_machine "$machine"
}
