"""A manifest of contrib/kubernetes and its parts."""

import yaml


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
        """Files of a volume that comes from a Secret or a ConfigMap, with their text; None for any other volume."""
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


def data_of(manifest, kind, name):
    document = manifest.all(kind)[name]
    return document["stringData" if kind == "Secret" else "data"]
