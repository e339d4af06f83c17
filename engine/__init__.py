"""The engine: values, bundles, backends, networks, samplers, faces, edits and the `Editor`."""
