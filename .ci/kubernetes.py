"""What .ci/test-kubernetes asks of a manifest, and what it makes of one.

usage: kubernetes.py names MANIFEST COMPOSE          what is said of each other's names holds; a line for each that does not
       kubernetes.py variables MANIFEST HELP         the sidecar's variables are in the text of `--help`
       kubernetes.py probe MANIFEST CONTAINER NAME   the command of its NAMEProbe, a word a line; nothing if there is none
       kubernetes.py derive MANIFEST FOLDER IMAGE NAME=VALUE...
                                                     FOLDER/pod.yaml for `podman kube play`
"""

import os
import re
import sys

import yaml

# Whatever else stands there, the schemas take it.
ENUMERATIONS = {
    "restartPolicy": {"Always"},
    "fsGroupChangePolicy": {"OnRootMismatch"},
    "podManagementPolicy": {"Parallel"},
    "publishNotReadyAddresses": {True},
    "accessModes": {"ReadWriteOnce"},
}
SECCOMP = {"type": "RuntimeDefault"}
# Of gluetun's own: what compose has no use for, because Docker's port mapping has a rule of its own.
FOR_THE_CLUSTER = {"FIREWALL_INPUT_PORTS"}
# Where gluetun looks for the account when nothing is said.
GLUETUNS_SECRETS = ["/run/secrets/openvpn_user", "/run/secrets/openvpn_password"]
HARDENED = {
    "runAsUser": 65532,
    "runAsGroup": 65532,
    "runAsNonRoot": True,
    "readOnlyRootFilesystem": True,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
}
HEALTHCHECK = ["/pia-qbittorrent-sync", "healthcheck"]


class Manifest:
    def __init__(self, path):
        with open(path, encoding="utf-8") as file:
            self.documents = [document for document in yaml.safe_load_all(file) if document]
        self.set = self.only("StatefulSet")
        self.template = self.set["spec"]["template"]
        self.pod = self.template["spec"]
        self.sidecars = self.pod["initContainers"]
        self.containers = self.sidecars + self.pod["containers"]
        self.volumes = {volume["name"]: volume for volume in self.pod["volumes"]}

    def all(self, kind):
        return {document["metadata"]["name"]: document for document in self.documents if document["kind"] == kind}

    def only(self, kind):
        (document,) = self.all(kind).values()
        return document

    def container(self, name):
        (container,) = [container for container in self.containers if container["name"] == name]
        return container

    def content(self, volume):
        """The files of a volume that is made of a Secret or a ConfigMap, with their text; None for another one."""
        if source := volume.get("secret"):
            data = self.all("Secret")[source["secretName"]]["stringData"]
        elif source := volume.get("configMap"):
            data = self.all("ConfigMap")[source["name"]]["data"]
        else:
            return None
        items = source.get("items", [{"key": key, "path": key} for key in data])
        return {item["path"]: data[item["key"]] for item in items}


def environment(container):
    return {variable["name"]: variable["value"] for variable in container["env"]}


def walk(value, key=None):
    """Every scalar, with the last key above it."""
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
    yield from (f"two documents are {twice}" for twice in duplicates((d["kind"], d["metadata"]["name"]) for d in manifest.documents))
    (namespace,) = manifest.all("Namespace")
    for document in manifest.documents:
        if document["kind"] != "Namespace" and document["metadata"].get("namespace") != namespace:
            yield f"{document['kind']} {document['metadata']['name']} is not in the namespace {namespace}"
        for key, value in walk(document):
            if key in ENUMERATIONS and value not in ENUMERATIONS[key]:
                yield f"{key}: {value}"


def check_volumes(manifest):
    yield from (f"two containers are {twice}" for twice in duplicates(container["name"] for container in manifest.containers))
    yield from (f"two volumes are {twice}" for twice in duplicates(volume["name"] for volume in manifest.pod["volumes"]))
    used = {mount["name"] for container in manifest.containers for mount in container["volumeMounts"]}
    yield from (f"a volumeMount's volume {name} is none" for name in used - set(manifest.volumes))
    yield from (f"nobody mounts the volume {name}" for name in set(manifest.volumes) - used)
    for container in manifest.containers:
        for twice in duplicates(mount["mountPath"] for mount in container["volumeMounts"]):
            yield f"{container['name']}: two mounts at {twice}"


def check_sources(manifest):
    """That each volume, and each variable, has where it comes from; and that all there is goes somewhere."""
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
    yield from (f"{kind} {name}: nobody uses the key {key}" for kind, name, key in there - keys)
    yield from (f"no PersistentVolumeClaim {name}" for name in claims - set(manifest.all("PersistentVolumeClaim")))
    yield from (f"nobody uses the PersistentVolumeClaim {name}" for name in set(manifest.all("PersistentVolumeClaim")) - claims)


def data_of(manifest, kind, name):
    document = manifest.all(kind)[name]
    return document["stringData" if kind == "Secret" else "data"]


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
    """Whatever comes in from the cluster is let in by gluetun, and is where qBittorrent listens."""
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
            yield f"gluetun's firewall drops what comes in on port {number}"
        elif number != qbittorrent["WEBUI_PORT"]:
            yield f"the Web UI is on port {qbittorrent['WEBUI_PORT']}, not on {number}"
    if sync["QBITTORRENT_HOST"] != f"http://127.0.0.1:{qbittorrent['WEBUI_PORT']}":
        yield f"the Web UI is not at {sync['QBITTORRENT_HOST']}"


def check_files(manifest):
    """Each file that a container is told of is in one of its volumes."""
    for container in manifest.containers:
        told = [value for name, value in environment(container).items() if name.endswith("_FILE")]
        if environment(container).get("VPN_TYPE") == "openvpn":
            told += GLUETUNS_SECRETS
        files = set()
        for mount in container["volumeMounts"]:
            files |= {f"{mount['mountPath']}/{name}" for name in manifest.content(manifest.volumes[mount["name"]]) or ()}
        yield from (f"{container['name']}: no {path}" for path in told if path not in files)
    secret = data_of(manifest, "Secret", "pia")
    if "gluetun_api_key" in secret and f'apikey = "{secret["gluetun_api_key"]}"' not in secret["gluetun_auth.toml"]:
        yield "gluetun has another key than the sidecar"


def check_sidecar(manifest):
    sync = manifest.container("sync")
    if [container["name"] for container in manifest.sidecars] != ["gluetun", "sync"]:
        yield "not gluetun first, then the sidecar, then qBittorrent"
    for container in manifest.sidecars:
        if container.get("restartPolicy") != "Always":
            yield f"{container['name']} is waited for to end: no restartPolicy Always"
    if sync["securityContext"] != HARDENED:
        yield f"the sidecar's securityContext is {sync['securityContext']}"
    if manifest.pod["securityContext"]["seccompProfile"] != SECCOMP:
        yield "not the runtime's seccomp profile"
    if str(manifest.pod["securityContext"]["fsGroup"]) != environment(manifest.container("qbittorrent"))["PGID"]:
        yield "the volumes have another group than qBittorrent"
    if sync["readinessProbe"]["exec"]["command"] != HEALTHCHECK:
        yield "the sidecar's readiness is not what its healthcheck says"
    # Of a sidecar: it would wait for qBittorrent, which waits for it.
    if "startupProbe" in sync:
        yield "the sidecar's startup probe keeps qBittorrent from being started"
    for container in manifest.containers:
        if "livenessProbe" in container:
            yield f"{container['name']}: a liveness probe"
    # QBITTORRENT_PORT and the like are not the sidecar's.
    if manifest.pod.get("enableServiceLinks") is not False:
        yield "the Service's variables are in the sidecar's environment"


def check_compose(manifest, path):
    """The same images, settings and firewall rules as with compose."""
    with open(path, encoding="utf-8") as file:
        services = yaml.safe_load(file)["services"]
    for name, service in services.items():
        container = manifest.container(name)
        theirs = {key: re.sub(r"\$\{\w+:-(.*)\}", r"\1", value) for key, value in service["environment"].items()}
        ours = {key: value for key, value in environment(container).items() if key not in FOR_THE_CLUSTER}
        if ours != theirs:
            yield f"{name}: not as in {path}: {dict(ours.items() ^ theirs.items())}"
        if container["image"] != service["image"]:
            yield f"{name}: {path} has {service['image']}"
    rules = os.path.join(os.path.dirname(path), "wireguard/post-rules.txt")
    for document in manifest.all("ConfigMap").values():
        with open(rules, encoding="utf-8") as file:
            if document["data"] != {"post-rules.txt": file.read()}:
                yield f"not the rules of {rules}"


def names(manifest, compose):
    manifest = Manifest(manifest)
    problems = [problem for check in (check_documents, check_volumes, check_sources) for problem in check(manifest)]
    # What comes now follows these names.
    if not problems:
        checks = (check_selectors, check_ports, check_files, check_sidecar)
        problems = [problem for check in checks for problem in check(manifest)] + list(check_compose(manifest, compose))
    sys.exit("\n".join(problems) or None)


def variables(manifest, help_text):
    with open(help_text, encoding="utf-8") as file:
        known = set(re.findall(r"^  ([A-Z][A-Z0-9_]+)\b", file.read(), re.MULTILINE))
    unknown = set(environment(Manifest(manifest).container("sync"))) - known
    sys.exit(f"--help does not know {', '.join(sorted(unknown))}" if unknown else None)


def probe(manifest, container, name):
    found = Manifest(manifest).container(container).get(name + "Probe", {})
    for word in found.get("exec", {}).get("command", []):
        print(word)


def derive(manifest, folder, image, *settings):
    """The pod as podman 4.3 can play it. Whatever else the manifest says is left as it is.

    Sidecars become ordinary containers, because podman waits for every init container to end. The kubelet's part is done here:
    secrets and configMaps become folders (podman would mount the base64 text), and the pod's fsGroup, which podman does not know,
    a supplemental group; the volume's owner is the caller's to set.
    """
    manifest = Manifest(manifest)
    pod = manifest.pod
    group = pod["securityContext"].pop("fsGroup")
    pod["securityContext"]["supplementalGroups"] = [group]
    pod["containers"] = manifest.containers
    del pod["initContainers"]
    for container in pod["containers"]:
        container.pop("restartPolicy", None)
        container.pop("startupProbe", None)
        # Those that the container has, to the kubelet; podman would publish them on this machine.
        container.pop("ports", None)
        container["image"] = image.replace("NAME", container["name"])
        added = [setting.split(":", 1)[1].split("=", 1) for setting in settings if setting.startswith(container["name"] + ":")]
        container["env"] += [{"name": name, "value": value} for name, value in added]
    for volume in pod["volumes"]:
        content = manifest.content(volume)
        if content is None:
            continue
        path = os.path.join(folder, "volumes", volume["name"])
        os.makedirs(path, exist_ok=True)
        mode = volume.get("secret", {}).get("defaultMode", 0o644)
        for name, text in content.items():
            file = os.path.join(path, name)
            with open(file, "w", encoding="utf-8") as target:
                target.write(text)
            os.chown(file, 0, group)
            os.chmod(file, mode)
        for kind in ("secret", "configMap"):
            volume.pop(kind, None)
        volume["hostPath"] = {"path": path, "type": "Directory"}
    claims = list(manifest.all("PersistentVolumeClaim"))
    with open(os.path.join(folder, "pod.yaml"), "w", encoding="utf-8") as file:
        metadata = {"name": manifest.set["metadata"]["name"], "labels": manifest.template["metadata"]["labels"]}
        yaml.safe_dump({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod}, file, sort_keys=False)
    print("\n".join(claims))


def main():
    commands = {"names": names, "variables": variables, "probe": probe, "derive": derive}
    commands[sys.argv[1]](*sys.argv[2:])


main()
