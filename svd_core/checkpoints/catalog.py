"""Which checkpoints a server offers: those its operator named, the first being the usual one."""

from dataclasses import dataclass
from pathlib import Path

from svd_core.checkpoints.table import Checkpoint, find_checkpoint
from svd_core.errors import InvalidRequest, InvalidSettings
from svd_core.settings import on_zero_gpu


@dataclass(frozen=True)
class Offer:
    """`stand_in`: makes the videos of those who asked for no checkpoint by name, while the first of
    `checkpoints` cannot be had. Names are unlike each other."""

    checkpoints: tuple[Checkpoint, ...]
    stand_in: Checkpoint | None = None

    @classmethod
    def of(cls, setting: str, cuda: bool) -> "Offer":
        """What `SVD_MODEL` names: one checkpoint as `find_checkpoint` takes it, or several, comma
        separated. Nothing is downloaded.

        Raises what `find_checkpoint` raises, and `InvalidSettings` for several that do not go
        together.
        """
        names = [name.strip() for name in setting.split(",")]
        if len(names) == 1 or Path(setting).expanduser().is_dir():
            return cls((find_checkpoint(setting, cuda),))
        if on_zero_gpu():
            raise InvalidSettings(
                "SVD_MODEL names several checkpoints, but ZeroGPU lends its GPU to one that was "
                "loaded before; name that one only."
            )
        if "auto" in names:
            raise InvalidSettings(
                "SVD_MODEL names auto beside others, but auto is whatever suits this machine; "
                "name that checkpoint itself, or auto alone."
            )
        found = cls(tuple(find_checkpoint(name, cuda) for name in names))
        for name in found.names:
            if found.names.count(name) > 1:
                raise InvalidSettings(
                    f"SVD_MODEL names two checkpoints that are called {name}; leave one out, or "
                    "give its folder another name."
                )
        return found

    @property
    def usual(self) -> Checkpoint:
        """What makes the videos of those who asked for none by name."""
        return self.stand_in or self.checkpoints[0]

    @property
    def names(self) -> tuple[str, ...]:
        """What may be asked for."""
        return tuple(checkpoint.name for checkpoint in self.checkpoints)

    def named(self, name: str | None) -> Checkpoint:
        """What makes a video for which `name` was asked, None: nothing by name.

        Raises `InvalidRequest`. Nothing stands in for what was asked for by name.
        """
        if name is None:
            return self.usual
        for checkpoint in self.checkpoints:
            if checkpoint.name == name:
                return checkpoint
        raise InvalidRequest(
            "model",
            f"This server has no checkpoint {name!r}; it offers {', '.join(self.names)}.",
        )

    def seen(self, checkpoint: Checkpoint) -> "Offer":
        """The same, now that `checkpoint` is loaded and its files have told its dials. Nothing
        stands in for the first one any more if it is that."""
        known = tuple(
            checkpoint if old.source == checkpoint.source else old for old in self.checkpoints
        )
        here = checkpoint.source == self.checkpoints[0].source
        return Offer(known, None if here else self.stand_in)
