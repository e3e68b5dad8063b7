"""The names in a manifest against each other, and the manifest against its compose file. Each check yields its problems."""

import os
import re

import yaml
from model import Manifest, data_of, environment

# The schemas accept any text here.
ENUMERATIONS = {
    "restartPolicy": {"Always"},
    "fsGroupChangePolicy": {"OnRootMismatch"},
    "podManagementPolicy": {"Parallel"},
    "publishNotReadyAddresses": {True},
    "accessModes": {"ReadWriteOnce"},
}
SECCOMP = {"type": "RuntimeDefault"}
# Settings of gluetun that compose does not need: Docker's port mapping has its own firewall rule.
FOR_THE_CLUSTER = {"FIREWALL_INPUT_PORTS"}
# Default paths of the account in gluetun.
GLUETUN_SECRETS = ["/run/secrets/openvpn_user", "/run/secrets/openvpn_password"]
HARDENED = {
    "runAsUser": 65532,
    "runAsGroup": 65532,
    "runAsNonRoot": True,
    "readOnlyRootFilesystem": True,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
}
HEALTHCHECK = ["/pia-qbittorrent-sync", "healthcheck"]


def walk(value, key=None):
    """Every scalar, with the closest key above it."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from walk(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from walk(inner, key)
    else:
        yield key, value


def duplicates(names):
    names = list(names)
    return {name for name in names if names.count(name) > 1}


def check_documents(manifest):
    yield from (f"two documents have the name {twice}" for twice in duplicates((d["kind"], d["metadata"]["name"]) for d in manifest.documents))
    (namespace,) = manifest.all("Namespace")
    for document in manifest.documents:
        if document["kind"] != "Namespace" and document["metadata"].get("namespace") != namespace:
            yield f"{document['kind']} {document['metadata']['name']} is not in the namespace {namespace}"
        for key, value in walk(document):
            if key in ENUMERATIONS and value not in ENUMERATIONS[key]:
                yield f"{key}: {value}"


def check_volumes(manifest):
    yield from (f"two containers have the name {twice}" for twice in duplicates(container["name"] for container in manifest.containers))
    yield from (f"two volumes have the name {twice}" for twice in duplicates(volume["name"] for volume in manifest.pod["volumes"]))
    used = {mount["name"] for container in manifest.containers for mount in container["volumeMounts"]}
    yield from (f"a volumeMount's volume {name} does not exist" for name in used - set(manifest.volumes))
    yield from (f"no container mounts the volume {name}" for name in set(manifest.volumes) - used)
    for container in manifest.containers:
        for twice in duplicates(mount["mountPath"] for mount in container["volumeMounts"]):
            yield f"{container['name']}: two mounts at {twice}"


def check_sources(manifest):
    """Each volume and each variable has a source, and each source is used."""
    claims, keys = set(), set()
    for volume in manifest.volumes.values():
        if claim := volume.get("persistentVolumeClaim"):
            claims.add(claim["claimName"])
        for kind, field in (("Secret", "secretName"), ("ConfigMap", "name")):
            source = volume.get(kind[0].lower() + kind[1:])
            if source and source[field] not in manifest.all(kind):
                yield f"volume {volume['name']}: no {kind} {source[field]}"
            elif source:
                every = [{"key": key} for key in data_of(manifest, kind, source[field])]
                keys.update((kind, source[field], item["key"]) for item in source.get("items", every))
            if source and kind == "Secret" and source.get("defaultMode") != 0o440:
                yield f"volume {volume['name']}: its mode is not 0440"
    for container in manifest.containers:
        for variable in container["env"]:
            for field, reference in variable.get("valueFrom", {}).items():
                keys.add((field[0].upper() + field[1:-len("KeyRef")], reference["name"], reference["key"]))
    there = {(kind, name, key) for kind in ("Secret", "ConfigMap") for name in manifest.all(kind) for key in data_of(manifest, kind, name)}
    yield from (f"no {kind} {name} with the key {key}" for kind, name, key in keys - there)
    yield from (f"{kind} {name}: nothing uses the key {key}" for kind, name, key in there - keys)
    yield from (f"no PersistentVolumeClaim {name}" for name in claims - set(manifest.all("PersistentVolumeClaim")))
    yield from (f"nothing uses the PersistentVolumeClaim {name}" for name in set(manifest.all("PersistentVolumeClaim")) - claims)


def check_selectors(manifest):
    labels = manifest.template["metadata"]["labels"]
    services = manifest.all("Service")
    selectors = {"StatefulSet": manifest.set["spec"]["selector"]["matchLabels"]}
    selectors |= {f"Service {name}": service["spec"]["selector"] for name, service in services.items()}
    for name, selector in selectors.items():
        if not selector or not selector.items() <= labels.items():
            yield f"{name} selects {selector}, the pod is {labels}"
    if manifest.set["spec"]["serviceName"] not in services:
        yield f"no Service {manifest.set['spec']['serviceName']}"


def check_ports(manifest):
    """Every port of a Service or a probe is open in gluetun's firewall, and is the one on which qBittorrent listens."""
    ports = {port["name"]: port["containerPort"] for container in manifest.containers for port in container.get("ports", [])}
    wanted = [port["targetPort"] for service in manifest.all("Service").values() for port in service["spec"]["ports"]]
    for container in manifest.containers:
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            for kind in ("httpGet", "tcpSocket", "grpc"):
                if asked := container.get(probe, {}).get(kind):
                    wanted.append(asked["port"])
    qbittorrent, sync = environment(manifest.container("qbittorrent")), environment(manifest.container("sync"))
    open_ports = environment(manifest.container("gluetun")).get("FIREWALL_INPUT_PORTS", "").split(",")
    for port in wanted:
        number = str(ports.get(port, port))
        if not number.isdigit():
            yield f"no container has a port {port}"
        elif number not in open_ports:
            yield f"gluetun's firewall drops packets to port {number}"
        elif number != qbittorrent["WEBUI_PORT"]:
            yield f"the Web UI is on port {qbittorrent['WEBUI_PORT']}, not on {number}"
    if sync["QBITTORRENT_HOST"] != f"http://127.0.0.1:{qbittorrent['WEBUI_PORT']}":
        yield f"the Web UI is not at {sync['QBITTORRENT_HOST']}"


def check_files(manifest):
    """Each file that a setting of a container names is in one of its volumes."""
    for container in manifest.containers:
        paths = [value for name, value in environment(container).items() if name.endswith("_FILE")]
        if environment(container).get("VPN_TYPE") == "openvpn":
            paths += GLUETUN_SECRETS
        files = set()
        for mount in container["volumeMounts"]:
            files |= {f"{mount['mountPath']}/{name}" for name in manifest.content(manifest.volumes[mount["name"]]) or ()}
        yield from (f"{container['name']}: no {path}" for path in paths if path not in files)
    secret = data_of(manifest, "Secret", "pia")
    if "gluetun_api_key" in secret and f'apikey = "{secret["gluetun_api_key"]}"' not in secret["gluetun_auth.toml"]:
        yield "gluetun and the sidecar have different keys"


def check_sidecar(manifest):
    sync = manifest.container("sync")
    if [container["name"] for container in manifest.sidecars] != ["gluetun", "sync"]:
        yield "the order is not gluetun, sidecar, qBittorrent"
    for container in manifest.sidecars:
        if container.get("restartPolicy") != "Always":
            yield f"the pod would wait for {container['name']} to end: no restartPolicy Always"
    if sync["securityContext"] != HARDENED:
        yield f"the sidecar's securityContext is {sync['securityContext']}"
    if manifest.pod["securityContext"]["seccompProfile"] != SECCOMP:
        yield "not the runtime's seccomp profile"
    if str(manifest.pod["securityContext"]["fsGroup"]) != environment(manifest.container("qbittorrent"))["PGID"]:
        yield "the group of the volumes is not that of qBittorrent"
    if sync["readinessProbe"]["exec"]["command"] != HEALTHCHECK:
        yield "the sidecar's readiness probe is not its healthcheck"
    # It would wait for qBittorrent, which the kubelet starts after it.
    if "startupProbe" in sync:
        yield "the sidecar's startup probe keeps qBittorrent from starting"
    for container in manifest.containers:
        if "livenessProbe" in container:
            yield f"{container['name']}: a liveness probe"
    # The sidecar would take QBITTORRENT_PORT for a setting.
    if manifest.pod.get("enableServiceLinks") is not False:
        yield "the variables of the Service are in the environment of the sidecar"


def check_compose(manifest, path):
    """Images, settings and firewall rules match those of the compose file."""
    with open(path, encoding="utf-8") as file:
        services = yaml.safe_load(file)["services"]
    for name, service in services.items():
        container = manifest.container(name)
        theirs = {key: re.sub(r"\$\{\w+:-(.*)\}", r"\1", value) for key, value in service["environment"].items()}
        ours = {key: value for key, value in environment(container).items() if key not in FOR_THE_CLUSTER}
        if ours != theirs:
            yield f"{name}: differs from {path}: {dict(ours.items() ^ theirs.items())}"
        if container["image"] != service["image"]:
            yield f"{name}: {path} has {service['image']}"
    rules = os.path.join(os.path.dirname(path), "wireguard/post-rules.txt")
    for document in manifest.all("ConfigMap").values():
        with open(rules, encoding="utf-8") as file:
            if document["data"] != {"post-rules.txt": file.read()}:
                yield f"not the rules of {rules}"


def problems_of(manifest, compose):
    """Every problem of the manifest at a path, compared with a compose file at a path."""
    manifest = Manifest(manifest)
    problems = [problem for check in (check_documents, check_volumes, check_sources) for problem in check(manifest)]
    # The other checks follow these names, so they need correct ones.
    if not problems:
        checks = (check_selectors, check_ports, check_files, check_sidecar)
        problems = [problem for check in checks for problem in check(manifest)] + list(check_compose(manifest, compose))
    return problems
