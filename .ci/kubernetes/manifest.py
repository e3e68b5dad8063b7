"""Questions of .ci/test-kubernetes about a manifest.

usage: manifest.py names MANIFEST COMPOSE          checks the names against each other; prints a line for each problem
       manifest.py variables MANIFEST HELP         checks that the text of `--help` has each variable of the sidecar
       manifest.py probe MANIFEST CONTAINER NAME   prints the command of its NAMEProbe, a word a line; nothing without one
       manifest.py derive MANIFEST FOLDER IMAGE CONTAINER:NAME=VALUE...
                                                   writes FOLDER/pod.yaml for `podman kube play`, with these variables in
                                                   addition, and prints the claims; NAME in IMAGE is a container's name
"""

import re
import sys

from derive import derive
from model import Manifest, environment
from names import problems_of


def names(manifest, compose):
    sys.exit("\n".join(problems_of(manifest, compose)) or None)


def variables(manifest, help_text):
    with open(help_text, encoding="utf-8") as file:
        known = set(re.findall(r"^  ([A-Z][A-Z0-9_]+)\b", file.read(), re.MULTILINE))
    unknown = set(environment(Manifest(manifest).container("sync"))) - known
    sys.exit(f"--help does not know {', '.join(sorted(unknown))}" if unknown else None)


def probe(manifest, container, name):
    found = Manifest(manifest).container(container).get(name + "Probe", {})
    for word in found.get("exec", {}).get("command", []):
        print(word)


def main():
    commands = {"names": names, "variables": variables, "probe": probe, "derive": derive}
    commands[sys.argv[1]](*sys.argv[2:])


main()
