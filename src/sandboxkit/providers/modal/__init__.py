"""The Modal backend: sandboxes in gVisor, billed by the second.

Modal's SDK is imported when it is first needed, not before. (In this package,
`import modal` is the SDK: imports are absolute.)
"""

from sandboxkit.providers.modal.provider import ModalProvider

__all__ = ["ModalProvider"]
