# shellcheck shell=bash
# The simulator in its debug build, and files of images with it. Source it after lib.sh.

# simulator_binary: path of the simulator in the debug build of `cargo build --example simulator`.
simulator_binary() { printf '%s/debug/examples/simulator\n' "${CARGO_TARGET_DIR:-target}"; }

build_simulator() { cargo build --quiet --locked --example simulator; }

# add_busybox FOLDER: busybox as the userland of an image FROM scratch; the image's `start` installs the applets.
add_busybox() {
  install -D /bin/busybox "$1/bin/busybox"
  ln -s busybox "$1/bin/sh"
}

# add_simulator FOLDER: the simulator, with this machine's C library next to it because it is linked dynamically.
add_simulator() {
  local program
  program=$(simulator_binary)
  install -D --strip "$program" "$1/bin/simulator"
  # Without its folder in the path the loader would not find itself.
  ldd "$program" | grep -o '/[^ ]*' | xargs cp --dereference --parents --target-directory="$1"
}
