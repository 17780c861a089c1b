"""Error tree: every error a user can see, with its code, its values and its HTTP status.

The module that imports a library translates its exceptions into these. `locales` has the codes and
their sentences, in one table for each class.

    SvdError                     500  anything below; never raised itself
    ├── InvalidRequest           422  a field of the request is wrong
    │   ├── InvalidImage         422  the picture cannot be used
    │   ├── InvalidUrl           422  an address that this server does not call
    │   │   └── Unreachable      422  an address without a usable response
    │   └── InvalidRecipe        422  a video has no recipe, or an unusable one
    ├── InvalidSettings          500  an SVD_ variable is wrong; stops the start
    ├── ModelUnavailable         503  the checkpoint is not available now
    │   ├── ModelGated           503  the licence is not accepted, or the token is refused
    │   ├── ModelUnreachable     503  the hub, the network or the cache does not work
    │   └── ModelBroken          503  a file is missing or damaged
    ├── OutOfMemory              503  the device is too small even for the smallest memory plan
    ├── DeviceUnavailable        503  the GPU or its driver does not respond
    │   └── DeviceLost           503  the GPU failed while it worked; only a new process can use it
    ├── GenerationFailed         500  no usable video (NaN, encoder failure)
    ├── StorageFull              507  no room left for the result
    ├── QueueFull                429  too many jobs are waiting
    ├── TooManyWatchers          429  newer watchers took this one's place
    ├── StartTimeout             504  the job waited longer than its submitter allowed
    ├── ServerStopping           503  the server is shutting down
    ├── ServerBusy               503  no memory, descriptor or disk space for the moment
    ├── QueueUnavailable         503  the job table cannot be reached
    ├── UnknownJob               404  no job or result of that id
    ├── Cancelled                499  the user cancelled the job
    └── ToolFailed               500  a benchmark or the training cannot go on
"""

import copyreg
import errno
import re
from typing import Any

from svd_core.messages import Message, Value

PASSING = frozenset(
    {
        errno.EAGAIN, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOBUFS,
        errno.ENOMEM, errno.ENOSPC,
    }
)  # fmt: skip
"""Error numbers of a machine that is short of a resource for the moment."""


class SvdError(Exception):
    """Base of the tree. `str(error)` says in English what happened and what to do.

    `code`: stable name for programs. `message`: a `Message`; plain text if another version stored
    it. Then `code` may be unknown here, or that of the class.
    """

    status = 500
    passing = False
    """Whether the same request is likely to succeed a little later, without any change."""

    code = "svd_error"

    def __init_subclass__(cls) -> None:
        cls.code = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", cls.__name__).lower()

    def __init__(self, message: str, /, **values: Value) -> None:
        """`message`: a code of this class with its values, or a `Message`."""
        self.message = message if isinstance(message, Message) else Message(message, **values)
        self.code = self.message.code
        super().__init__(self.message)

    def __reduce__(self) -> tuple[Any, ...]:
        """Unpickle without the constructor, which needs more than `args`."""
        return copyreg.__newobj__, (type(self), *self.args), vars(self)  # type: ignore[attr-defined]


class InvalidRequest(SvdError):
    """`field`: name of the wrong parameter, e.g. `motion_bucket_id`."""

    status = 422
    field = ""

    def __init__(self, message: str, /, **values: Value) -> None:
        super().__init__(message, **values)
        self.field = str(values.get("field", self.field))


class InvalidImage(InvalidRequest):
    field = "image"


class InvalidUrl(InvalidRequest):
    field = "image"


class Unreachable(InvalidUrl):
    pass


class InvalidRecipe(InvalidRequest):
    field = "recipe"


class InvalidSettings(SvdError):
    pass


class ModelUnavailable(SvdError):
    status = 503


class ModelGated(ModelUnavailable):
    pass


class ModelUnreachable(ModelUnavailable):
    pass


class ModelBroken(ModelUnavailable):
    pass


class OutOfMemory(SvdError):
    status = 503


class DeviceUnavailable(SvdError):
    status = 503


class DeviceLost(DeviceUnavailable):
    pass


class GenerationFailed(SvdError):
    pass


class StorageFull(SvdError):
    status = 507
    passing = True


class QueueFull(SvdError):
    status = 429


class TooManyWatchers(SvdError):
    status = 429


class StartTimeout(SvdError):
    status = 504


class ServerStopping(SvdError):
    status = 503


class ServerBusy(SvdError):
    """A fault that passes by itself. A job that meets it is retried."""

    status = 503
    passing = True


class QueueUnavailable(SvdError):
    status = 503
    passing = True


class UnknownJob(SvdError):
    status = 404


class Cancelled(SvdError):
    status = 499

    def __init__(self, message: str = "cancelled", /, **values: Value) -> None:
        super().__init__(message, **values)


class ToolFailed(SvdError):
    """For developers: a plain English sentence without a code of its own."""

    def __init__(self, sentence: str) -> None:
        super().__init__("tool_failed", reason=sentence)


def subclasses_of(kind: type[SvdError]) -> list[type[SvdError]]:
    return [kind] + [deeper for child in kind.__subclasses__() for deeper in subclasses_of(child)]


def busy_if_passing(error: BaseException) -> ServerBusy | None:
    """`ServerBusy` if `error` or one of its causes is a passing fault of the machine."""
    cause: BaseException | None = error
    for _ in range(20):  # a chain may be a circle
        if cause is None:
            break
        short = isinstance(cause, OSError) and cause.errno in PASSING
        if short or isinstance(cause, MemoryError) or "can't start new thread" in str(cause):
            return ServerBusy("server_busy")
        cause = cause.__cause__ or cause.__context__
    return None
