"""What lies on a disk: artifacts, the manifests beside them, what files say of themselves, and the sources they come from."""
