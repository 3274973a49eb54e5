from collections.abc import Callable
from typing import final

@final
class Lane:
    """One answer's way. What epoll tells of the engine's socket is served in ``Express.run``."""

    @property
    def came(self) -> int:
        """How many events have passed since they were last taken."""

    def arm(self, begin: bytes, end: bytes, /) -> None:
        """What comes next begins a chunk; a usual event begins and ends so, the line end behind the chunk included.

        Anything else that comes is given to ``received``, and so is all that follows until the lane is armed again.
        Where the two are longer than 512 bytes together, nothing is usual.
        """

    def take(self) -> tuple[list[float], bool]:
        """When events passed, by ``time.monotonic``, and whether some came in one read; they are forgotten."""

    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def close(self) -> None:
        """None of the functions is called any more. What has passed can be taken still."""

@final
class Express:
    def fileno(self) -> int:
        """Readable where ``run`` is to be called."""

    def run(self) -> None:
        """Serve what has come, of 64 lanes at most. Doesn't wait."""

    def open(
        self,
        engine: int,
        client: int,
        received: Callable[[bytes], object],
        over: Callable[[], object],
        write: Callable[[bytes], object],
        left: Callable[[], int],
        /,
    ) -> Lane:
        """A lane between two sockets.

        Args:
            received: gets what is not usual.
            over: told that the engine's socket has an end or an error, for somebody else to read.
            write: the client's transport; it gets what its socket doesn't take at once.
            left: how many bytes the transport holds; never 0 once it may have lost some.

        Raises:
            OSError: a socket is closed, or there are too many.
        """
