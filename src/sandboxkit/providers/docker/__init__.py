"""The Docker backend: hardened containers on a local or remote engine.

docker-py is imported when an engine is first needed, not before.
"""

from sandboxkit.providers.docker.provider import DockerProvider

__all__ = ["DockerProvider"]
