"""A pod that podman 4.3 can play, made from a manifest."""

import os

import yaml
from model import Manifest


def derive(manifest, folder, image, *settings):
    """Writes FOLDER/pod.yaml and prints the claims. Parts that are not mentioned here stay as they are in the manifest.

    Sidecars become ordinary containers, because podman waits for every init container to end. Two tasks of the kubelet
    are done here: Secrets and ConfigMaps become folders (podman would mount the base64 text), and the pod's fsGroup
    becomes a supplemental group (podman does not support it; the caller sets the volume's owner).
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
        # For the kubelet these are information only; podman would publish the ports on this machine.
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
