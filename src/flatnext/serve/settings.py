"""The settings of the service: where it listens, who may ask, and how much at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address

from flatnext.config.setting import Settings, require, setting

COVERAGE = 0.95
"""The coverage of the sets where none is asked for, and the model was calibrated for it."""


@dataclass(frozen=True, kw_only=True)
class ServeSettings(Settings):
    """What `flatnext serve` is told; every field but the token is a flag. `InputError` for a value out of range.

    `token`: what a request must carry in the header `Authorization: Bearer TOKEN`; None: nothing.
    """

    host: str = setting("127.0.0.1", "address to listen on; 0.0.0.0 is every address of the machine")
    port: int = setting(8000, "port to listen on; 0 takes a free one", at_least=0, at_most=65535)
    threads: int | None = setting(None, "threads that compute a batch (default: one for each core)", at_least=1)
    max_bytes: int = setting(20_000_000, "largest body of a request", at_least=1)
    max_pixels: int = setting(50_000_000, "largest image", at_least=1)
    max_images: int = setting(100, "most images in a request", at_least=1)
    timeout: float = setting(30.0, "seconds that a request may take, its upload included", above=0)
    coverage: float | None = setting(
        None, f"coverage of the sets with a guarantee (default: {COVERAGE}, where the model was calibrated for it)"
    )
    threshold: float | None = setting(
        None, "least probability of an answer; below it the answer is none of the classes", at_least=0, at_most=1
    )
    token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Check the ranges and the token."""
        super().__post_init__()
        require(bool(self.host), "host is empty: give an address, such as 127.0.0.1")
        usable = self.token is None or (self.token.isascii() and self.token.isprintable() and bool(self.token.strip()))
        require(usable and " " not in (self.token or ""), "the token must be printable ASCII without spaces, not empty")

    @property
    def loopback(self) -> bool:
        """Return whether the service can be reached from this machine alone."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"
